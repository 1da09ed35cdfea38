import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("feedback", "0011_rating_of_rater_now"), ("registry", "0003_source")]

    operations = [
        migrations.CreateModel(
            name="SampleScore",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("score", models.FloatField()),
                (
                    "uncertainty",
                    models.FloatField(
                        help_text="standard deviation between the members of the reward model; "
                        "null where it is no ensemble",
                        null=True,
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "reward_model",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="scores", to="registry.checkpoint"
                    ),
                ),
                (
                    "sample",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="scores",
                        to="feedback.sample",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("sample", "reward_model"), name="one_score_a_reward_model")
                ],
            },
        ),
    ]
