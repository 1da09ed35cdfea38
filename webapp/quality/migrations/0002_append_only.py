from django.db import migrations

from webapp.accounts.append_only import guard


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_append_only"), ("quality", "0001_initial")]

    operations = [guard("quality_dataset"), guard("quality_datasetitem")]
