"""Seconds of ``make test`` in this checkout: ``python -m benchmarks.suite``; JSON out, the tests' words on stderr."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    begun = time.monotonic()
    code = subprocess.run(["make", "test"], cwd=ROOT, stdout=sys.stderr, check=False).returncode
    print(json.dumps({"seconds": round(time.monotonic() - begun, 1), "exit_code": code}))
    return code


if __name__ == "__main__":
    sys.exit(main())
