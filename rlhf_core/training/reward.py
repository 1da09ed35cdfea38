"""Training a reward model on 1-5 ratings and comparisons together (docs/algorithms/reward-model.md)."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from rlhf_core.checkpoint import load_policy, save_reward_model
from rlhf_core.config import RewardConfig, SamplingConfig, settings_to_dict
from rlhf_core.distributed import ALONE, Group
from rlhf_core.errors import DatasetError
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.masking import join_sequences
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_head import WITH_BINS
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Comparison, Feedback, ScoredResponse
from rlhf_core.seeds import derive_generator, derive_seed
from rlhf_core.training.descent import descend
from rlhf_core.training.device import use_device
from rlhf_core.training.feedback import (
    bootstrap_by_prompt,
    check_informative,
    describe,
    labels_of,
    prompt_groups,
    response_tokens,
    split_by_prompt,
    usable_feedback,
)
from rlhf_core.training.halves import take_part
from rlhf_core.training.posterior import fit_posterior, some
from rlhf_core.training.reward_measures import (
    calibration_of,
    concordance,
    head_outputs,
    holdout_values,
    measure_holdout,
    utilities,
    verdicts_right,
)
from rlhf_core.training.run_directory import RunDirectory, metrics_to_keep, settings_digest
from rlhf_core.training.state import optimizer_tensors, restore_optimizer, take_prefix, with_prefix

DROPOUT = 0.1  # in the reward model's trunk while it learns
ADAM_EPSILON = 1e-5
REFERENCE_RESPONSES = 128


def train_reward(run: RunDirectory) -> None:
    """Train, normalise and save a reward model; goes on where a stopped or killed run left off.

    Raises:
        DatasetError: the feedback cannot train a model; says what was found and what is needed.
        TrainingDiverged: a loss, gradient or score is not finite; the last saved state stands.
        RunStopped: a stop was asked for and the state is saved.
    """
    config = cast(RewardConfig, run.config)
    group = run.group
    device = use_device(config.threads, run)
    palm, tokenizer, parent = load_policy(run.policy)
    palm = palm.to(device)
    feedback = run.read_feedback()
    feedback = take_part(feedback, prompt_groups(feedback), config.part)
    records = usable_feedback(feedback, palm.num_tokens, config.minimum_ratings)
    check_head(records, config)
    training, holdout = split_by_prompt(records, config.holdout_fraction, config.seed)
    check_informative(training, "left for training after the holdout was set aside" if holdout else "found")

    torch.manual_seed(derive_seed(config.seed, "initialise"))
    model = RewardModel(
        palm,
        dropout=DROPOUT,
        num_binned_output=config.bins if config.head in WITH_BINS else 0,
        use_lora=config.lora_rank > 0,
        lora_r=max(config.lora_rank, 1),
        head=config.head,
        pooling=config.pooling,
        ensemble=config.ensemble,
        ensemble_members=config.ensemble_members,
        ensemble_scoring=config.ensemble_scoring,
        ensemble_penalty=config.ensemble_penalty,
    )
    model.start_from_habits(
        torch.tensor([item.strength for item in training if isinstance(item, Comparison)]).long(),
        labels_of([item.score for item in training if isinstance(item, ScoredResponse)], model),
    )
    group.take_weights(model)
    optimizer = make_optimizer(model, config)
    order = plan_steps(len(training), config)
    is_drawn = config.ensemble > 1 and config.ensemble_bootstrap
    shares = bootstrap_by_prompt(training, config.ensemble, config.seed) if is_drawn else None
    max_grad_norm = config.max_grad_norm * math.sqrt(config.ensemble)  # of the members' gradients together
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
        for part in optimizer.param_groups:
            part["lr"] = learning_rate * part["factor"]
        torch.manual_seed(derive_seed(config.seed, "dropout", step, *([group.rank] if group.rank else [])))
        model.train()
        places = order[step]
        mine = places[group.share(len(places))]
        found = feedback_loss(
            model,
            [training[index] for index in mine],
            None if shares is None else shares[:, mine],
            total=sum(training[index].weight for index in places),
            group=group,
        )
        parameters, losses = model.finetune_parameters(), [found.loss] if mine else []
        norm = descend(optimizer, losses, parameters, max_grad_norm, f"step {step + 1}", group=group)
        seconds = time.perf_counter() - started

        now = {**found.metrics, "grad_norm": norm, "learning_rate": learning_rate}
        now["tokens_per_second"] = found.tokens / seconds
        if holdout and ((step + 1) % steps_per_epoch(len(training), config) == 0 or step + 1 == len(order)):
            values = holdout_values(model, holdout)
            now |= measure_holdout(model, holdout, values)
            if calibration := calibration_of(model, holdout, values):
                now["holdout_calibration_error"] = calibration["error"]
        run.metrics(step + 1, now)
        last = {**last, **now}  # a step may lack a metric: the newest of each is the run's result
        run.progress(step + 1, len(order), "train")
        interval = config.save_interval if step + 1 < len(order) else 1  # what follows the last one may take long
        run.save_or_stop(step + 1, interval, lambda saved=last: capture(model, optimizer, saved, digest))  # type: ignore[misc]

    model.eval()
    run.progress(len(order), len(order), "normalise")
    prompts, responses = reference_responses(palm, training, config.seed, tokenizer.end, config.temperature)
    if model.members > 1:
        fit_posterior(model, training, shares, on_read=lambda: run.progress(len(order), len(order), "normalise"))
    model.normalise(join_sequences(prompts, responses, device=device))
    meta = {
        **run.meta,
        "parent": parent["id"],
        "config": settings_to_dict(config),
        "run_digest": digest,
        "metrics": metrics_to_keep(last),
        "training_records": len(training),
        "holdout_records": len(holdout),
        "reference_mean": model.reward_mean.tolist(),
        "reference_std": model.reward_std.tolist(),
    }
    outputs = [save_reward_model(run.store, model, tokenizer, meta)] if group.is_first else []
    calibration = calibration_of(model, holdout, holdout_values(model, holdout)) if holdout else None
    run.finish(outputs, last, {"calibration": calibration} if calibration else None)


def check_head(records: Sequence[Feedback], config: RewardConfig) -> None:
    """Refuse ratings that the head cannot learn.

    Raises:
        DatasetError: names what was found, and the cure.
    """
    scores = sum(isinstance(item, ScoredResponse) for item in records)
    if scores and config.head == "pairwise":
        raise DatasetError(
            f"found {scores} ratings of 1 to 5, and head = 'pairwise' learns from comparisons alone: choose the head "
            "binned, ordinal or scalar, or leave them out"
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
    """AdamW; matrices decay. The few numbers of the likelihoods have far to go: they learn ten times faster."""
    few = [model.comparison_log_scale, model.step_biases]
    few += [model.head.thresholds, model.head.rating_log_scale] if model.head.kind == "ordinal" else []
    segments = [model.prompt_embedding, model.response_embedding]
    others = [parameter for parameter in model.finetune_parameters() if not is_among(parameter, few)]
    matrices = [one for one in others if one.ndim > 1 and not is_among(one, segments)]
    groups = [
        {"params": matrices, "factor": 1.0, "weight_decay": config.weight_decay},
        {"params": [one for one in others if not is_among(one, matrices)], "factor": 1.0, "weight_decay": 0.0},
        {"params": few, "factor": 10.0, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, eps=ADAM_EPSILON)


def is_among(parameter: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether it is one of them; equal numbers do not make it so."""
    return any(parameter is one for one in others)


@dataclass(frozen=True)
class FeedbackLoss:
    """Loss of a batch with gradient, its metrics, and how many tokens were read."""

    loss: Tensor
    metrics: dict[str, float]
    tokens: int


def feedback_loss(
    model: RewardModel,
    batch: Sequence[Feedback],
    shares: Tensor | None = None,
    *,
    total: float | None = None,
    group: Group = ALONE,
) -> FeedbackLoss:
    """Mean negative log-likelihood of verdicts of both kinds, in nats, in one forward pass.

    Scores and comparisons are both probabilities of a verdict, so their log-likelihoods add without a coefficient. The
    losses of an ensemble's members add up, so that each learns as it would alone; metrics are the members' mean.

    Args:
        shares: (members, batch) how often each member learns from each verdict; None: all from all, once.
        total: weights of the whole minibatch, where ``batch`` is a process's share of it; None takes those at hand.
        group: the processes that share it. Losses are parts of its mean; metrics and tokens are of all of it.
    """
    total = sum(item.weight for item in batch) if total is None else total
    found = read_verdicts(model, batch, shares) if batch else Verdicts({}, {}, [], [], 0)
    loss = sum((sums.sum() for sums in found.losses.values()), torch.zeros((), device=model.palm.device)) / total
    told = group.gather_rows([{**found.told(), "loss": float(loss.detach())}])
    metrics: dict[str, float] = {}
    for kind in ("score_loss", "comparison_loss"):
        kept = [one["losses"][kind] for one in told if kind in one["losses"]]
        if kept:
            sums, weights = (torch.tensor(column).sum(dim=0) for column in zip(*kept, strict=True))
            if bool(weights.any()):  # else no member drew a verdict of this kind
                metrics[kind] = float((sums / weights)[weights > 0].mean())
    metrics["loss"] = sum(one["loss"] for one in told) / model.members
    rated = [pair for one in told for pair in one["rated"]]
    right = concordance([value for value, _ in rated], [score for _, score in rated])
    right += [verdict for one in told for verdict in one["right"]]
    if right:
        metrics["accuracy"] = sum(right) / len(right)
    return FeedbackLoss(loss, metrics, sum(one["tokens"] for one in told))


@dataclass(frozen=True)
class Verdicts:
    """What a model makes of some records.

    Attributes:
        losses: (members,) of each kind of verdict, "score_loss" and "comparison_loss": losses times weights, summed.
        weights: (members,) the sums of those weights.
        rated: the model's value and the score of each rating.
        right: of each comparison that is no tie, whether the model agrees.
        tokens: that were read.
    """

    losses: dict[str, Tensor]
    weights: dict[str, Tensor]
    rated: list[tuple[float, int]]
    right: list[float]
    tokens: int

    def told(self) -> dict[str, Any]:
        """The same as JSON."""
        losses = {kind: [sums.tolist(), self.weights[kind].tolist()] for kind, sums in self.losses.items()}
        return {"losses": losses, "rated": self.rated, "right": self.right, "tokens": self.tokens}


def read_verdicts(model: RewardModel, batch: Sequence[Feedback], shares: Tensor | None) -> Verdicts:
    """Read at least one record, all in one forward pass; see ``feedback_loss``."""
    scored = [item for item in batch if isinstance(item, ScoredResponse)]
    compared = [item for item in batch if isinstance(item, Comparison)]
    items: list[Feedback] = [*scored, *compared]
    outputs, tokens = head_outputs(model, items)
    weights = torch.tensor([item.weight for item in items], device=outputs.device).expand(model.members, -1)
    if shares is not None:
        order = sorted(range(len(batch)), key=lambda place: isinstance(batch[place], Comparison))
        weights = weights * shares[:, order].to(weights.device)
    of_scores, of_comparisons = weights.split([len(scored), len(compared)], dim=1)
    values = model.value(outputs)
    members = range(model.members)
    found = Verdicts({}, {}, [], [], tokens)
    if scored:
        labels = labels_of([item.score for item in scored], model).to(outputs.device)
        read = outputs[:, : len(scored)]
        means = [model.head.rating_loss(read[one], labels, some(of_scores[one]), one) for one in members]
        found.weights["score_loss"] = of_scores.sum(dim=1)
        found.losses["score_loss"] = torch.stack(means) * found.weights["score_loss"]
        seen = utilities(model, values[:, : len(scored)].detach())
        found.rated.extend((value, item.score) for value, item in zip(seen, scored, strict=True))
    if compared:
        pairs = values[:, len(scored) :].view(model.members, len(compared), 2)
        chosen, rejected = pairs[..., 0], pairs[..., 1]
        strengths = torch.tensor([item.strength for item in compared], device=outputs.device)
        means = [
            model.comparison_loss(chosen[one], rejected[one], strengths, some(of_comparisons[one]), one)
            for one in members
        ]
        found.weights["comparison_loss"] = of_comparisons.sum(dim=1)
        found.losses["comparison_loss"] = torch.stack(means) * found.weights["comparison_loss"]
        right = verdicts_right(utilities(model, chosen.detach()), utilities(model, rejected.detach()), compared)
        found.right.extend(right)
    return found


# Ending


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
