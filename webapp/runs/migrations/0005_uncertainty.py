from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('runs', '0004_evaluation'),
    ]

    operations = [
        migrations.AddField(
            model_name='evaluationsample',
            name='uncertainty',
            field=models.FloatField(help_text='standard deviation between the members of the reward model; null where it is no ensemble', null=True),
        ),
    ]
