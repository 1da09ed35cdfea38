"""The loop with simulated raters, over several seeds: ``python -m benchmarks.simulate [--seeds 5]``; JSON out.

Runs ``manage.py simulate``, which prints a line of JSON a seed, and sums the lines up: in how many seeds the policy has
gained by the raters' taste, and the worst seed by each other measure, of the first round and beside it of the second.
A seed that failed has not gained.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MANAGE = Path(__file__).parents[1] / "manage.py"


def sum_up(seeds: Sequence[dict[str, Any]], wanted: int) -> dict[str, Any]:
    """The figures of the seeds that came to their end, at least one of the ``wanted``.

    What is promised of KL, variety, length and reward model is promised of the first round; ``worst_in_round2`` has the
    same of the second, which begins where the first has led. ``length_change`` is a share of the base's length.
    ``round2_shortfall`` is how far the second round's taste lies below the first's, less half the width of the second's
    interval: above 0 it has got worse by more than chance explains.
    """
    better = [seed for seed in seeds if seed["taste"]["low"] > 0]
    return {
        "seeds": wanted,
        "seeds_failed": wanted - len(seeds),
        "seeds_better_share": len(better) / wanted,
        "worst": {
            **worst(seeds),
            "round2_shortfall": max(shortfall(seed) for seed in seeds),
            "seconds": max(sum(seed["seconds"].values()) + sum(seed["round2"]["seconds"].values()) for seed in seeds),
        },
        "worst_in_round2": worst([seed["round2"] for seed in seeds]),
        "lines": list(seeds),
    }


def worst(rounds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The worst of some rounds by each measure."""
    return {
        "kl": max(found["kl"]["value"] for found in rounds),
        "distinct2_ratio": min(found["distinct2_ratio"] for found in rounds),
        "length_change": max(abs(found["length_ratio"] - 1) for found in rounds),
        "rm_accuracy_low": min(found["rm_accuracy"]["low"] for found in rounds),
    }


def shortfall(seed: dict[str, Any]) -> float:
    first, second = seed["taste"], seed["round2"]["taste"]
    return float(first["after"] - second["after"] - (second["high"] - second["low"]) / 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=400, help="ratings a round")
    parser.add_argument("--seeds", type=int, default=5, help="so many, from 0 upward")
    arguments = parser.parse_args()
    options = ["--labels", str(arguments.labels), "--seeds", str(arguments.seeds), "--json"]
    command = [sys.executable, str(MANAGE), "simulate", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seeds = [json.loads(line) for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != 0:
        print(f"manage.py simulate ended with exit code {done.returncode}", file=sys.stderr)
        if done.returncode != 1 or not seeds:  # else some seeds failed, and what the others reached still counts
            return done.returncode
    print(json.dumps(sum_up(seeds, arguments.seeds), indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
