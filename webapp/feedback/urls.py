from django.urls import path

from webapp.feedback import key_views, passing_views, views, welcome_views

app_name = "feedback"
urlpatterns = [
    path("p/<slug:slug>/rate/", views.rate, name="rate"),
    path("p/<slug:slug>/rate/skip/", passing_views.skip, name="skip"),
    path("p/<slug:slug>/rate/report/", passing_views.report, name="report"),
    path("p/<slug:slug>/ratings/settle/", passing_views.settle, name="settle"),
    path("p/<slug:slug>/rate/welcome/", welcome_views.greet, name="welcome"),
    path("p/<slug:slug>/rate/practice/", welcome_views.practise, name="practise"),
    path("p/<slug:slug>/rate/keys/", key_views.page_settings, name="keys"),
    path("p/<slug:slug>/rate/toggle/", key_views.toggle, name="toggle"),
    path("p/<slug:slug>/rate/heartbeat/", views.heartbeat, name="heartbeat"),
    path("p/<slug:slug>/rate/release/", views.release, name="release"),
    path("p/<slug:slug>/rate/pause/", views.pause, name="pause"),
    path("p/<slug:slug>/rate/undo/", views.undo, name="undo"),
    path("p/<slug:slug>/history/", views.history, name="history"),
    path("p/<slug:slug>/history/<uuid:token>/", views.judged, name="judged"),
    path("p/<slug:slug>/ratings/", views.queue, name="queue"),
    path("p/<slug:slug>/ratings.jsonl", views.export, name="export"),
]
