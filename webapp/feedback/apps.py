from django.apps import AppConfig


class FeedbackConfig(AppConfig):
    name = "webapp.feedback"
    label = "feedback"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from webapp.feedback.services import void_when_promoted
        from webapp.registry.signals import promoted

        promoted.connect(void_when_promoted, dispatch_uid="feedback.void_when_promoted")
