"""``python -m rlhf_core sample``: draws responses and prints them; torch loads when it draws."""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_core.config import SamplingConfig
from rlhf_core.errors import ConfigError
from rlhf_core.options import build_settings, check_names, read_settings_file, settings_fields
from rlhf_core.records import Prompt, read_prompts
from rlhf_core.requests import number_between
from rlhf_core.threads import use_threads
from rlhf_core.training.run_directory import EXIT_DONE

if TYPE_CHECKING:
    from rlhf_core.generation.sampler import Generation

ROWS_AT_ONCE = 64


def sample(options: argparse.Namespace) -> int:
    """Draw responses and print them."""
    given = {name: value for name, value in vars(options).items() if value is not None and name != "command"}
    from_file = read_settings_file(given.pop("config")) if "config" in given else {}
    names = {item.name for item in settings_fields(SamplingConfig)}
    check_names(names | SAMPLE_OPTIONS, from_file)
    wanted = {**from_file, **given}
    sampling = build_settings(SamplingConfig, {name: value for name, value in wanted.items() if name in names})
    samples = number_between("samples", wanted.get("samples", 1), 1, 100_000)
    seed = number_between("seed", wanted.get("seed", 0), 0, 2**63)
    threads = number_between("threads", wanted.get("threads", 0), 0, 1024)
    if "policy" not in wanted:
        raise ConfigError("policy", None, "given (--policy): the folder of a checkpoint")
    prompts = prompts_to_answer(wanted)

    from rlhf_core.checkpoint import load_policy  # torch loads here
    from rlhf_core.generation.sampler import generate_stream
    from rlhf_core.text.template import encode_prompt

    palm, tokenizer, _ = load_policy(wanted["policy"])
    use_threads(threads)
    encoded = [encode_prompt(tokenizer, prompt.text, sampling.max_prompt_tokens) for prompt in prompts]
    drawn = generate_stream(
        palm,
        encoded,
        sampling=sampling,
        end_id=tokenizer.end,
        seeds=[seed + number for number in range(len(prompts) * samples)],
        samples_per_prompt=samples,
        rows=ROWS_AT_ONCE,
    )
    for number, generation in in_order(drawn):
        prompt, text = prompts[number // samples], tokenizer.decode(generation.tokens)
        if not wanted.get("json"):
            print(f"[{seed + number}] {prompt.text.rstrip()}{text}\n", flush=True)
            continue
        line = {
            "prompt_id": prompt.prompt_id,
            "prompt": prompt.text,
            "seed": seed + number,
            "text": text,
            "tokens": generation.tokens,
            "log_prob": sum(generation.log_probs),
            "finish_reason": generation.finish_reason,
        }
        print(json.dumps(line), flush=True)
    return EXIT_DONE


SAMPLE_OPTIONS = {"policy", "prompt", "prompts", "samples", "seed", "json", "threads"}


def in_order(drawn: "Iterable[tuple[int, Generation]]") -> "Iterator[tuple[int, Generation]]":
    """Responses by number, each as soon as those before it have ended too."""
    waiting: dict[int, Generation] = {}
    following = 0
    for number, generation in drawn:
        waiting[number] = generation
        while following in waiting:
            yield following, waiting.pop(following)
            following += 1


def prompts_to_answer(wanted: dict[str, Any]) -> list[Prompt]:
    """The one prompt, or those of a file.

    Raises:
        ConfigError: neither is given, or both, or the prompt is empty, or the file is missing.
        DatasetError: a line of the file is malformed.
    """
    if ("prompt" in wanted) == ("prompts" in wanted):
        raise ConfigError("prompt", wanted.get("prompt"), "given, or else --prompts FILE, and not both")
    if "prompt" in wanted:
        if not isinstance(wanted["prompt"], str) or not wanted["prompt"].strip():
            raise ConfigError("prompt", wanted["prompt"], "text that is not empty")
        return [Prompt("prompt", wanted["prompt"])]
    path = Path(wanted["prompts"])
    if not path.is_file():
        raise ConfigError("prompts", str(path), "an existing file")
    return read_prompts(path)
