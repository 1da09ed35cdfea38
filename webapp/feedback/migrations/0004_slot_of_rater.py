import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [migrations.swappable_dependency(settings.AUTH_USER_MODEL), ("feedback", "0003_shown_at")]

    operations = [
        migrations.AddIndex(
            model_name="slot",
            index=models.Index(fields=["rater", "state"], name="slot_of_rater"),
        ),
        migrations.AlterField(
            model_name="slot",
            name="rater",
            field=models.ForeignKey(
                db_index=False,
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="slots",
                to=settings.AUTH_USER_MODEL,
            ),
        ),
    ]
