from django.db import migrations

from webapp.accounts.append_only import guard


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_append_only"), ("feedback", "0001_initial")]

    operations = [guard("feedback_sample"), guard("feedback_presentation"), guard("feedback_skip"), guard("feedback_rating", but="is_current")]
