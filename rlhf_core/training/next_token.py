"""What pre-training and fine-tuning share: the learning rate, the optimiser, and the course of a run of steps.

Everything random in a step comes from the seed and the step, so the resume state holds weights and optimiser alone.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_core.config import PretrainConfig, SamplingConfig, SFTConfig
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.modules.palm import PaLM
from rlhf_core.seeds import derive_seed
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.descent import descend
from rlhf_core.training.run_directory import RunDirectory
from rlhf_core.training.sharding import spread_as, whole
from rlhf_core.training.state import Tensors, optimizer_tensors, restore_optimizer, take_prefix, with_prefix

METRICS_INTERVAL = 10
ADAM_EPS = 1e-8  # not RL's 1e-5: gradients of rare tokens' embeddings are smaller than that and would be damped
SAMPLE_ROWS = 64  # texts drawn at once


def learning_rate(config: PretrainConfig | SFTConfig, step: int, steps: int) -> float:
    """Rate of a step, counted from 1, of a run of ``steps``: a linear rise over ``warmup_steps``, then a fall.

    "wsd" stays at the peak and falls linearly over the last ``decay_fraction`` of the steps; until then the rate does
    not depend on ``steps``. "cosine" falls along half a cosine from the end of the rise to the last step.

    Sources: Hu et al. 2024, https://arxiv.org/abs/2404.06395; Loshchilov and Hutter 2017, equation 5,
        https://arxiv.org/abs/1608.03983 (one period, no restart)
    """
    rise = min(1.0, step / max(1, config.warmup_steps))
    if config.schedule == "wsd":
        left = min(1.0, (steps - step) / max(1, round(config.decay_fraction * steps)))
    else:
        gone = max(0, step - config.warmup_steps) / max(1, steps - config.warmup_steps)
        left = 0.5 * (1 + math.cos(math.pi * gone))
    end = config.final_learning_rate_fraction
    return config.learning_rate * rise * (end + (1 - end) * left)


def make_optimizer(palm: PaLM, config: PretrainConfig | SFTConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that learn; it decays matrices only."""
    learning = learning_parameters(palm)
    matrices = [parameter for parameter in learning if parameter.ndim >= 2]
    vectors = [parameter for parameter in learning if parameter.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), eps=ADAM_EPS, fused=True)


def learning_parameters(palm: PaLM) -> list[nn.Parameter]:
    """The parameters that need a gradient."""
    return [parameter for parameter in palm.parameters() if parameter.requires_grad]


class Course:
    """The steps of a run, from the first or the last saved one: descend, record, validate, save.

    ``for step in course: course.learn(loss, tokens); if course.is_due: course.measured(...); course.close()``

    Args:
        run: where to record and save.
        palm: the model; what needs a gradient learns.
        optimizer: over the parameters that learn.
        config: the settings.
        steps: how many there are.
        digest: of settings and data; a saved state with another one is not gone on from. None goes on from any.

    Attributes:
        step: the one at hand, counted from 1.
        done: how many were done when the run was taken up.
        curve: [step, measure] of every validation.
        last: the newest value of each metric.
    """

    def __init__(
        self,
        run: RunDirectory,
        palm: PaLM,
        optimizer: torch.optim.Optimizer,
        config: PretrainConfig | SFTConfig,
        *,
        steps: int,
        digest: str | None = None,
    ) -> None:
        self.run, self.palm, self.optimizer, self.config = run, palm, optimizer, config
        self.learning = learning_parameters(palm)  # now: between forward and backward a spread model shows others
        self.steps, self.digest = steps, digest
        self.curve: list[list[float]] = []
        self.last: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        self.done = 0
        if state := run.load_state(digest):
            own = dict(palm.named_parameters())
            learned = take_prefix("model", state.tensors).items()
            palm.load_state_dict({name: spread_as(one, own[name]) for name, one in learned}, strict=False)
            restore_optimizer(optimizer, take_prefix("optimizer", state.tensors), state.values["optimizer"])
            self.done, self.curve = state.step, state.values["curve"]
            self.last = state.values.get("last", {})
        self.step = self.done
        self.clock, self.tokens = time.perf_counter(), 0

    def __iter__(self) -> Iterator[int]:
        """The steps that are left, counted from 1."""
        for step in range(self.done + 1, self.steps + 1):
            self.step = step
            yield step

    @property
    def is_due(self) -> bool:
        """Whether this step is one to validate after."""
        return self.step % self.config.validation_interval == 0 or self.step == self.steps

    def learn(self, losses: Sequence[Tensor], tokens: int) -> None:
        """One optimiser step by the gradient of the sum of ``losses``, a mean over ``tokens`` tokens.

        Where several processes train, each gives as many losses, the parts of that mean which its rows make.

        Raises:
            TrainingDiverged: loss or gradient is not finite; the step is not taken.
        """
        rate = learning_rate(self.config, self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        limit, processes = self.config.max_grad_norm, self.run.group
        norm = descend(self.optimizer, losses, self.learning, limit, f"step {self.step}", group=processes)
        self.tokens += tokens
        self.metrics = {}
        if self.is_due or self.step % METRICS_INTERVAL == 0 or self.step == 1:
            speed = self.tokens / (time.perf_counter() - self.clock)
            (loss,) = processes.sums(sum(float(part.detach()) for part in losses))
            self.metrics = {"tokens_per_second": speed, "loss": loss, "learning_rate": rate, "grad_norm": norm}

    def measured(self, metrics: dict[str, float], point: float | None) -> None:
        """Add what a validation found to the metrics of this step, and ``point``, if there is one, to the curve."""
        self.metrics |= metrics
        if point is not None:
            self.curve.append([self.step, round(point, 4)])

    def show_samples(
        self, palm: PaLM, prompts: Sequence[Sequence[int]], tokenizer: Tokenizer, finetune_scope: str | None = None
    ) -> None:
        """Record what the model, whole, answers to ``prompts``, the settings' ``samples`` of them, taken in turn.

        The same random numbers each time, so that the texts show what was learned in between.
        """
        chosen = [prompts[number % len(prompts)] for number in range(self.config.samples)] if prompts else []
        responses: list[list[int]] = []
        places = range(len(chosen))[self.run.group.share(len(chosen))]
        for at in range(0, len(places), SAMPLE_ROWS):
            part = places[at : at + SAMPLE_ROWS]
            drawn = generate_batch(
                palm,
                [chosen[place] for place in part],
                sampling=SamplingConfig(max_new_tokens=self.config.sample_tokens),
                end_id=tokenizer.end,
                seeds=[derive_seed(self.config.seed, "sample", place) for place in part],
                finetune_scope=finetune_scope,
            )
            responses += [generation.tokens for generation in drawn]
        for prompt, response in zip(chosen, self.run.group.gather_rows(responses), strict=True):
            self.run.sample(self.step, tokenizer.decode(prompt), tokenizer.decode(response))

    def close(self) -> None:
        """Record the step, and save where it is time or a stop was asked for.

        Raises:
            RunStopped: a stop was asked for.
        """
        if self.metrics:
            self.run.metrics(self.step, self.metrics)
            self.run.progress(self.step, self.steps, "train")
            self.last = {**self.last, **self.metrics}
            self.clock, self.tokens = time.perf_counter(), 0
        self.run.save_or_stop(self.step, self.config.save_interval, self.capture)

    def capture(self) -> tuple[Tensors, dict[str, Any]]:
        """What going on after this step needs."""
        learned = {name: whole(one.detach()) for name, one in self.palm.named_parameters() if one.requires_grad}
        tensors, values = optimizer_tensors(self.optimizer)
        saved = {**with_prefix("model", learned), **with_prefix("optimizer", tensors)}
        return saved, {"optimizer": values, "curve": self.curve, "last": self.last, "digest": self.digest}


def told_while_reading(run: RunDirectory, total: int, phase: str) -> Callable[[int], None]:
    """A function that says how many of ``total`` documents are read, and leaves where a stop was asked for."""

    def tell(count: int) -> None:
        run.progress(count, total, phase)
        run.stop_unsaved()

    return tell
