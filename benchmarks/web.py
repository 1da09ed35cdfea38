"""What the web process weighs: ``python -m benchmarks.web [--visits 100]``; JSON out.

An admin visits every page of the demo project over HTTP; then the process is looked at from outside. Goals: less
than 200 MB resident, and no library of torch in its memory. Linux only: /proc tells.
"""

import argparse
import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.feedback_project import end_first_visit, make_session
from benchmarks.studio import studio, web_pid

PAGES = (
    "",
    "rate/",
    "history/",
    "runs/",
    "runs/reward/",
    "runs/policy/",
    "ratings/",
    "guideline/",
    "settings/",
    "raters/",
)


def visit(url: str, session: str, visits: int) -> None:
    """Ask for every page so often.

    Raises:
        RuntimeError: one did not answer with 200, so that the process was not put to its work.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    for _ in range(visits):
        for page in PAGES:
            connection.request("GET", f"/p/film-reviews/{page}", headers={"Cookie": f"sessionid={session}"})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"the page {page or 'board'} answered with {answer.status}")


def weigh(pid: int) -> dict[str, Any]:
    """Resident megabytes (10^6 bytes) of a process, and how many libraries of torch it has mapped."""
    status = Path(f"/proc/{pid}/status").read_text()
    kibibytes = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    mapped = {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}
    libraries = [path for path in mapped if "torch" in Path(path).name]
    return {"resident_megabytes": round(kibibytes * 1.024e-3, 1), "torch_libraries": len(libraries)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visits", type=int, default=100, help="to each page")
    arguments = parser.parse_args()
    with studio() as url:
        from webapp.accounts.services import ensure_admin
        from webapp.projects.models import Project

        admin = ensure_admin()
        end_first_visit(Project.objects.get(slug="film-reviews"), admin)  # else the rater page leads there
        pid = web_pid()
        fresh = weigh(pid)
        visit(url, make_session(admin), arguments.visits)
        print(json.dumps({**weigh(pid), "before_any_visit": fresh, "visits_to_each_page": arguments.visits}, indent=1))


if __name__ == "__main__":
    main()
