from django.db import migrations

from webapp.accounts.append_only import guard


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_append_only"), ("feedback", "0014_turns")]

    operations = [guard("feedback_turnverdict")]
