"""Milliseconds that ``import rlhf_core`` adds to Python's start: ``python -m benchmarks.importing``; JSON out.

Starts of a bare Python and of one that imports the library alternate, so that what else the machine does touches both.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time


def milliseconds(code: str) -> float:
    """One start of Python, to its end."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return 1000 * (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=21, metavar="N", help="of each kind (default 21)")
    starts = parser.parse_args().starts
    milliseconds("import rlhf_core")  # the first one writes the bytecode
    pairs = [(milliseconds("pass"), milliseconds("import rlhf_core")) for _ in range(starts)]
    bare, with_library = (statistics.median(one) for one in zip(*pairs, strict=True))
    added = statistics.median(after - before for before, after in pairs)
    found = {"bare_ms": bare, "with_library_ms": with_library, "added_ms": added}
    print(json.dumps({name: round(value, 2) for name, value in found.items()} | {"starts": starts}))


if __name__ == "__main__":
    main()
