"""Which samples wait for a score, and which have none for good: three empty tables, filled by who scores."""

import django.db.models.deletion
from django.db import migrations, models

from webapp.accounts.append_only import guard


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0002_append_only"),
        ("feedback", "0017_uncertainty_in_words"),
        ("projects", "0013_conversations"),
        ("registry", "0003_source"),
    ]

    operations = [
        migrations.CreateModel(
            name="ScoreQueue",
            fields=[
                (
                    "project",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="+",
                        serialize=False,
                        to="projects.project",
                    ),
                ),
                (
                    "reward_model",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="registry.checkpoint",
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="NoScore",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "reason",
                    models.CharField(choices=[("not_finite", "Not Finite"), ("tokens", "Tokens")], max_length=10),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                (
                    "reward_model",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="no_scores", to="registry.checkpoint"
                    ),
                ),
                (
                    "sample",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="no_scores",
                        to="feedback.sample",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(fields=("sample", "reward_model"), name="one_no_score_a_reward_model")
                ],
            },
        ),
        migrations.CreateModel(
            name="ScoreWanted",
            fields=[
                (
                    "sample",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.PROTECT,
                        primary_key=True,
                        related_name="wanted",
                        serialize=False,
                        to="feedback.sample",
                    ),
                ),
                (
                    "project",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to="projects.project",
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["project", "-sample"], name="score_wanted_newest")],
            },
        ),
        guard("feedback_noscore"),
    ]
