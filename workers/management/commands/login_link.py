"""``manage.py login_link``: a link that logs an admin in once."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.urls import reverse

from webapp.accounts.models import User
from webapp.accounts.services import create_login_link, ensure_admin
from webapp.local.endpoints import read_endpoints


class Command(BaseCommand):
    help = "Print a link that logs a person in once, by default the first admin (made if missing)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--username", default="admin", help="whom it logs in; a missing 'admin' is made")
        parser.add_argument("--hours", type=float, default=24.0, help="how long the link is good for")
        parser.add_argument("--base-url", default="", help="the studio's address, such as https://steersman.example")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["hours"] <= 0:
            raise CommandError("--hours must be above 0")
        if options["username"] == "admin":
            user = ensure_admin(username="admin")
        else:
            found = User.objects.filter(username=options["username"], is_simulated=False).first()
            if found is None:
                raise CommandError(f"there is nobody with the user name {options['username']!r}")
            user = found
        token = create_login_link(user=user, valid_for=timedelta(hours=options["hours"]))
        here = read_endpoints(settings.STEERSMAN_DATA).get("web_url") or "http://127.0.0.1:8000"
        base = (options["base_url"] or settings.PUBLIC_URL or str(here)).rstrip("/")
        self.stdout.write(base + reverse("accounts:link", args=[token]))
