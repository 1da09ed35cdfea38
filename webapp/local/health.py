"""``python -m webapp.local.health URL``: does it answer with 200? For the health checks of containers.

It names a host of ALLOWED_HOSTS, whatever stands in the URL, since the pages answer to no other. Nothing here imports
Django, so that it costs little every few seconds.
"""

import http.client
import os
import sys
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 5


def known_name() -> str:
    """A host name under which the web process knows itself."""
    first = os.environ.get("ALLOWED_HOSTS", "").split(",")[0].strip().removeprefix(".")
    return "localhost" if first in ("", "*") else first


def answers(url: str) -> str | None:
    """None when ``url`` answers with 200, else what is wrong."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", parts.path, headers={"Host": known_name()})
        answer = connection.getresponse()
        return None if answer.status == 200 else f"{url} answers {answer.status}: {answer.read(200).decode()}"
    except (OSError, http.client.HTTPException) as error:
        return f"{url} does not answer: {error}"
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(answers(sys.argv[1]))
