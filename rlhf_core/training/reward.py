"""Training a reward model on 1-5 ratings and comparisons together (docs/algorithms/reward-model.md)."""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor

from rlhf_core.checkpoint import load_policy, save_reward_model
from rlhf_core.config import RewardConfig, SamplingConfig, settings_to_dict
from rlhf_core.errors import DatasetError
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.losses import binned_cross_entropy
from rlhf_core.masking import join_sequences
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Comparison, Feedback, ScoredResponse
from rlhf_core.seeds import derive_generator, derive_seed
from rlhf_core.training.descent import descend
from rlhf_core.training.device import use_device
from rlhf_core.training.run_directory import RunDirectory, settings_digest
from rlhf_core.training.state import optimizer_tensors, restore_optimizer, take_prefix, with_prefix

DROPOUT = 0.1  # in the reward model's trunk while it learns
ADAM_EPSILON = 1e-5
REFERENCE_RESPONSES = 128
RATING_STEPS = 5  # ScoredResponse.score is 1 to 5


def train_reward(run: RunDirectory) -> None:
    """Train, normalise and save a reward model; goes on where a stopped or killed run left off.

    Raises:
        DatasetError: the feedback cannot train a model; says what was found and what is needed.
        TrainingDiverged: a loss, gradient or score is not finite; the last saved state stands.
        RunStopped: a stop was asked for and the state is saved.
    """
    config = cast(RewardConfig, run.config)
    device = use_device(config.threads)
    palm, tokenizer, parent = load_policy(run.policy)
    palm = palm.to(device)
    records = usable_feedback(run.read_feedback(), palm.num_tokens, config.minimum_ratings)
    training, holdout = split_by_prompt(records, config.holdout_fraction, config.seed)
    check_informative(training, "left for training after the holdout was set aside" if holdout else "found")

    torch.manual_seed(derive_seed(config.seed, "initialise"))
    model = RewardModel(
        palm,
        dropout=DROPOUT,
        num_binned_output=config.bins,
        use_lora=config.lora_rank > 0,
        lora_r=max(config.lora_rank, 1),
    )
    model.start_from_habits(torch.tensor([item.strength for item in training if isinstance(item, Comparison)]).long())
    optimizer = make_optimizer(model, config)
    order = plan_steps(len(training), config)
    run.log(describe(training, holdout))

    digest = settings_digest(run)
    start, last = 0, dict[str, float]()
    state = run.load_state(digest)
    if state is not None:
        start, last = state.step, state.values["metrics"]
        model.load_state_dict(take_prefix("model", state.tensors), strict=False)
        restore_optimizer(optimizer, take_prefix("optimizer", state.tensors), state.values["optimizer"])

    for step in range(start, len(order)):
        started = time.perf_counter()
        learning_rate = config.learning_rate * (1 - step / len(order))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * group["factor"]
        torch.manual_seed(derive_seed(config.seed, "dropout", step))
        model.train()
        batch = [training[index] for index in order[step]]
        found = feedback_loss(model, batch)
        norm = descend(optimizer, found.loss, model.finetune_parameters(), config.max_grad_norm, f"step {step + 1}")
        seconds = time.perf_counter() - started

        now = {**found.metrics, "grad_norm": norm, "learning_rate": learning_rate}
        now["tokens_per_second"] = found.tokens / seconds
        if holdout and ((step + 1) % steps_per_epoch(len(training), config) == 0 or step + 1 == len(order)):
            now |= measure_holdout(model, holdout)
        run.metrics(step + 1, now)
        last = {**last, **now}  # a step may lack a metric: the newest of each is the run's result
        run.progress(step + 1, len(order), "train")
        run.save_or_stop(step + 1, config.save_interval, lambda saved=last: capture(model, optimizer, saved, digest))  # type: ignore[misc]

    model.eval()
    run.progress(len(order), len(order), "normalise")
    prompts, responses = reference_responses(palm, training, config.seed, tokenizer.end, config.temperature)
    model.normalise(join_sequences(prompts, responses, device=device))
    meta = {
        **run.meta,
        "parent": parent["id"],
        "config": settings_to_dict(config),
        "run_digest": digest,
        "metrics": {name: value for name, value in last.items() if name != "tokens_per_second"},
        "training_records": len(training),
        "holdout_records": len(holdout),
        "reference_mean": float(model.reward_mean),
        "reference_std": float(model.reward_std),
    }
    output = save_reward_model(run.store, model, tokenizer, meta)
    run.finish([output], last)


# What to learn from


def usable_feedback(records: Sequence[Feedback], num_tokens: int, minimum: int) -> list[Feedback]:
    """The records that can teach something; comparisons of a response with itself are left out.

    Raises:
        DatasetError: too few, one-sided, or with tokens that the policy doesn't know.
    """
    usable = [item for item in records if not (isinstance(item, Comparison) and is_with_itself(item))]
    for item in usable:
        highest = max(max(tokens) for tokens in (item.prompt_tokens, *response_tokens(item)))
        if highest >= num_tokens:
            raise DatasetError(
                f"rating {item.rating_id!r} holds token {highest}; the policy knows 0 to {num_tokens - 1}"
            )
    if len(usable) < minimum:
        left_out = len(records) - len(usable)
        note = f" ({left_out} more compare a response with itself)" if left_out else ""
        raise DatasetError(f"found {len(usable)} usable ratings{note}; at least {minimum} are needed")
    check_informative(usable, "found")
    return usable


def is_with_itself(item: Comparison) -> bool:
    return item.chosen_tokens == item.rejected_tokens


def response_tokens(item: Feedback) -> list[tuple[int, ...]]:
    """The one response of a score, or chosen and rejected of a comparison."""
    return [item.response_tokens] if isinstance(item, ScoredResponse) else [item.chosen_tokens, item.rejected_tokens]


def check_informative(records: Sequence[Feedback], where: str) -> None:
    """Refuse feedback that says of nothing that it is better than something else.

    Two pieces of evidence at least: comparisons that are no ties, and scores that differ from the commonest one.

    Raises:
        DatasetError: names what was found and what is needed.
    """
    scores = [item.score for item in records if isinstance(item, ScoredResponse)]
    comparisons = [item for item in records if isinstance(item, Comparison)]
    preferences = sum(item.strength > 0 for item in comparisons)
    commonest = max(scores.count(score) for score in set(scores)) if scores else 0
    if preferences + len(scores) - commonest >= 2:
        return
    if comparisons and not scores:
        problem = f"{len(comparisons) - preferences} of {len(comparisons)} comparisons {where} are ties"
    elif scores and not comparisons:
        problem = f"{commonest} of {len(scores)} scores {where} are the same"
    else:
        problem = (
            f"{commonest} of {len(scores)} scores {where} are the same "
            f"and {len(comparisons) - preferences} of {len(comparisons)} comparisons are ties"
        )
    raise DatasetError(
        f"the feedback is one-sided: {problem}. Needed are at least two verdicts that tell better from worse: "
        "comparisons that are no ties, or scores that differ"
    )


def split_by_prompt(records: Sequence[Feedback], fraction: float, seed: int) -> tuple[list[Feedback], list[Feedback]]:
    """Training and holdout records; all records of a prompt stand on the same side.

    Records belong together when they share a prompt's id or its tokens. A hash of seed and prompt decides, so that a
    prompt that was held out stays so as feedback grows, and ``fraction`` is met on average. Where the hashes choose no
    prompt, or all, the one next to the border changes sides.
    """
    groups: dict[int, list[Feedback]] = {}
    for number, item in zip(prompt_groups(records), records, strict=True):
        groups.setdefault(number, []).append(item)

    def place(items: list[Feedback]) -> float:
        digests = (hashlib.sha256(f"{seed}/{item.prompt_tokens}".encode()).digest() for item in items)
        return min(int.from_bytes(digest[:8]) for digest in digests) / 2**64

    ordered = sorted(groups.values(), key=place)
    below = sum(place(items) < fraction for items in ordered)
    held = min(max(1, below), len(ordered) - 1) if fraction > 0 else 0
    training = [item for group in ordered[held:] for item in group]
    return training, [item for group in ordered[:held] for item in group]


def prompt_groups(records: Sequence[Feedback]) -> list[int]:
    """A number for each record; equal where two share a prompt id or prompt tokens, directly or by way of others."""
    parent: dict[Any, Any] = {}

    def root(key: Any) -> Any:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    for item in records:
        parent[root(item.prompt_id)] = root(item.prompt_tokens)
    roots = [root(item.prompt_tokens) for item in records]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(roots))}
    return [numbers[key] for key in roots]


def describe(training: Sequence[Feedback], holdout: Sequence[Feedback]) -> str:
    """One line for the log."""
    scores = sum(isinstance(item, ScoredResponse) for item in training)
    return (
        f"training on {len(training) - scores} comparisons and {scores} scores; "
        f"{len(holdout)} ratings of other prompts are held out"
    )


# Steps


def steps_per_epoch(records: int, config: RewardConfig) -> int:
    return -(-records // config.batch_size)


def plan_steps(records: int, config: RewardConfig) -> list[list[int]]:
    """Which records each optimiser step sees: every record once an epoch, in a fresh order each."""
    steps = []
    for epoch in range(config.epochs):
        order = torch.randperm(records, generator=derive_generator(config.seed, "order", epoch)).tolist()
        steps += [order[at : at + config.batch_size] for at in range(0, records, config.batch_size)]
    return steps


def make_optimizer(model: RewardModel, config: RewardConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay. The few numbers of the comparison model have far to go: they learn ten times faster."""
    few = [model.comparison_log_scale, model.step_biases]
    others = [parameter for parameter in model.finetune_parameters() if all(parameter is not one for one in few)]
    groups = [
        {"params": [one for one in others if one.ndim > 1], "factor": 1.0, "weight_decay": config.weight_decay},
        {"params": [one for one in others if one.ndim <= 1], "factor": 1.0, "weight_decay": 0.0},
        {"params": few, "factor": 10.0, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, eps=ADAM_EPSILON)


@dataclass(frozen=True)
class FeedbackLoss:
    """Loss of a batch with gradient, its metrics, and how many tokens were read."""

    loss: Tensor
    metrics: dict[str, float]
    tokens: int


def feedback_loss(model: RewardModel, batch: Sequence[Feedback]) -> FeedbackLoss:
    """Mean negative log-likelihood of verdicts of both kinds, in nats, in one forward pass.

    Scores and comparisons are both probabilities of a verdict, so their log-likelihoods add without a coefficient.
    """
    scored = [item for item in batch if isinstance(item, ScoredResponse)]
    compared = [item for item in batch if isinstance(item, Comparison)]
    items: list[Feedback] = [*scored, *compared]
    outputs, tokens = head_outputs(model, items)
    weights = torch.tensor([item.weight for item in items], device=outputs.device)
    loss = outputs.new_zeros(())
    metrics: dict[str, float] = {}
    right: list[float] = []
    if scored:
        labels = torch.tensor([score_to_bin(item.score, model.bins) for item in scored], device=outputs.device)
        kept = weights[: len(scored)]
        score_loss = binned_cross_entropy(outputs[: len(scored)], labels, kept)
        loss = loss + score_loss * kept.sum() / weights.sum()
        metrics["score_loss"] = float(score_loss.detach())
        values = model.value(outputs[: len(scored)].detach()).tolist()
        right += concordance(values, [item.score for item in scored])
    if compared:
        chosen, rejected = model.value(outputs[len(scored) :]).view(len(compared), 2).unbind(dim=1)
        kept = weights[len(scored) :]
        strengths = torch.tensor([item.strength for item in compared], device=outputs.device)
        loss_of_comparisons = model.comparison_loss(chosen, rejected, strengths, kept)
        loss = loss + loss_of_comparisons * kept.sum() / weights.sum()
        metrics["comparison_loss"] = float(loss_of_comparisons.detach())
        right += verdicts_right(chosen.tolist(), rejected.tolist(), compared)
    metrics["loss"] = float(loss.detach())
    if right:
        metrics["accuracy"] = sum(right) / len(right)
    return FeedbackLoss(loss, metrics, tokens)


def head_outputs(model: RewardModel, items: Sequence[Feedback]) -> tuple[Tensor, int]:
    """Outputs of the head for every response of ``items`` in order, and the number of tokens read."""
    prompts = [item.prompt_tokens for item in items for _ in response_tokens(item)]
    responses = [response for item in items for response in response_tokens(item)]
    sequences = join_sequences(prompts, responses, device=model.palm.device)
    return model.head_outputs(sequences), int(sequences.lengths.sum())


def score_to_bin(score: int, bins: int) -> int:
    """A score of 1 to 5 as a bin of 0 to ``bins`` - 1, spread evenly where the model has another number of bins."""
    return round((score - 1) * (bins - 1) / (RATING_STEPS - 1))


def concordance(values: Sequence[float], scores: Sequence[int]) -> list[float]:
    """For each pair of different scores: 1 where the values stand in the same order, ½ where equal, else 0."""
    pairs = combinations(zip(values, scores, strict=True), 2)
    return [agreement((a - b) * (first - second)) for (a, first), (b, second) in pairs if first != second]


def verdicts_right(chosen: Sequence[float], rejected: Sequence[float], items: Sequence[Comparison]) -> list[float]:
    """For each comparison that is no tie: 1 where the chosen value is the larger, ½ where equal, else 0."""
    return [agreement(a - b) for a, b, item in zip(chosen, rejected, items, strict=True) if item.strength > 0]


def agreement(product: float) -> float:
    return 0.5 if product == 0 else float(product > 0)


# Measuring and ending


@torch.no_grad()
def measure_holdout(model: RewardModel, holdout: Sequence[Feedback], batch_size: int = 16) -> dict[str, float]:
    """How often the model agrees with verdicts on prompts it never saw.

    ``holdout_accuracy`` is over ``holdout_count`` comparisons that are no ties; without any, over all pairs of
    differing scores. ``holdout_concordance`` is over those pairs, where there are scores.
    """
    model.eval()
    values: list[float] = []
    for part in batched(holdout, batch_size):
        outputs, _ = head_outputs(model, part)
        values += model.value(outputs).tolist()
    position, scored, verdicts = 0, [], []
    for item in holdout:
        if isinstance(item, ScoredResponse):
            scored.append((values[position], item.score))
            position += 1
        else:
            verdicts += verdicts_right([values[position]], [values[position + 1]], [item])
            position += 2
    pairs = concordance([value for value, _ in scored], [score for _, score in scored])
    counted = verdicts or pairs
    found: dict[str, float] = {"holdout_count": len(counted)}
    if counted:
        found["holdout_accuracy"] = sum(counted) / len(counted)
    if pairs:
        found["holdout_concordance"] = sum(pairs) / len(pairs)
    return found


def batched(items: Sequence[Feedback], size: int) -> Iterator[Sequence[Feedback]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def reference_responses(
    palm: PaLM, records: Sequence[Feedback], seed: int, end_id: int, temperature: float
) -> tuple[list[list[int]], list[list[int]]]:
    """Fresh responses of the parent policy to the prompts of the feedback, as long as the longest rated one may be."""
    distinct = sorted({item.prompt_tokens for item in records})
    order = torch.randperm(len(distinct), generator=derive_generator(seed, "reference")).tolist()
    rounds = -(-REFERENCE_RESPONSES // len(distinct))
    prompts = [list(distinct[index]) for index in (order * rounds)[:REFERENCE_RESPONSES]]
    longest = max(len(tokens) for item in records for tokens in response_tokens(item))
    generations = generate_batch(
        palm,
        prompts,
        sampling=SamplingConfig(max_new_tokens=longest, temperature=temperature),
        end_id=end_id,
        seeds=[derive_seed(seed, "reference", row) for row in range(len(prompts))],
    )
    return prompts, [generation.tokens for generation in generations]


def capture(
    model: RewardModel, optimizer: torch.optim.Optimizer, metrics: dict[str, float], digest: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What resuming needs: the learned tensors and the optimiser. Random numbers are derived from seed and step."""
    learned = {name: one for name, one in model.named_parameters() if one.requires_grad}
    tensors, values = optimizer_tensors(optimizer)
    return (
        with_prefix("model", learned) | with_prefix("optimizer", tensors),
        {"optimizer": values, "metrics": metrics, "digest": digest},
    )
