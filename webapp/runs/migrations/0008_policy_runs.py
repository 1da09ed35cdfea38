from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("runs", "0007_judge")]

    operations = [
        migrations.AlterField(
            model_name="run",
            name="kind",
            field=models.CharField(
                choices=[
                    ("sft", "fine-tuning"),
                    ("reward", "reward model"),
                    ("policy", "policy"),
                    ("evaluate", "evaluation"),
                ],
                max_length=8,
            ),
        ),
    ]
