"""Drop an index of ratings by comparison alone: each wider one begins with it, and the planner preferred the narrow one."""

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("feedback", "0015_turns_append_only")]

    operations = [
        migrations.AlterField(
            model_name="rating",
            name="comparison",
            field=models.ForeignKey(
                db_index=False,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="ratings",
                to="feedback.comparison",
            ),
        )
    ]
