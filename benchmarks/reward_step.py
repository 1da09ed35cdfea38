"""The reward model's training step beside the peers': ``python -m benchmarks.reward_step``; JSON out.

The 5M shape, 8 sequences of 128 tokens, float32: forward pass, backward pass and AdamW. Ours and TRL's train four
pairs, ours by adapters of rank 8 and by all weights, TRL's all weights; palm-rlhf-pytorch has no pairs and trains a
label a sequence, by adapters of rank 8. Goals stand in docs/benchmarks.md. Needs ``make bench-peers``.
"""

import argparse
import json
from contextlib import ExitStack
from typing import Any

from benchmarks.peers.child import Program, alternate

TASK: dict[str, Any] = {
    "task": "reward-step",
    "size": "5M",
    "batch": 8,
    "length": 128,
    "steps": 5,
    "learning_rate": 1e-4,
}
PROGRAMS: dict[str, tuple[tuple[str, str | None], bool]] = {
    "lora": (("ours_rl", None), True),
    "all": (("ours_rl", None), False),
    "trl": (("trl_reward", "transformers"), False),
    "palm": (("palm", "palm"), True),
}


def measure() -> dict[str, Any]:
    with ExitStack() as stack:
        programs = [stack.enter_context(Program(*it, **TASK, lora=lora)) for it, lora in PROGRAMS.values()]
        memory = [program.run(memory=True)["mebibytes"] for program in programs]
        found: dict[str, Any] = dict(zip(PROGRAMS, alternate(programs), strict=True))
    for name, mebibytes in zip(PROGRAMS, memory, strict=True):
        found[name]["mebibytes"] = round(mebibytes, 1)
    speed = {name: found[name]["tokens_per_second"] for name in PROGRAMS}
    for way in ("lora", "all"):
        found[way] |= {f"over_{peer}": round(speed[way] / speed[peer], 2) for peer in ("trl", "palm")}
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(json.dumps(measure(), indent=1))


if __name__ == "__main__":
    main()
