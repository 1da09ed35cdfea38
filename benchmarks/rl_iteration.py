"""One iteration of PPO beside the peers': ``python -m benchmarks.rl_iteration [--peers trl]``; JSON out.

A policy of dim 256 and depth 6 and a reward model of its size; 32 samples, prompt 32, 64 new tokens, minibatches of 16,
one epoch, float32. Ours in two ways: adapters of the policy and a value head on its states, over one trunk, whose bare
weights are the reference; all weights of a policy and of a value model of its own, which is what TRL's PPO trains.
``--ways lora-critic`` gives the critic adapters of its own on that trunk. palm-rlhf-pytorch trains adapters and a copy
of the policy as critic, as it does by default. Goals stand in docs/benchmarks.md. Needs ``make bench-peers``.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

from benchmarks.peers.child import RUNS, Program, alternate

TASK: dict[str, Any] = {
    "task": "ppo",
    "size": "7M",
    "samples": 32,
    "prompt": 32,
    "new": 64,
    "minibatch": 16,
    "learning_rate": 1e-4,
}
WAYS = ("lora", "lora-critic", "all")
RUNS_WITH_PALM = 3


def measure(peers: Sequence[str], ways: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for way in ways:
        line = found.setdefault(way, {})
        if "trl" in peers:
            line |= compare("trl", way, ("trl_ppo", "trl-ppo"), RUNS)
        if "palm" in peers and way != "all":
            line |= compare("palm", way, ("palm", "palm"), RUNS_WITH_PALM)
    return found


def compare(name: str, way: str, peer: tuple[str, str], runs: int) -> dict[str, Any]:
    """Ours and a peer in turn: samples/s and MiB of each, and how many times as fast ours was."""
    with Program("ours_rl", **TASK, learns=way) as ours, Program(*peer, **TASK) as theirs:
        memory = [program.run(memory=True)["mebibytes"] for program in (ours, theirs)]
        timed = alternate((ours, theirs), runs)
    for one, mebibytes in zip(timed, memory, strict=True):
        one["samples_per_second"] = round(TASK["samples"] / one["seconds"], 2)
        one["mebibytes"] = round(mebibytes, 1)
    return {
        name: dict(zip(("ours", "theirs"), timed, strict=True)),
        f"over_{name}": round(timed[1]["seconds"] / timed[0]["seconds"], 2),
        "mebibytes": timed[0]["mebibytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=("trl", "palm"), default=("trl", "palm"))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=("lora", "all"), help="what of ours learns")
    options = parser.parse_args()
    print(json.dumps(measure(options.peers, options.ways), indent=1))


if __name__ == "__main__":
    main()
