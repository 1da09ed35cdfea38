"""Decoding beside the peers: ``python -m benchmarks.decoding_peers [--sizes 5M] [--peers palm]``; JSON out.

Prompt 64, 128 new tokens, temperature 1, no stop token, float32, models of ``benchmarks/peers/shapes.py``. Against
transformers' Llama (its ``generate``, whole vocabulary) at 5M, 25M and 125M; against palm-rlhf-pytorch (its
``generate`` and its default filter, ours with the same) at 5M, where batches of 32 and 64 are one run. The machine's
limit is measured too: the time to read all weights once, or to multiply by them at the speed of large matrices,
whichever is longer, for each token of a row. Goals stand in docs/benchmarks.md. Needs ``make bench-peers``.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.child import RUNS, Program, alternate
from benchmarks.peers.shapes import SIZES

BATCHES = {"5M": (1, 8, 32, 64), "25M": (1, 8, 64), "125M": (1, 8, 64)}
PROMPT, NEW = 64, 128
LONG_BATCHES_OF_PALM = (32, 64)


def measure(sizes: Sequence[str], peers: Sequence[str]) -> dict[str, Any]:
    with Program("ours", task="machine") as program:
        program.run()
        machine = {name: round(value, 1) for name, value in program.run().items() if name.endswith("_per_second")}
    found: dict[str, Any] = {"machine": machine}
    for size in sizes:
        for batch in BATCHES[size]:
            line: dict[str, Any] = {}
            task = {"task": "decode", "size": size, "batch": batch, "prompt": PROMPT, "new": NEW}
            if "transformers" in peers:
                line |= compare("transformers", {**task, "filter_thres": 0.0}, ("llama", "transformers"), RUNS)
                limit = tokens_per_second_at_most(size, batch, machine)
                line["of_limit"] = round(line["transformers"]["ours"]["tokens_per_second"] / limit, 3)
            if "palm" in peers and size == "5M":
                runs = 1 if batch in LONG_BATCHES_OF_PALM else RUNS
                line |= compare("palm", {**task, "filter_thres": 0.9}, ("palm", "palm"), runs)
            found.setdefault(size, {})[f"batch_{batch}"] = line
    return found


def compare(name: str, task: dict[str, Any], peer: tuple[str, str], runs: int) -> dict[str, Any]:
    """Ours and a peer in turn: what each did, and how many times as fast ours was."""
    with Program("ours", **task) as ours, Program(*peer, **task) as theirs:
        found = dict(zip(("ours", "theirs"), alternate((ours, theirs), runs), strict=True))
    return {
        name: found,
        f"over_{name}": round(found["ours"]["tokens_per_second"] / found["theirs"]["tokens_per_second"], 2),
    }


def tokens_per_second_at_most(size: str, batch: int, machine: dict[str, float]) -> float:
    """What the machine's memory and multipliers permit, prefill included (its tokens only have to be multiplied)."""
    weights = SIZES[size].weights
    flops = machine["gigaflop_per_second"] * 1e9
    step = max(4 * weights / (machine["gigabyte_per_second"] * 1e9), 2 * weights * batch / flops)
    return batch * NEW / (NEW * step + 2 * weights * batch * PROMPT / flops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--peers", nargs="+", choices=("transformers", "palm"), default=("transformers", "palm"))
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.sizes, arguments.peers), indent=1))


if __name__ == "__main__":
    main()
