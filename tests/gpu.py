"""Runs core, learning and worker tests on a GPU and prints a table; ``make test-gpu``, or ``python -m tests.gpu``."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

import torch

LEARNING = "tests/core/test_learning.py"
GROUPS = {
    "core": ["tests/core", f"--ignore={LEARNING}"],
    "learning": [LEARNING],
    "worker": ["tests/workers", "tests/faults/test_training.py"],
}
COLUMNS = ("tests", "device", "passed", "failed", "skipped", "seconds")


def run_group(arguments: list[str], others: list[str]) -> tuple[int, int, int, float]:
    """Run tests; returns how many passed, failed or had an error, were skipped, and the seconds."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments, *others], check=False)
        seconds = time.perf_counter() - started
        if not report.is_file():
            return 0, 1, 0, seconds
        suite = ElementTree.parse(report).getroot().find("testsuite")
        assert suite is not None
        count, failed, errors, skipped = (
            int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")
        )
        return count - failed - errors - skipped, failed + errors, skipped, seconds


def main(others: list[str]) -> int:
    """Run all groups; returns 0 where there is a GPU and every test passed. ``others`` go to pytest."""
    if not torch.cuda.is_available():
        print(f"not seen: torch {torch.__version__} finds no CUDA device here, so no test was run", file=sys.stderr)
        return 1
    device = torch.cuda.get_device_name()
    rows = [(name, device, *run_group(arguments, others)) for name, arguments in GROUPS.items()]
    table = [COLUMNS, *((*row[:2], *map(str, row[2:5]), f"{row[5]:.0f}") for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 1 if any(row[3] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
