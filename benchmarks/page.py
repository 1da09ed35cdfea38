"""The rater page over a slow network, in Chromium: ``python -m benchmarks.page [--loads 6]``; JSON out.

Each load begins with an empty cache, on what Lighthouse calls slow 4G: 150 ms round trip, 1.6 Mbit/s down, 750 kbit/s
up. Chromium adds the 150 ms to each request; what a first connection to a distant server takes beside that (DNS, TCP,
TLS) is not in it, the server is on this machine. Goals: 150 KB at most over the wire until the page is at rest, heads
of the answers included, and the first paint with content within a second in each load. Projects of its own, one
rating mode after the other.
"""

import argparse
import json
from typing import Any

from benchmarks.browser import chromium
from benchmarks.feedback import mixed
from benchmarks.feedback_project import make_project, make_sessions
from benchmarks.studio import studio

SLOW_4G = {
    "offline": False,
    "latency": 150,  # ms
    "downloadThroughput": 1.6 * 1024 * 1024 / 8,  # bytes a second
    "uploadThroughput": 750 * 1024 / 8,
}
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def load(browser: Any, url: str, address: str, session: str) -> dict[str, Any]:
    """Open the page once, with nothing in the cache; milliseconds since it was asked for, and bytes by kind."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.add_cookies([{"name": "sessionid", "value": session, "url": url}])
    page = context.new_page()
    network = context.new_cdp_session(page)
    network.send("Network.enable")
    network.send("Network.setCacheDisabled", {"cacheDisabled": True})
    network.send("Network.emulateNetworkConditions", SLOW_4G)
    kinds: dict[str, str] = {}
    bytes_of: dict[str, float] = {}
    network.on("Network.responseReceived", lambda event: kinds.update({event["requestId"]: event["type"]}))
    network.on(
        "Network.loadingFinished", lambda event: bytes_of.update({event["requestId"]: event["encodedDataLength"]})
    )
    page.goto(address, wait_until="networkidle")
    page.wait_for_selector("#item[aria-busy=false] #verdict")
    painted = page.evaluate(PAINT)
    mode = page.get_attribute("#item", "data-kind")
    context.close()
    by_kind: dict[str, int] = {}
    for request, size in bytes_of.items():
        kind = kinds.get(request, "Other")
        by_kind[kind] = by_kind.get(kind, 0) + int(size)
    return {"mode": mode, "first_paint_ms": painted, "bytes": by_kind, "requests": len(bytes_of)}


def measure(url: str, loads: int) -> dict[str, Any]:
    """Load the page so often, each time in another mode, by a rater of a project of its own."""
    shape = mixed()
    kinds = shape.pop("kinds")
    seen = []
    with chromium() as browser:
        for number in range(loads):
            kind = kinds[number % len(kinds)]
            project = make_project(f"page-{number}", items=3, overlap=1, kinds=[kind], **shape)
            (session,) = make_sessions(project, 1)
            seen.append(load(browser, url, f"{url}/p/{project.slug}/rate/", session))
    paints = sorted(one["first_paint_ms"] for one in seen)
    heaviest = max(seen, key=lambda one: sum(one["bytes"].values()))
    return {
        "loads": loads,
        "first_paint": {"median_ms": round(paints[loads // 2], 1), "max_ms": round(paints[-1], 1)},
        "modes": sorted({one["mode"] for one in seen}),
        "kilobytes": round(sum(heaviest["bytes"].values()) / 1000, 1),
        "bytes": heaviest["bytes"],
        "requests": heaviest["requests"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", type=int, default=6)
    given = parser.parse_args()
    if given.loads < 1:
        parser.error(f"--loads {given.loads}: must be 1 or more")
    with studio() as url:
        print(json.dumps(measure(url, given.loads), indent=1))


if __name__ == "__main__":
    main()
