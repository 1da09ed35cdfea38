from django.db import migrations

from webapp.accounts.append_only import guard


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_append_only"), ("projects", "0009_rules")]

    operations = [guard("projects_rule", but="is_active")]
