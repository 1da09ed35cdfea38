"""Comparing a candidate with the policies before it on held-out prompts (docs/algorithms/evaluation.md).

It trains nothing. Every policy answers every prompt once; the candidate's own responses are then read by each of the
others, which gives the KL, and a reward model scores all of them.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch

from rlhf_core.checkpoint import load_policy
from rlhf_core.config import EvaluateConfig
from rlhf_core.durable import sha256, write_atomically
from rlhf_core.errors import CheckpointError, DatasetError, TrainingDiverged
from rlhf_core.evaluation import describe_responses, estimate, paired_difference, sequence_kl_estimate
from rlhf_core.generation.log_probs import sequence_log_probs
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.kl import k1, k3
from rlhf_core.modules.palm import PaLM
from rlhf_core.records import Prompt
from rlhf_core.seeds import derive_seed
from rlhf_core.store import verify
from rlhf_core.text.template import encode_prompt
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.device import use_device
from rlhf_core.training.run_directory import RunDirectory, RunStopped, settings_digest
from rlhf_core.training.scoring import Scoring, load_scoring

SAMPLES = "samples.jsonl"
CANDIDATE = "candidate"


@dataclass(frozen=True, slots=True)
class Answer:
    """One policy's response to one prompt, with all it takes to draw it again.

    Attributes:
        log_prob: summed over ``tokens``, in nats, under the distribution that they were drawn from.
        reward: the score of the reward model or function; None without one.
        uncertainty: standard deviation, between the members of an ensemble and of each by itself; None for others.
        candidate_log_probs: this policy's log-probability of each token of the *candidate's* response to the prompt,
            at the sampling temperature.
    """

    prompt_id: str
    seed: int
    prompt_tokens: list[int]
    tokens: list[int]
    text: str
    finish_reason: str
    log_prob: float
    reward: float | None
    candidate_log_probs: list[float]
    uncertainty: float | None = None


def evaluate_policy(run: RunDirectory) -> None:
    """Draw, read and score the responses, write them to ``samples.jsonl`` and the comparison to ``result.json``.

    The answers of each policy are saved once it is through, so a run that was killed asks nobody twice. Equal settings
    give equal responses: each one's seed comes from (seed, prompt, checkpoint).

    Raises:
        DatasetError: there are no prompts.
        CheckpointError: a checkpoint is damaged, or the policies and the reward model don't share a tokenizer.
        TrainingDiverged: logits or a score are not finite.
        RunStopped: a stop was asked for.
    """
    config = cast(EvaluateConfig, run.config)
    device = use_device(config.threads, run)
    prompts = run.read_prompts()
    prompts = prompts[: config.prompts or len(prompts)]
    if not prompts:
        raise DatasetError("found 0 held-out prompts; at least 1 is needed")
    parts = {CANDIDATE: run.policy, **run.references}
    ids = {part: str(verify(path)["id"]) for part, path in parts.items()}
    tokenizer = load_policy(run.policy)[1]
    scoring = load_scoring(run, tokenizer, device)

    answers: dict[str, list[Answer]] = {}
    digest = settings_digest(run)
    state = run.load_state()
    if state is not None and state.values["digest"] == digest:
        answers = {id_: [Answer(**row) for row in rows] for id_, rows in state.values["answers"].items()}
    distinct = {id_: part for part, id_ in reversed(ids.items())}  # each checkpoint under the first of its parts
    total = len(distinct) * len(prompts)
    started, drawn = time.perf_counter(), 0
    for part in (part for part in parts if distinct[ids[part]] == part and ids[part] not in answers):
        asking = Asking(run, part, done=len(answers) * len(prompts), total=total)
        answers[ids[part]] = ask(
            asking,
            load_same(parts[part], tokenizer).to(device),
            ids[part],
            tokenizer,
            prompts,
            answers.get(ids[CANDIDATE]),
            scoring,
        )
        drawn += sum(len(answer.tokens) for answer in answers[ids[part]])
        run.save_or_stop(asking.done + len(prompts), 1, lambda: ({}, capture(digest, answers)))

    by_part = {part: answers[id_] for part, id_ in ids.items()}
    report, metrics = compare(by_part)
    metrics["tokens_per_second"] = drawn / (time.perf_counter() - started)
    run.metrics(total, metrics)
    report["prompts"] = len(prompts)
    report["checkpoints"] = ids
    digest = run.group.first(lambda: write_samples(run.path / SAMPLES, answers))
    report["samples"] = {"file": SAMPLES, "sha256": digest}
    run.finish([], metrics, report)


def load_same(path: Path, tokenizer: Tokenizer) -> PaLM:
    """The policy of a checkpoint, which must write with ``tokenizer``: else no KL between the two is defined."""
    palm, own, _ = load_policy(path)
    if own.sha256 != tokenizer.sha256:
        raise CheckpointError(f"{path.name} writes other tokens than the candidate: their tokenizers differ")
    return palm


@dataclass(frozen=True, slots=True)
class Asking:
    """How far the run is when one policy's turn begins; counted in responses."""

    run: RunDirectory
    part: str
    done: int
    total: int

    def tell(self, count: int) -> None:
        """``count`` more responses are there.

        Raises:
            RunStopped: a stop was asked for; the answers of this policy are left out.
        """
        self.run.progress(self.done + count, self.total, f"answers of the {self.part}")
        (is_last,) = self.run.group.any(self.run.stop_requested)
        if is_last:
            raise RunStopped(f"stopped after {self.done} responses that are kept")


@torch.inference_mode()
def ask(
    asking: Asking,
    palm: PaLM,
    checkpoint: str,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    candidates: Sequence[Answer] | None,
    scoring: Scoring | None,
) -> list[Answer]:
    """One policy's response to each prompt, and how likely the candidate's responses are under it.

    Each of several processes answers its share of the prompts, a batch at a time.

    Args:
        checkpoint: the policy's id, which with the prompt's makes the seed.
        candidates: the candidate's answers to the same prompts; None where this policy is the candidate.
    """
    config, group = cast(EvaluateConfig, asking.run.config), asking.run.group
    answers: list[Answer] = []
    asking.tell(0)
    for at in range(0, len(prompts), config.batch_size * group.size):
        places = range(at, min(at + config.batch_size * group.size, len(prompts)))
        mine = places[group.share(len(places))]
        read = None if candidates is None else [candidates[place].tokens for place in mine]
        found = answer(asking, palm, checkpoint, tokenizer, [prompts[place] for place in mine], read, scoring)
        answers += [Answer(**row) for row in group.gather_rows([asdict(one) for one in found])]
        rewards = [one.reward for one in answers[at:]]
        if any(reward is not None and not math.isfinite(reward) for reward in rewards):
            raise TrainingDiverged(f"a score of the {asking.part}'s responses is not finite: {rewards}")
        asking.tell(len(answers))
    return answers


def answer(
    asking: Asking,
    palm: PaLM,
    checkpoint: str,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    read: list[list[int]] | None,
    scoring: Scoring | None,
) -> list[Answer]:
    """One policy's response to each prompt of a batch.

    Args:
        read: the candidate's responses, to say how likely they are under this policy; None takes its own.
    """
    if not prompts:
        return []
    config = cast(EvaluateConfig, asking.run.config)
    encoded = [encode_prompt(tokenizer, prompt.text, config.max_prompt_tokens) for prompt in prompts]
    seeds = [derive_seed(config.seed, "evaluate", prompt.prompt_id, checkpoint) for prompt in prompts]
    drawn = generate_batch(palm, encoded, sampling=config.sampling, end_id=tokenizer.end, seeds=seeds)
    responses = [generation.tokens for generation in drawn]
    read = responses if read is None else read
    found = sequence_log_probs(palm, encoded, read, temperature=config.temperature)
    nothing: list[float | None] = [None] * len(prompts)
    rewards, uncertainties = scoring.score_with_uncertainty(encoded, responses) if scoring else (nothing, nothing)
    return [
        Answer(
            prompt_id=prompt.prompt_id,
            seed=seeds[row],
            prompt_tokens=encoded[row],
            tokens=generation.tokens,
            text=tokenizer.decode(generation.tokens),
            finish_reason=generation.finish_reason,
            log_prob=math.fsum(generation.log_probs),
            reward=rewards[row],
            uncertainty=uncertainties[row],
            candidate_log_probs=found.log_probs[row, : len(read[row])].tolist(),
        )
        for row, (prompt, generation) in enumerate(zip(prompts, drawn, strict=True))
    ]


def capture(digest: str, answers: Mapping[str, Sequence[Answer]]) -> dict[str, Any]:
    """What a run goes on from: the answers of the policies that are through."""
    return {"digest": digest, "answers": {id_: [asdict(row) for row in rows] for id_, rows in answers.items()}}


def write_samples(path: Path, answers: Mapping[str, Sequence[Answer]]) -> str:
    """Write one JSON line a response, with the checkpoint that it is of; returns the file's SHA-256."""
    lines = []
    for checkpoint, rows in answers.items():
        for row in rows:
            fields = {name: value for name, value in asdict(row).items() if name != "candidate_log_probs"}
            lines.append(json.dumps({"checkpoint": checkpoint, **fields}, sort_keys=True) + "\n")
    data = "".join(lines).encode()
    write_atomically(path, data)
    return sha256(data)


def compare(by_part: Mapping[str, Sequence[Answer]]) -> tuple[dict[str, Any], dict[str, float]]:
    """What the answers say: everything with its uncertainty as plain JSON, and METRICS["evaluate"] for the log.

    Args:
        by_part: the answers to the same prompts in the same order of "candidate" and of each policy beside it.
    """
    ours = by_part[CANDIDATE]
    policies: dict[str, dict[str, Any]] = {}
    kl: dict[str, dict[str, Any]] = {}
    differences: dict[str, dict[str, Any]] = {}
    for part, rows in by_part.items():
        ended = [row.finish_reason == "end" for row in rows]
        policies[part] = {
            **describe_responses([row.tokens for row in rows], ended),
            "reward": estimate(rewards_of(rows)).as_dict() if rewards_of(rows) else None,
        }
        if part == CANDIDATE:
            continue
        kl[part] = kl_between(ours, rows)
        if rewards_of(rows):
            differences[part] = paired_difference(rewards_of(ours), rewards_of(rows)).as_dict()

    candidate = policies[CANDIDATE]
    metrics = {name: value for name, value in candidate.items() if name != "reward"}
    if candidate["reward"]:
        metrics["reward"] = candidate["reward"]["value"]
    if "parent" in differences:
        metrics["reward_difference"] = differences["parent"]["value"]
        metrics["reward_difference_error"] = differences["parent"]["error"]
    for part in ("base", "parent"):
        if part in kl:
            metrics[f"kl_{part}"], metrics[f"kl_{part}_error"] = kl[part]["value"], kl[part]["error"]
            metrics[f"k3_{part}"] = kl[part]["k3"]["value"]
    known = {name: value for name, value in metrics.items() if value is not None}
    return {"policies": policies, "kl": kl, "reward_differences": differences}, known


def rewards_of(answers: Sequence[Answer]) -> list[float]:
    """The scores; empty where there was no reward model."""
    return [answer.reward for answer in answers if answer.reward is not None]


def kl_between(ours: Sequence[Answer], theirs: Sequence[Answer]) -> dict[str, Any]:
    """Sequence KL of the candidate to another policy from the candidate's responses: k1 with its error, and k3."""
    pairs = [
        (torch.tensor(mine.candidate_log_probs), torch.tensor(other.candidate_log_probs))
        for mine, other in zip(ours, theirs, strict=True)
    ]
    by_k1 = sequence_kl_estimate([k1(mine, other).tolist() for mine, other in pairs])
    by_k3 = sequence_kl_estimate([k3(mine, other).tolist() for mine, other in pairs])
    return {**by_k1.as_dict(), "k3": by_k3.as_dict()}
