from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("projects", "0011_first_visit")]

    operations = [
        migrations.AddField(
            model_name="project",
            name="choice",
            field=models.CharField(
                choices=[("random", "whatever waits longest"), ("uncertain", "the most uncertain")],
                default="random",
                help_text="which of the items that wait raters get first",
                max_length=9,
            ),
        ),
    ]
