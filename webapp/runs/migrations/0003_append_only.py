from django.db import migrations

from webapp.accounts.append_only import guard


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_append_only"), ("runs", "0002_events_offset")]

    operations = [guard("runs_runevent")]
