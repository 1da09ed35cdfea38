from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from webapp.accounts import views

app_name = "accounts"
urlpatterns = [
    path(
        "login/", LoginView.as_view(template_name="accounts/login.html", redirect_authenticated_user=True), name="login"
    ),
    path("logout/", LogoutView.as_view(), name="logout"),
    path("link/<str:token>/", views.use_link, name="link"),
    path("language/", views.set_language, name="language"),
    path("account/password/", views.change_password, name="password"),
]
