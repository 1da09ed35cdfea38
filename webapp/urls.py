"""Every address of the site. Each app names its own; what one must not see answers 404."""

from django.urls import include, path

from webapp import pages

urlpatterns = [
    path("healthz", pages.healthz, name="healthz"),
    path("", include("webapp.accounts.urls")),
    path("", include("webapp.projects.urls")),
    path("", include("webapp.feedback.urls")),
    path("", include("webapp.runs.urls")),
]

handler400 = pages.bad_request
handler404 = pages.not_found
handler500 = pages.server_error
