"""Supervised fine-tuning of a policy on demonstrations, the loss on response tokens alone (docs/algorithms/sft.md).

A demonstration becomes tokens by the template of all other stages, so what is learned is what sampling asks for. The
order is a function of seed and epoch, so the resume state holds weights and optimiser alone.
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rlhf_core.checkpoint import load_policy, save_policy
from rlhf_core.config import SFTConfig, settings_to_dict
from rlhf_core.distributed import ALONE, Group
from rlhf_core.durable import canonical_json, file_sha256, sha256
from rlhf_core.errors import DatasetError
from rlhf_core.generation.log_probs import response_loss
from rlhf_core.modules.palm import PaLM
from rlhf_core.records import Demonstration
from rlhf_core.seeds import derive_seed
from rlhf_core.text.corpus import Part, digest
from rlhf_core.text.demonstrations import DemonstrationFile, EncodedDemonstrations, stream_demonstrations
from rlhf_core.text.template import encode_prompt
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.device import use_device
from rlhf_core.training.drift import drift_from
from rlhf_core.training.next_token import Course, make_optimizer, told_while_reading
from rlhf_core.training.run_directory import RunDirectory, metrics_to_keep, settings_digest
from rlhf_core.training.sharding import spread, whole_copy

SCOPE = "sft"
QUICK_VALIDATION = 256  # demonstrations that the loss is measured on while training; at the end all are
DRIFT_RESPONSES = 64  # that the KL to the parent is measured on, at each validation
PARTS: tuple[Part, ...] = ("train", "validation")


def train_sft(run: RunDirectory) -> None:
    """Fine-tune the run's policy on its demonstrations and leave a policy checkpoint in its store.

    Texts drawn on the way, to be shown and to measure the KL on, answer the run's prompts or, where it has none, the
    held-out ones.

    Raises:
        DatasetError: the demonstrations are missing or malformed.
        CheckpointError: the policy is damaged, or none.
        TrainingDiverged: loss or gradient is no longer finite; the last saved state stands.
        RunStopped: a stop was asked for; the state is saved.
    """
    config = cast(SFTConfig, run.config)
    group = run.group
    device = use_device(config.threads, run)
    palm, tokenizer, parent = load_policy(run.policy, device)
    training, held_out = prepare(run, tokenizer)
    given = [] if run.prompts_name is None else run.read_prompts()
    prompts = [encode_prompt(tokenizer, prompt.text, config.max_prompt_tokens) for prompt in given]
    if not prompts:
        asked = held_out if len(held_out) else training
        prompts = asked.rows(range(min(len(asked), max(config.samples, DRIFT_RESPONSES))))[0]

    scope = SCOPE if config.lora_rank else None
    before = palm if scope else load_policy(run.policy, device)[0]  # without its adapters, a policy is what it was
    if scope is not None:
        torch.manual_seed(derive_seed(config.seed, "initialise"))
        palm.add_finetune_params(scope, config.lora_rank)
    palm.train_only(scope)
    group.take_weights(palm)
    if config.fsdp:
        spread(palm, group)
    order = Order(len(training), config.batch_size, config.seed)
    steps = config.epochs * order.steps_an_epoch
    run_digest = settings_digest(run)
    course = Course(run, palm, make_optimizer(palm, config), config, steps=steps, digest=run_digest)

    quick = np.unique(np.linspace(0, max(0, len(held_out) - 1), QUICK_VALIDATION).astype(np.int64))
    known = {}
    if len(held_out):
        then = whole_copy(palm) if scope else before
        known["parent_validation_loss"] = validation_loss(then, held_out, quick, config.batch_size, None, group)
    for step in course:
        rows = order.rows(step)
        tokens, mine = training.response_tokens(rows), rows[group.share(len(rows))]
        read, factor = (mine, 1.0) if len(mine) else (rows[:1], 0.0)  # who has no row reads one that counts for nothing
        course.learn([response_nats(palm, training, read, scope)[0] * factor / tokens], tokens)
        if course.is_due:
            now = whole_copy(palm)
            then = now if scope else before
            found = {"epoch": step / order.steps_an_epoch, **known}
            if len(held_out):
                found["validation_loss"] = validation_loss(now, held_out, quick, config.batch_size, scope, group)
            found["kl"] = group.first(partial(drift, then, now, prompts, tokenizer, config, scope))
            course.measured(found, found.get("validation_loss"))
            course.show_samples(now, prompts, tokenizer, scope)
        course.close()

    palm = whole_copy(palm)
    before = palm if scope else before
    final = dict(course.last)
    if len(held_out) > QUICK_VALIDATION:
        run.progress(steps, steps, "evaluate")
        everything = np.arange(len(held_out))
        size = config.batch_size
        final["validation_loss"] = validation_loss(palm, held_out, everything, size, scope, group)
        final["parent_validation_loss"] = validation_loss(before, held_out, everything, size, None, group)
    meta = {
        **run.meta,
        "parent": parent["id"],
        "config": settings_to_dict(config),
        "run_digest": run_digest,
        "metrics": metrics_to_keep(final),
        "curve": course.curve,
        "training_demonstrations": len(training),
        "holdout_demonstrations": len(held_out),
    }
    outputs = [save_policy(run.store, palm.cpu(), tokenizer, meta, finetune_scope=scope)] if group.is_first else []
    run.finish(outputs, final)


def drift(
    parent: PaLM, palm: PaLM, prompts: list[list[int]], tokenizer: Tokenizer, config: SFTConfig, scope: str | None
) -> float:
    """KL to the parent in nats a response, on DRIFT_RESPONSES responses; equal policies give equal ones."""
    rows = range(DRIFT_RESPONSES)
    return drift_from(
        parent,
        palm,
        [prompts[row % len(prompts)] for row in rows],
        end_id=tokenizer.end,
        max_new_tokens=config.sample_tokens,
        seeds=[derive_seed(config.seed, "drift", row) for row in rows],
        finetune_scope=scope,
    ).value


# What to learn from


def prepare(run: RunDirectory, tokenizer: Tokenizer) -> tuple[EncodedDemonstrations, EncodedDemonstrations]:
    """Training and held-out demonstrations as tokens; made once from the same files and settings, kept in ``data/``."""
    folder = run.path / "data"
    found = run.group.first(lambda: make_tokens(run, tokenizer, folder))
    training, held_out = (DemonstrationFile(**found[part]).open(folder / f"{part}.tokens") for part in PARTS)
    return training, held_out


def make_tokens(run: RunDirectory, tokenizer: Tokenizer, folder: Path) -> dict[Part, dict[str, Any]]:
    """Write a file of demonstrations for each part into ``folder``, unless they are there; returns what describes them.

    Raises:
        DatasetError: the demonstrations are missing or malformed.
    """
    config = cast(SFTConfig, run.config)
    paths = [Path(path) for path in run.inputs.get("demonstrations") or []]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing or not paths:
        raise DatasetError(f"the run's demonstrations are missing: {', '.join(missing) or 'no file was named'}")
    source = sha256(
        canonical_json(
            {
                "files": [file_sha256(path) for path in paths],
                "tokenizer": tokenizer.sha256,
                "limits": [config.max_prompt_tokens, config.max_response_tokens],
                "holdout_fraction": config.holdout_fraction,
            }
        )
    )
    folder.mkdir(exist_ok=True)
    files = {part: folder / f"{part}.tokens" for part in PARTS}
    found = {part: DemonstrationFile.describe(path) for part, path in files.items()}
    if not all(described and described.source_sha256 == source for described in found.values()):
        run.log("reading the demonstrations")
        is_held_out = plan_holdout(paths, config.holdout_fraction)
        for part in PARTS:
            wanted = is_held_out if part == "validation" else ~is_held_out
            found[part] = DemonstrationFile.write(
                files[part],
                chosen(paths, wanted),
                tokenizer,
                max_prompt_tokens=config.max_prompt_tokens,
                max_response_tokens=config.max_response_tokens,
                source_sha256=source,
                on_batch=told_while_reading(run, int(wanted.sum()), f"encode {part}"),
            )
    training, held_out = (cast(DemonstrationFile, found[part]) for part in PARTS)
    cut = training.cut_responses + held_out.cut_responses
    run.log(
        f"training on {training.count} demonstrations, {held_out.count} held out; {cut} responses were cut, at "
        f"{config.max_response_tokens} tokens or before"
    )
    return {"train": asdict(training), "validation": asdict(held_out)}


def plan_holdout(paths: list[Path], fraction: float) -> np.ndarray:
    """(demonstrations,) bool, True for those kept for validation; all of one prompt stand on the same side.

    A prompt's own hash decides, so that one that was held out stays so as demonstrations are added, and ``fraction`` is
    met on average. Where the hashes choose no prompt, or all, the one next to the border changes sides.

    Raises:
        DatasetError: there are no demonstrations, or a line is malformed.
    """
    digests = np.fromiter((digest(item.prompt.strip()) for item in stream_demonstrations(paths)), dtype=np.uint64)
    if not len(digests):
        raise DatasetError("found 0 demonstrations; at least 1 is needed")
    prompts = np.unique(digests)  # rising
    below = int((prompts.astype(np.float64) / 2.0**64 < fraction).sum())
    held = min(max(1, below), len(prompts) - 1) if fraction > 0 else 0
    return digests < prompts[held]


def chosen(paths: list[Path], wanted: np.ndarray) -> Iterator[Demonstration]:
    """The demonstrations where ``wanted`` is True.

    Raises:
        DatasetError: the files have changed since ``wanted`` was planned.
    """
    count = 0
    for count, item in enumerate(stream_demonstrations(paths), start=1):
        if count > len(wanted):
            break
        if wanted[count - 1]:
            yield item
    if count != len(wanted):
        raise DatasetError("the files of demonstrations changed while they were being read")


class Order:
    """Which demonstrations each step learns from: every one once an epoch, in a fresh order each."""

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.steps_an_epoch = -(-count // batch_size)
        self.epoch = -1
        self.order = np.empty(0, dtype=np.int64)

    def rows(self, step: int) -> np.ndarray:
        """The places of a step, counted from 1; the same for the same seed and step."""
        epoch, place = divmod(step - 1, self.steps_an_epoch)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return self.order[place * self.batch_size : (place + 1) * self.batch_size]


# The loss


def response_nats(palm: PaLM, data: EncodedDemonstrations, places: np.ndarray, scope: str | None) -> tuple[Tensor, int]:
    """Negative log-likelihood in nats of all response tokens of some demonstrations, and how many tokens they are.

    The tokens of a prompt are read and not predicted: -log p(response | prompt), its ``end`` included.
    """
    found = response_loss(palm, *data.rows(places), lambda log_probs, _, __: -log_probs.sum(), finetune_scope=scope)
    return found.loss, len(found.log_probs)


@torch.no_grad()
def validation_loss(
    palm: PaLM,
    data: EncodedDemonstrations,
    places: np.ndarray,
    batch_size: int,
    scope: str | None,
    group: Group = ALONE,
) -> float:
    """Mean nats a response token of some demonstrations; those of like length are read together, to pad little.

    The processes of ``group`` share the batches.
    """
    lengths = data.bounds[places, 2] - data.bounds[places, 0]
    by_length = places[np.argsort(lengths, kind="stable")]
    total, counted = 0.0, 0
    batches = range(0, len(by_length), batch_size)
    for at in batches[group.rank :: group.size]:  # in turn, since the later ones are the longer ones
        nats, tokens = response_nats(palm, data, by_length[at : at + batch_size], scope)
        total, counted = total + float(nats), counted + tokens
    total, number = group.sums(total, counted)
    return total / number
