from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("feedback", "0010_report")]

    operations = [
        migrations.AddIndex(
            model_name="rating",
            index=models.Index(
                condition=models.Q(("is_current", True)),
                fields=["rater", "project", "-created_at", "-id"],
                name="rating_of_rater_now",
            ),
        ),
        migrations.RemoveIndex(model_name="rating", name="rating_of_rater"),
    ]
