from django.db import migrations

from webapp.accounts.append_only import DEFINE, guard


class Migration(migrations.Migration):
    dependencies = [("accounts", "0001_initial")]

    operations = [DEFINE, guard("accounts_audit")]
