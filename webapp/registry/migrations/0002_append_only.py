from django.db import migrations

from webapp.accounts.append_only import guard


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_append_only"), ("registry", "0001_initial")]

    operations = [guard("registry_checkpoint"), guard("registry_samplingsettings"), guard("registry_promotion")]
