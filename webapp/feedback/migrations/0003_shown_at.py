from django.db import migrations, models

from webapp.accounts.append_only import guard


class Migration(migrations.Migration):
    dependencies = [("feedback", "0002_append_only")]

    operations = [
        migrations.AlterField(
            model_name="presentation",
            name="shown_at",
            field=models.DateTimeField(help_text="empty: fetched ahead, and no page has said that it showed it", null=True),
        ),
        migrations.RunSQL("DROP TRIGGER append_only ON feedback_presentation;", guard("feedback_presentation").sql),
        guard("feedback_presentation", but="shown_at"),
    ]
