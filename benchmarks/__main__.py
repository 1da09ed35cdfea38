"""Every figure beside its goal: ``python -m benchmarks [name ...]``, or ``make figures ARGS="name ..."``.

Without a name the quick measurements run, one after the other, alone on the machine; with ``all`` the slow ones too.
What each finds is printed as JSON under its name, and at the end all figures in a table (docs/benchmarks.md). The exit
code is 1 where a figure was missed or a measurement failed.
"""

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from benchmarks.figures import MEASUREMENTS, missed, quick, table


def measure(name: str) -> dict[str, Any] | None:
    """What a measurement prints; None where it failed or is one for hands, and stderr says so."""
    measurement = MEASUREMENTS[name]
    if not measurement.command:
        print(f"{name}: {measurement.by_hand}", file=sys.stderr)
        return None
    print(f"{name}: {measurement.words} (about {measurement.minutes:g} min)", file=sys.stderr)
    done = subprocess.run([sys.executable, "-m", *measurement.command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        print(f"{name}: failed with exit code {done.returncode}\n{done.stdout}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(MEASUREMENTS)}; or all")
    names = parser.parse_args().names or quick()
    if names == ["all"]:
        names = list(MEASUREMENTS)
    if unknown := set(names) - set(MEASUREMENTS):
        parser.error(f"no measurement named {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    print(json.dumps({"machine": {"cores": os.cpu_count()}}), flush=True)
    results, failed = {}, []
    for name in names:
        found = measure(name)
        if found is not None:
            results[name] = found
            print(json.dumps({name: found}, indent=1), flush=True)
        elif MEASUREMENTS[name].command:
            failed.append(name)
    print(f"\n{table(results)}")
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed or missed(results) else 0


if __name__ == "__main__":
    sys.exit(main())
