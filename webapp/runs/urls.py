"""Addresses of the admin's pages."""

from django.urls import path

from webapp.runs import board_views, policy_views, rating_views, run_views, start_views

app_name = "runs"
urlpatterns = [
    path("p/<slug:slug>/", board_views.board, name="board"),
    path("p/<slug:slug>/simulate/", board_views.simulate, name="simulate"),
    path("p/<slug:slug>/policies/", board_views.adopt_policy, name="adopt_policy"),
    path("p/<slug:slug>/runs/", run_views.all_runs, name="all"),
    path("p/<slug:slug>/runs/sft/", start_views.start_sft, name="start_sft"),
    path("p/<slug:slug>/runs/reward/", start_views.start_reward, name="start_reward"),
    path("p/<slug:slug>/runs/policy/", start_views.start_policy, name="start_policy"),
    path("p/<slug:slug>/runs/<int:number>/", run_views.detail, name="detail"),
    path("p/<slug:slug>/runs/<int:number>/live/", run_views.live, name="live"),
    path("p/<slug:slug>/runs/<int:number>/curves/", run_views.curves, name="curves"),
    path("p/<slug:slug>/runs/<int:number>/cancel/", run_views.cancel, name="cancel"),
    path("p/<slug:slug>/policies/<int:version>/", policy_views.policy, name="policy"),
    path("p/<slug:slug>/policies/<int:version>/evaluate/", start_views.start_evaluation, name="start_evaluation"),
    path("p/<slug:slug>/policies/<int:version>/promote/", policy_views.promote, name="promote"),
    path("p/<slug:slug>/policies/<int:version>/ratings/", rating_views.ratings_behind, name="ratings_behind"),
    path("p/<slug:slug>/lineage/", policy_views.lineage, name="lineage"),
    path("p/<slug:slug>/ratings/<uuid:pk>/", rating_views.rating, name="rating"),
    path("p/<slug:slug>/datasets/<uuid:pk>/", rating_views.dataset, name="dataset"),
]
