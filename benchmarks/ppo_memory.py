"""Memory of a PPO iteration at a large vocabulary: ``python -m benchmarks.ppo_memory``; JSON out.

A policy of dim 256 and depth 4 over 50,000 tokens and a reward model of its size; 32 responses of 512 tokens to prompts
of 32, minibatches of 16 in micro-batches of 4, one epoch, float32, adapters of policy and critic on one trunk. Printed
are the most memory above the loaded models in one whole iteration, from drawing to the last optimiser step, and how
much the logits of one micro-batch alone would take. Goal: at most 600 MiB.
"""

import argparse
import json
from typing import Any

from benchmarks.peers.child import Program

TASK: dict[str, Any] = {"task": "ppo", "size": "5M", "prompt": 32, "learning_rate": 1e-4, "learns": "lora-critic"}


def measure(vocabulary: int, samples: int, new: int, minibatch: int, micro_batch: int) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "vocabulary": vocabulary,
        "samples": samples,
        "new": new,
        "minibatch": minibatch,
        "micro_batch": micro_batch,
    }
    with Program("ours_rl", **TASK, **shape) as ours:
        found = ours.run(memory=True)
    logits = micro_batch * new * vocabulary * 4 / 2**20
    return {
        **shape,
        "mebibytes": round(found["mebibytes"], 1),
        "seconds": round(found["seconds"], 1),
        "rival_cores": round(found["rival_cores"], 2),
        "logits_of_a_micro_batch_mebibytes": round(logits, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=50_000)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--new", type=int, default=512)
    parser.add_argument("--minibatch", type=int, default=16)
    parser.add_argument("--micro-batch", type=int, default=4)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
