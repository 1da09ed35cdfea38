"""How fast responses are drawn: ``python -m benchmarks.decoding [--sizes 5M] [--only speed]``; JSON out.

``speed``: tokens a second for prompts of 64 tokens and 128 new ones, temperature 1, no end token, float32, medians of
five; and the share of what the machine permits, measured in the same run: the time to read all weights once or to
multiply by them, whichever is longer, a step, and the multiplying of the prompts.
``geometric``: answers of geometric length (mean a quarter of the limit) through 32 rows, beside the same number of
tokens in answers of one length, which wait for nobody.
``company``: 1,000 rows drawn alone and in company; how many have the same tokens.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from rlhf_core.config import SamplingConfig
from rlhf_core.generation.sampler import Generation, generate_batch
from rlhf_core.generation.stopping import Stopping
from rlhf_core.modules.palm import PaLM

SHAPES = {"5M": (256, 4), "25M": (512, 6), "125M": (1024, 8)}  # dim and depth; heads of 64, feed-forward 4x
BATCHES = (1, 8, 32, 64)
VOCABULARY = 4096
PROMPT, NEW, ROWS = 64, 128, 32
RUNS = 5


def make_palm(size: str) -> PaLM:
    """A model of this size with fresh weights: its choices are almost uniform, and every row goes its own way."""
    dim, depth = SHAPES[size]
    torch.manual_seed(0)
    return PaLM(dim=dim, num_tokens=VOCABULARY, depth=depth, heads=dim // 64, dim_head=64).eval()


def make_prompts(count: int, shortest: int = PROMPT) -> list[list[int]]:
    """Random prompts of ``shortest`` to ``PROMPT`` tokens."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(shortest, PROMPT + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def draw(
    palm: PaLM, prompts: Sequence[Sequence[int]], new: int, rows: int | None = None, stopping: Stopping | None = None
) -> list[Generation]:
    """One response to each prompt; without ``stopping`` each of ``new`` tokens."""
    return generate_batch(
        palm,
        prompts,
        sampling=SamplingConfig(max_new_tokens=new),
        end_id=None,
        seeds=range(len(prompts)),
        rows=rows,
        stopping=stopping,
    )


def seconds_in_turn(calls: Sequence[Callable[[], object]], runs: int = RUNS) -> list[float]:
    """Median seconds of each call, all called in turn ``runs`` times, after once to warm up."""
    found: list[list[float]] = [[] for _ in calls]
    for turn in range(runs + 1):
        for call, seconds in zip(calls, found, strict=True):
            begun = time.perf_counter()
            call()
            if turn:
                seconds.append(time.perf_counter() - begun)
    return [statistics.median(seconds) for seconds in found]


# What the machine permits


def bytes_per_second(size: int) -> float:
    """Reading ``size`` bytes that nothing else uses: weights that fit a cache are read faster than others."""
    numbers = torch.ones(size // 4)
    matrix, vector = numbers[: size // 4 // 1024 * 1024].view(-1, 1024), torch.ones(1024)
    return max(size / quickest(numbers.sum), 4 * matrix.numel() / quickest(lambda: matrix @ vector))


def flop_per_second() -> float:
    """Multiplying large matrices."""
    matrix = torch.randn(1024, 1024)
    return 2 * 1024**3 / quickest(lambda: matrix @ matrix)


def quickest(call: Callable[[], object], runs: int = 20) -> float:
    found = []
    for _ in range(runs):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return min(found)


def measure_speed(size: str) -> dict[str, Any]:
    """Tokens a second and their share of the limit, by batch."""
    palm = make_palm(size)
    weights = sum(parameter.numel() for parameter in palm.parameters())
    in_blocks = weights - palm.token_emb.weight.numel()  # the output matrix is not needed to read a prompt
    found: dict[str, Any] = {"weights": weights}
    for batch in BATCHES:
        bandwidth, flops = bytes_per_second(4 * weights), flop_per_second()
        step = max(4 * weights / bandwidth, 2 * weights * batch / flops)
        limit = batch * NEW / (NEW * step + 2 * in_blocks * batch * PROMPT / flops)
        prompts = make_prompts(batch)
        seconds = seconds_in_turn([lambda prompts=prompts: draw(palm, prompts, NEW)])[0]  # type: ignore[misc]
        found[f"batch_{batch}"] = {
            "tokens_per_second": round(batch * NEW / seconds, 1),
            "limit": round(limit, 1),
            "of_limit": round(batch * NEW / seconds / limit, 3),
            "gigabytes_per_second": round(bandwidth / 1e9, 1),
            "gigaflop_per_second": round(flops / 1e9, 1),
        }
        print(f"{size}, batch {batch}: {found[f'batch_{batch}']}", file=sys.stderr)
    return found


def measure_geometric(count: int) -> dict[str, Any]:
    """Answers that end with probability 4 / limit at each token, and as many tokens in answers of their mean length."""
    palm, prompts = make_palm("5M"), make_prompts(count)
    ends = Stopping(range(VOCABULARY * 4 // NEW))  # a share 4 / NEW of the vocabulary, of almost equal likelihood
    lengths = [len(one.tokens) for one in draw(palm, prompts, NEW, ROWS, ends)]
    mean = round(statistics.fmean(lengths))
    seconds, even = seconds_in_turn(
        [lambda: draw(palm, prompts, NEW, ROWS, ends), lambda: draw(palm, prompts, mean, ROWS)]
    )
    ideal = even * sum(lengths) / (mean * count)
    return {
        "mean_length": round(statistics.fmean(lengths), 1),
        "longest": max(lengths),
        "seconds": round(seconds, 3),
        "ideal_seconds": round(ideal, 3),
        "over_ideal": round(seconds / ideal, 3),
        "longest_over_mean": round(max(lengths) / statistics.fmean(lengths), 2),
    }


def measure_company(count: int = 1000, new: int = 32) -> dict[str, Any]:
    """How many of the rows have the same tokens alone and among 64."""
    palm, prompts = make_palm("5M"), make_prompts(count, shortest=4)
    sampling = SamplingConfig(max_new_tokens=new)
    together = draw(palm, prompts, new, rows=64)
    alone = [
        generate_batch(palm, [prompt], sampling=sampling, end_id=None, seeds=[row])[0]
        for row, prompt in enumerate(prompts)
    ]
    same = sum(one.tokens == other.tokens for one, other in zip(alone, together, strict=True))
    to_the_last_bit = sum(one == other for one, other in zip(alone, together, strict=True))
    return {"rows": count, "same_share": same / count, "same_log_probs_share": to_the_last_bit / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--only", choices=("speed", "geometric", "company"))
    arguments = parser.parse_args()
    found: dict[str, Any] = {"threads": torch.get_num_threads()}
    if arguments.only in (None, "speed"):
        found["speed"] = {size: measure_speed(size) for size in arguments.sizes}
    if arguments.only in (None, "geometric"):
        found["geometric"] = {f"prompts_{count}": measure_geometric(count) for count in (32, 256)}
    if arguments.only in (None, "company"):
        found["company"] = measure_company()
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
