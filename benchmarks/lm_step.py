"""The language-model training step beside the peers': ``python -m benchmarks.lm_step [--palm]``; JSON out.

The 5M shape of ``benchmarks/peers/shapes.py``, 8 x 128 tokens, float32: forward pass, backward pass and fused AdamW; no
clipping, since a peer's step has none. Goals: at least 1.15 times the tokens/s of transformers' Llama of the same size,
and at most 170 MiB above the loaded model. Needs ``make bench-peers``.
"""

import argparse
import json
from contextlib import ExitStack
from typing import Any

from benchmarks.peers.child import Program, alternate

TASK: dict[str, Any] = {"task": "lm-step", "size": "5M", "batch": 8, "length": 128, "steps": 5, "learning_rate": 1e-4}


def measure(with_palm: bool) -> dict[str, Any]:
    peers: dict[str, tuple[str, str | None]] = {"ours": ("ours", None), "transformers": ("llama", "transformers")}
    if with_palm:
        peers["palm_rlhf_pytorch"] = ("palm", "palm")
    with ExitStack() as stack:
        programs = [stack.enter_context(Program(*program, **TASK)) for program in peers.values()]
        memory = [program.run(memory=True)["mebibytes"] for program in programs]
        found = dict(zip(peers, alternate(programs), strict=True))
    for name, mebibytes in zip(peers, memory, strict=True):
        found[name]["mebibytes"] = round(mebibytes, 1)
    ours = found["ours"]["tokens_per_second"]
    return {
        **found,
        "over": {name: round(ours / found[name]["tokens_per_second"], 3) for name in peers if name != "ours"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--palm", action="store_true", help="palm-rlhf-pytorch too")
    print(json.dumps(measure(parser.parse_args().palm), indent=1))


if __name__ == "__main__":
    main()
