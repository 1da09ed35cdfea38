"""Says how large the download of torch will be, before it begins: ``python torch_size.py REQUIREMENT...``.

pip resolves by its own configuration without installing; the sizes come from the files' servers. Standard library only.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

COMMAND = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-"]


def size_of(url: str) -> int | None:
    """Bytes of the file at ``url``; 0 for one that is here already, None where its server does not tell."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "file":
        return 0
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=15) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, TypeError, ValueError, urllib.error.URLError):
        return None


def main() -> int:
    found = subprocess.run([*COMMAND, *sys.argv[1:]], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        print(found.stderr.strip(), file=sys.stderr)
        return found.returncode
    packages = json.loads(found.stdout)["install"]
    if not packages:
        print("torch is installed already.")
        return 0
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(size_of, (package["download_info"]["url"] for package in packages)))
    torch = next((package for package in packages if package["metadata"]["name"] == "torch"), packages[0])
    named = f"{torch['metadata']['name']} {torch['metadata']['version']}"
    total, unknown = sum(size or 0 for size in sizes), sizes.count(None)
    words = f"{total / 1e6:,.0f} MB" if total else "nothing"
    print(
        f"{named} with what it needs ({len(packages)} packages): {words} to download"
        + (f", and {unknown} whose size is not told" if unknown else "")
        + (", the rest is here" if 0 in sizes and total else "")
        + "."
    )
    cuda = any(
        Path(urllib.parse.urlsplit(package["download_info"]["url"]).path).name.startswith("nvidia")
        for package in packages
    )
    if cuda:
        print("This is a build for NVIDIA cards; the README tells how to get the smaller one for the CPU (TORCH=...).")
    return 0


if __name__ == "__main__":
    sys.exit(main())
