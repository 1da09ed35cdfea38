"""Addresses of the admin's pages."""

from django.urls import path

from webapp.runs import views

app_name = "runs"
urlpatterns = [
    path("p/<slug:slug>/", views.board, name="board"),
    path("p/<slug:slug>/simulate/", views.simulate, name="simulate"),
    path("p/<slug:slug>/policies/", views.adopt_policy, name="adopt_policy"),
    path("p/<slug:slug>/runs/", views.all_runs, name="all"),
    path("p/<slug:slug>/runs/sft/", views.start_sft, name="start_sft"),
    path("p/<slug:slug>/runs/reward/", views.start_reward, name="start_reward"),
    path("p/<slug:slug>/runs/policy/", views.start_policy, name="start_policy"),
    path("p/<slug:slug>/runs/<int:number>/", views.detail, name="detail"),
    path("p/<slug:slug>/runs/<int:number>/live/", views.live, name="live"),
    path("p/<slug:slug>/runs/<int:number>/curves/", views.curves, name="curves"),
    path("p/<slug:slug>/runs/<int:number>/cancel/", views.cancel, name="cancel"),
    path("p/<slug:slug>/policies/<int:version>/", views.policy, name="policy"),
    path("p/<slug:slug>/policies/<int:version>/evaluate/", views.start_evaluation, name="start_evaluation"),
    path("p/<slug:slug>/policies/<int:version>/promote/", views.promote, name="promote"),
    path("p/<slug:slug>/policies/<int:version>/ratings/", views.ratings_behind, name="ratings_behind"),
    path("p/<slug:slug>/lineage/", views.lineage, name="lineage"),
    path("p/<slug:slug>/ratings/<uuid:pk>/", views.rating, name="rating"),
    path("p/<slug:slug>/datasets/<uuid:pk>/", views.dataset, name="dataset"),
]
