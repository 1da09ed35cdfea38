"""Every benchmark, one after the other, alone on the machine: ``python -m benchmarks [name ...]``.

Each prints JSON and can be run by itself; this prints them under their names and, at the end, a table of goals.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

COMMANDS = {
    "feedback-exact": ["benchmarks.feedback", "exact"],
    "feedback-think": ["benchmarks.feedback", "think"],
    "rating": ["benchmarks.rating"],
    "loop": ["benchmarks.loop"],
}
GOALS = [
    ("feedback-exact", "overshoot", "ratings above the wanted overlap", 0),
    ("feedback-exact", "duplicates", "ratings given twice", 0),
    ("feedback-exact", "lost", "acknowledged ratings not in the database", 0),
    ("feedback-think", "submit_and_next.p95_ms", "submit and next, 20 raters, p95 (ms)", 50),
    ("rating", "key_to_next.p95_ms", "key to next pair painted, 200 items, p95 (ms)", 100),
    ("rating", "pointer_events", "pointer events in a run by keyboard", 0),
    ("rating", "layout_shift", "layout shift in that run", 0),
    ("loop", "seconds.reward", "reward model on 400 comparisons (s)", 90),
    ("loop", "seconds.policy", 'PPO with preset "CPU" (s)', 240),
    ("loop", "seconds.promote_to_first_sample", "promotion to first new sample (s)", 15),
]


def look_up(result: dict[str, Any], path: str) -> float:
    value: Any = result
    for name in path.split("."):
        value = value[name]
    return float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(COMMANDS)}; without one, all")
    names = parser.parse_args().names or list(COMMANDS)
    if unknown := set(names) - set(COMMANDS):
        parser.error(f"no benchmark named {', '.join(sorted(unknown))}; there are {', '.join(COMMANDS)}")
    results = {}
    for name in names:
        done = subprocess.run([sys.executable, "-m", *COMMANDS[name]], stdout=subprocess.PIPE, text=True, check=True)
        results[name] = json.loads(done.stdout)
        print(json.dumps({name: results[name]}, indent=1), flush=True)
    print(f"\n{'figure':48} {'seen':>10} {'goal':>8}")
    for name, path, words, goal in GOALS:
        if name in results:
            print(f"{words:48} {look_up(results[name], path):>10g} {'<= ' + str(goal):>8}")


if __name__ == "__main__":
    main()
