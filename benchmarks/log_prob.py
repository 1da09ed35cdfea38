"""Log-probabilities and their gradient at a large vocabulary: ``python -m benchmarks.log_prob``; JSON out.

3,072 tokens, dim 512, 32,000 tokens in the vocabulary, float32: the mean log-probability of the tokens, and its
gradient by states and output matrix; ours (``rlhf_core.modules.token_loss``) and full logits (``F.cross_entropy``), in
turn.
Goals: at most 250 MiB above states and matrix, and no slower than full logits.
"""

import argparse
import json
from typing import Any

from benchmarks.peers.child import Program, alternate


def measure(vocabulary: int, tokens: int, dim: int) -> dict[str, Any]:
    task: dict[str, Any] = {"vocabulary": vocabulary, "tokens": tokens, "dim": dim}
    with (
        Program("ours", task="log-prob", **task) as ours,
        Program("ours", task="full-logits", **task) as full,
    ):
        memory = [program.run(memory=True)["mebibytes"] for program in (ours, full)]
        found = dict(zip(("ours", "full_logits"), alternate((ours, full)), strict=True))
    for name, mebibytes in zip(found, memory, strict=True):
        found[name]["mebibytes"] = round(mebibytes, 1)
    speeds = [found[name]["tokens_per_second"] for name in ("ours", "full_logits")]
    return {**found, "over": {"full_logits": round(speeds[0] / speeds[1], 3)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--tokens", type=int, default=3072)
    parser.add_argument("--dim", type=int, default=512)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=1))


if __name__ == "__main__":
    main()
