"""Every address of the site. Each app names its own; what one must not see answers 404."""

import importlib.util

from django.urls import include, path

from webapp import pages

ABOVE = [f"webapp.{app}.urls" for app in ("registry", "runs")]

urlpatterns = [
    path("healthz", pages.healthz, name="healthz"),
    path("", include("webapp.accounts.urls")),
    path("", include("webapp.projects.urls")),
    path("", include("webapp.feedback.urls")),
    *[path("", include(urls)) for urls in ABOVE if importlib.util.find_spec(urls)],
]

handler500 = pages.server_error
