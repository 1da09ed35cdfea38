from django.urls import path

from webapp.projects import views, welcome_views

app_name = "projects"
urlpatterns = [
    path("", views.home, name="home"),
    path("new/", views.create, name="create"),
    path("join/<str:token>/", views.join, name="join"),
    path("p/<slug:slug>/settings/", views.change_settings, name="settings"),
    path("p/<slug:slug>/settings/modes/", views.rating_modes, name="modes"),
    path("p/<slug:slug>/settings/first-visit/", welcome_views.first_visit, name="first_visit"),
    path("p/<slug:slug>/settings/first-visit/new/", welcome_views.practice_pair, name="practice_new"),
    path("p/<slug:slug>/settings/first-visit/<int:number>/", welcome_views.practice_pair, name="practice"),
    path("p/<slug:slug>/import/", views.import_prompts, name="import"),
    path("p/<slug:slug>/raters/", views.raters, name="raters"),
    path("p/<slug:slug>/raters/withdraw/", views.withdraw_invitation, name="withdraw_invitation"),
    path("p/<slug:slug>/guideline/", views.guideline, name="guideline"),
    path("p/<slug:slug>/guideline/read/", views.guideline_read, name="guideline_read"),
]
