"""What the rater page weighs over the wire, its files as collectstatic prepares them."""

import re
from collections import Counter

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

BROWSER = {"Accept-Encoding": "gzip, deflate, br", "Accept": "*/*"}
KILOBYTES = 150


@pytest.fixture
def collected(settings, tmp_path):
    """Static files as a studio serves them: named by their content, compressed."""
    settings.STATIC_ROOT = tmp_path / "static"
    backend = "whitenoise.storage.CompressedManifestStaticFilesStorage"
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": backend}}
    call_command("collectstatic", "--noinput", "--verbosity", "0")


def weight_of(answer) -> int:
    """Bytes on the wire: body, head lines and the status line."""
    head = sum(len(name) + len(value) + 4 for name, value in answer.items())
    return head + len(b"".join(answer)) + len("HTTP/1.1 200 OK\r\n\r\n")


def test_the_rater_page_weighs_less_than_150_kilobytes_and_its_files_are_kept_for_good(collected, studio):
    project = studio.ready_project()
    studio.items(project, pairs=3)
    client = Client(headers=BROWSER)
    client.force_login(studio.rater(project), "django.contrib.auth.backends.ModelBackend")
    address = reverse("feedback:rate", args=[project.slug])
    page = client.get(address)
    text = page.content.decode()
    (token,) = set(re.findall(r'name="token" value="([0-9a-f-]+)"', text))
    ahead = client.get(address, {"showing": token}, headers={**BROWSER, "HX-Request": "true"})
    weights = Counter({"page": weight_of(page), "item ahead": weight_of(ahead)})
    files = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', text))
    for file in files:
        answer = client.get(file)
        assert answer.status_code == 200, file
        assert re.search(r"\.[0-9a-f]{12}\.", file), f"{file} is not named by its content"
        assert answer["Cache-Control"] == "max-age=315360000, public, immutable", file
        weights[file] = weight_of(answer)
        if weights[file] > 1500:
            assert answer.get("Content-Encoding") == "gzip", file
    names = " ".join(files)
    assert all(name in names for name in ("steersman.", "htmx-2.min.", "rate.", "guideline.", "app.", "icon."))
    assert 20_000 < weights.total() < 1000 * KILOBYTES, weights
