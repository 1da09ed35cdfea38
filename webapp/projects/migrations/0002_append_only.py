from django.db import migrations

from webapp.accounts.append_only import guard


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_append_only"), ("projects", "0001_initial")]

    operations = [guard("projects_guideline")]
