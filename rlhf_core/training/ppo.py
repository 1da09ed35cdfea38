"""Improving a policy by PPO, RLOO or GRPO, with a KL penalty to its frozen parent (docs/algorithms/ppo.md)."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf_core.buffer import Rollout, RolloutBuffer, gather_rollout
from rlhf_core.checkpoint import load_policy, save_policy
from rlhf_core.config import PolicyConfig, SamplingConfig, settings_to_dict
from rlhf_core.distributed import ALONE, Group
from rlhf_core.errors import ConfigError, DatasetError, TrainingDiverged
from rlhf_core.evaluation import distinct_n
from rlhf_core.generation.best_of_n import Score, as_scores, rows_not_finite
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.kl import AdaptiveKLController
from rlhf_core.masking import Sequences, join_sequences
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.seeds import derive_generator, derive_seed
from rlhf_core.text.template import encode_prompt
from rlhf_core.training.device import use_device
from rlhf_core.training.groups import derive_group_lessons
from rlhf_core.training.lessons import Lessons, Tally, derive_lessons
from rlhf_core.training.lion import Lion
from rlhf_core.training.ppo_models import make_models
from rlhf_core.training.ppo_steps import critic_step, policy_step
from rlhf_core.training.run_directory import RunDirectory, RunState, metrics_to_keep, settings_digest
from rlhf_core.training.scoring import needed_scoring
from rlhf_core.training.state import optimizer_tensors, restore_optimizer, take_prefix, with_prefix
from rlhf_core.training.watch import load_judge

TOKENS_SHOWN = 8  # of a response that an error names


def train_policy(run: RunDirectory) -> None:
    """Train and save a policy; goes on where a stopped or killed run left off.

    Raises:
        DatasetError: there are no prompts.
        ConfigError: more last layers than there are, or a reward model that the critic cannot start from.
        CheckpointError: policy and reward model don't share a tokenizer.
        FunctionError: the reward is a function that there is none of, that fails, or that gives something else than a
            number for each response.
        TrainingDiverged: a score, loss or the KL became non-finite, or the KL passed its hard cap. The last saved
            state stands.
        RunStopped: a stop was asked for and the state is saved.
    """
    config = cast(PolicyConfig, run.config)
    group = run.group
    device = use_device(config.threads, run)
    palm, tokenizer, parent = load_policy(run.policy)
    palm = palm.to(device)
    scoring = needed_scoring(run, tokenizer, device)
    prompts = [encode_prompt(tokenizer, prompt.text, config.max_prompt_tokens) for prompt in run.read_prompts()]
    if not prompts:
        raise DatasetError("found 0 prompts; at least 1 is needed")

    torch.manual_seed(derive_seed(config.seed, "initialise"))
    model = make_models(palm, config, scoring.model.reward_model if scoring.model else None)
    group.take_weights(model)
    trainer = PolicyTrainer(model, prompts, scoring.score, config, tokenizer.end, group=group)
    trainer.watch = load_judge(run, tokenizer, device)

    digest = settings_digest(run)
    start, last = 0, dict[str, float]()
    buffer = RolloutBuffer(run.path / "rollouts", digest, run.log, group)
    state = run.load_state(digest, partial(check_rollout, buffer))
    if state is not None:
        start, last = state.step, state.values["metrics"]
        trainer.restore(state.tensors, state.values)
    for update in range(start, config.updates):
        saved = {"metrics": last, "digest": digest}
        last = trainer.update(
            update,
            partial(run.progress, update, config.updates),
            buffer=buffer,
            between_steps=partial(
                run.save_or_stop_within, update, config.step_save_seconds, partial(trainer.capture, saved)
            ),
        )
        run.metrics(update + 1, last)
        run.progress(update + 1, config.updates, "learn")
        saved = {"metrics": last, "digest": digest}
        run.save_or_stop(update + 1, config.save_interval, partial(trainer.capture, saved))
        buffer.forget(before=run.first_step_kept)

    meta = {
        **run.meta,
        "parent": parent["id"],
        **scoring.origin,
        "config": settings_to_dict(config),
        "run_digest": digest,
        "metrics": metrics_to_keep(last),
    }
    outputs = []
    if group.is_first:
        outputs = [save_policy(run.store, model.palm, tokenizer, meta, finetune_scope=model.actor_scope)]
    run.finish(outputs, last)


def check_rollout(buffer: RolloutBuffer, state: RunState) -> None:
    """Refuse a state in the middle of a round whose rollout is gone: no one else could draw it again.

    Raises:
        ValueError: it is missing or damaged, and so is the state with it.
        OSError: it cannot be read now.
    """
    if Tally(**state.values.get("tally", {})).steps and buffer.read_here(state.step) is None:
        raise ValueError(f"the rollout of round {state.step + 1}, in whose middle it was taken, is missing")


class PolicyTrainer:
    """PPO, RLOO or GRPO, one round at a time: sample, score, estimate advantages, learn, adapt the KL coefficient.

    Everything random in round u comes from (seed, use, u, …), and the tally counts the optimiser steps of the round, so
    a trainer that is restored after any step goes on exactly as one that was never stopped, given the same rollout.

    Args:
        model: policy, critic and reference.
        prompts: token ids to draw prompts from; each pass over them has a fresh order.
        score: gives each response its score.
        config: the settings.
        end_id: the token that ends a response; None lets all run to the limit.
        betas, actor_weight_decay, critic_weight_decay: of the optimisers.
        critic_adam_epsilon: of the critic's AdamW; None takes the settings' ``adam_epsilon``, as the policy's does.
        use_lion: Lion in place of AdamW; it has no epsilon.
        rollout_rows: responses drawn together at most; None draws all of a round at once. The numbers are the same.
        group: the processes that train. Each draws, scores and learns from its share of the rows; all know the whole
            rollout, and take the same steps.

    Raises:
        ConfigError: ``critic_trunk`` is "policy" and the model has another critic.

    Attributes:
        watch: metrics more, of each round's prompts and responses; None, and nothing else looks at them.
    """

    def __init__(
        self,
        model: ActorCritic,
        prompts: Sequence[Sequence[int]],
        score: Score,
        config: PolicyConfig,
        end_id: int | None,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        actor_weight_decay: float = 0.0,
        critic_weight_decay: float = 0.0,
        critic_adam_epsilon: float | None = None,
        use_lion: bool = False,
        rollout_rows: int | None = None,
        group: Group = ALONE,
    ) -> None:
        if config.critic_trunk == "policy" and not model.values_from_policy:
            permitted = "only for a model whose values_from_policy is True; make_models makes one from the settings"
            raise ConfigError("critic_trunk", "policy", permitted)
        self.model = model.eval()  # for good: dropout would make the ratios of unchanged weights differ from 1
        model.recompute_blocks(config.activation_checkpointing)
        self.prompts = [list(prompt) for prompt in prompts]
        self.score = score
        self.config = config
        self.end_id = end_id
        self.rollout_rows = rollout_rows
        self.watch: Callable[[list[list[int]], list[list[int]]], dict[str, float]] | None = None
        self.group = group
        self.tally = Tally()  # of the round that is being learned from
        self.started = time.perf_counter()
        self.controller = AdaptiveKLController(config.kl_coefficient, config.kl_target, config.kl_horizon)

        def optimizer(
            parameters: list[nn.Parameter], rate: float, weight_decay: float, epsilon: float
        ) -> torch.optim.Optimizer:
            if use_lion:
                return Lion(parameters, lr=rate, betas=betas, weight_decay=weight_decay)
            return torch.optim.AdamW(
                parameters, lr=rate, betas=betas, weight_decay=weight_decay, eps=epsilon, fused=True
            )

        critic_epsilon = config.adam_epsilon if critic_adam_epsilon is None else critic_adam_epsilon
        self.actor_optimizer = optimizer(
            model.actor_parameters(), config.learning_rate, actor_weight_decay, config.adam_epsilon
        )
        self.critic_optimizer: torch.optim.Optimizer | None = None
        if config.algorithm == "ppo":
            self.critic_optimizer = optimizer(
                model.critic_parameters(), config.critic_learning_rate, critic_weight_decay, critic_epsilon
            )

    def update(
        self,
        index: int,
        on_phase: Callable[[str], None] | None = None,
        *,
        drawn: int | None = None,
        remaining: float | None = None,
        buffer: RolloutBuffer | None = None,
        between_steps: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """One round, or what is left of it after ``restore`` in its middle. Returns its metrics.

        Args:
            index: counts from 0 and names the random numbers of the round.
            on_phase: called with "rollout" and "learn" as they begin.
            drawn: responses drawn in earlier rounds, where not all rounds were of the size that the settings say.
            remaining: share of the learning rates; None lets them fall linearly over the settings' ``updates``.
            buffer: keeps the rollout, or has it already.
            between_steps: called between two optimiser steps, where ``capture`` gives a state to go on from, and before
                the first; what it raises leaves the round there.

        Raises:
            TrainingDiverged: a number is not finite, or the KL passed its hard cap.
            OSError: in the middle of a round ``buffer`` does not give its rollout.
        """
        self.started = time.perf_counter() - self.tally.seconds
        remaining = 1 - index / self.config.updates if remaining is None else remaining
        self.actor_optimizer.param_groups[0]["lr"] = self.config.learning_rate * remaining
        if self.critic_optimizer is not None:
            self.critic_optimizer.param_groups[0]["lr"] = self.config.critic_learning_rate * remaining
        coefficient = self.controller.coefficient
        try:
            if on_phase is not None:
                on_phase("rollout")
            rollout = None if buffer is None else buffer.read(index, self.model.palm.device)
            if rollout is None:
                if buffer is not None and self.tally.steps:  # the policy that drew it is gone
                    raise OSError(f"the rollout of round {index + 1}, which is half learned, cannot be read")
                rollout = self.roll_out(index, drawn)
                if buffer is not None:
                    buffer.write(index, rollout)
            lessons = self.derive_lessons(rollout)
            if on_phase is not None:
                on_phase("learn")
            with self.model.remember_tokens([*rollout.prompts, *rollout.responses]):
                learned = self.learn(index, rollout, lessons, between_steps)
        except TrainingDiverged as error:
            raise TrainingDiverged(f"round {index + 1}: {error}") from error
        finally:
            self.tally = Tally()  # whoever goes on in the middle of a round does so by what ``capture`` took there
        self.controller.update(lessons.kl, len(rollout.responses))

        lengths = rollout.mask.sum(dim=1).float()
        return {
            "reward": float(lessons.rewards.sum(dim=1).mean()),
            "score": float(rollout.scores.mean()),
            "kl": lessons.kl,
            "k3": lessons.k3,
            "kl_coefficient": coefficient,
            "response_length": float(lengths.mean()),
            "end_rate": float(rollout.ended.float().mean()),
            "truncated_rate": 1 - float(rollout.ended.float().mean()),
            **(
                {"flat_groups": lessons.flat_groups}
                if self.critic_optimizer is None
                else {"explained_variance": lessons.explained_variance}
            ),
            "distinct_2": distinct_n(rollout.responses, 2),
            "learning_rate": self.config.learning_rate * remaining,
            **learned,
            **(self.watch(rollout.prompts, rollout.responses) if self.watch is not None else {}),
            "tokens_per_second": float(lengths.sum()) / (time.perf_counter() - self.started),
        }

    def choose_prompts(self, index: int, drawn: int | None = None) -> list[list[int]]:
        """The prompts of a round: the next ones of an endless row of shuffled passes over all prompts.

        Where responses are compared within groups, each prompt comes so many times in a row.
        """
        times = self.config.responses_per_prompt
        size, count = self.config.rollout_batch_size // times, len(self.prompts)
        chosen: list[list[int]] = []
        position = index * size if drawn is None else drawn // times
        while len(chosen) < size:
            order = torch.randperm(count, generator=derive_generator(self.config.seed, "prompts", position // count))
            taken = order[position % count :][: size - len(chosen)].tolist()
            chosen += [self.prompts[number] for number in taken]
            position += len(taken)
        return [prompt for prompt in chosen for _ in range(times)]

    def roll_out(self, index: int, drawn: int | None = None) -> Rollout:
        """Draw responses and score them; each process does so for its share of the rows."""
        prompts = self.choose_prompts(index, drawn)
        seeds = [derive_seed(self.config.seed, "rollout", index, row) for row in range(len(prompts))]
        mine = self.group.share(len(prompts))
        part = self.draw(prompts[mine], seeds[mine]) if prompts[mine] else None
        rollout = gather_rollout(part, self.group, self.model.palm.device)
        if wrong := rows_not_finite(rollout.scores):
            first, scores = wrong[0], rollout.scores
            raise TrainingDiverged(
                f"a score is not finite: {float(scores[first])} for row {first}, whose response begins with the tokens "
                f"{rollout.responses[first][:TOKENS_SHOWN]} (so are {len(wrong)} of {len(scores)} scores). Let the "
                "reward give a finite number for every response, a low one where it has nothing to say"
            )
        return rollout

    @torch.no_grad()
    def draw(self, prompts: list[list[int]], seeds: list[int]) -> Rollout:
        """Responses with their scores; log-probabilities are kept from the drawing, at the same temperature."""
        times = self.config.responses_per_prompt
        if prompts != [prompt for prompt in prompts[::times] for _ in range(times)]:
            times = 1  # a process's share may begin or end inside a group
        generations = generate_batch(
            self.model.palm,
            prompts[::times],
            samples_per_prompt=times,
            sampling=SamplingConfig(max_new_tokens=self.config.max_new_tokens, temperature=self.config.temperature),
            end_id=self.end_id,
            seeds=seeds,
            finetune_scope=self.model.actor_scope,
            rows=self.rollout_rows,
        )
        responses = [generation.tokens for generation in generations]
        device = self.model.palm.device
        longest = max(map(len, responses))
        log_probs = torch.zeros(len(responses), longest)
        for row, generation in enumerate(generations):
            log_probs[row, : len(generation.log_probs)] = torch.tensor(generation.log_probs)
        mask = torch.arange(longest) < torch.tensor([len(response) for response in responses])[:, None]
        reference, values = [], []
        with self.model.remember_tokens([*prompts, *responses]):
            for at in range(0, len(prompts), self.forward_rows):
                asked, given = (rows[at : at + self.forward_rows] for rows in (prompts, responses))
                found = self.model.reference_log_probs(asked, given, temperature=self.config.temperature)
                reference.append(widen(found, longest))
                if self.critic_optimizer is not None:
                    values.append(widen(self.model.values(self.join(asked, given)).float(), longest))
        scores = as_scores(self.score(prompts, responses), len(responses)).to(device)
        return Rollout(
            prompts=prompts,
            responses=responses,
            mask=mask.to(device),
            log_probs=log_probs.to(device),
            reference_log_probs=torch.cat(reference),
            values=torch.where(mask.to(device), torch.cat(values) if values else 0.0, torch.zeros((), device=device)),
            scores=scores,
            ended=torch.tensor([generation.finish_reason == "end" for generation in generations], device=device),
        )

    def derive_lessons(self, rollout: Rollout) -> Lessons:
        """Rewards per token, advantages and returns, at today's KL coefficient."""
        derive = derive_lessons if self.config.algorithm == "ppo" else derive_group_lessons
        return derive(rollout, self.config, self.controller.coefficient)

    def plan_minibatches(self, index: int) -> list[list[int]]:
        """Rows of each optimiser step: every response once an epoch, in a fresh order each."""
        size, step = self.config.rollout_batch_size, self.config.minibatch_size
        plan = []
        for epoch in range(self.config.ppo_epochs):
            generator = derive_generator(self.config.seed, "minibatches", index, epoch)
            order = torch.randperm(size, generator=generator).tolist()
            plan += [order[at : at + step] for at in range(0, size, step)]
        return plan

    def learn(
        self, index: int, rollout: Rollout, lessons: Lessons, between_steps: Callable[[], None] | None = None
    ) -> dict[str, float]:
        """All optimiser steps of a round that the tally lacks; the policy stands still while the critic warms up."""
        warming_up = self.critic_optimizer is not None and index < self.config.critic_warmup_updates
        plan = self.plan_minibatches(index)
        for rows in plan[self.tally.steps :]:
            if between_steps is not None:
                between_steps()
            step: dict[str, float] | None = {}
            states: list[Tensor] | None = None
            if not warming_up:
                # A value head on the policy's states learns from this pass; of a policy at rest it has them read anew.
                states = [] if self.model.values_from_policy else None
                step = self.actor_step(rows, rollout, lessons, may_refuse=self.tally.steps > 0, states=states)
            if step is None:
                break
            self.tally.add({**step, **self.critic_step(rows, rollout, lessons, states)})
            self.tally.seconds = time.perf_counter() - self.started
        means = self.tally.means() | {"skipped_steps": float(len(plan) - self.tally.steps)}
        if warming_up:
            still = {"ratio_min": 1.0, "ratio_max": 1.0, "clip_fraction": 0.0, "policy_loss": 0.0, "approx_kl": 0.0}
            return {**means, **still, "entropy": self.mean_entropy(rollout), "actor_grad_norm": 0.0}
        return {**means, "ratio_min": self.tally.lowest["ratio_min"], "ratio_max": self.tally.highest["ratio_max"]}

    def actor_step(
        self,
        rows: list[int],
        rollout: Rollout,
        lessons: Lessons,
        *,
        may_refuse: bool = False,
        states: list[Tensor] | None = None,
    ) -> dict[str, float] | None:
        return policy_step(
            self.model,
            self.actor_optimizer,
            self.config,
            rows,
            rollout,
            lessons,
            may_refuse=may_refuse,
            states=states,
            group=self.group,
        )

    def critic_step(
        self, rows: list[int], rollout: Rollout, lessons: Lessons, states: list[Tensor] | None = None
    ) -> dict[str, float]:
        if self.critic_optimizer is None:
            return {}
        return critic_step(
            self.model, self.critic_optimizer, self.config, rows, rollout, lessons, states=states, group=self.group
        )

    @property
    def forward_rows(self) -> int:
        """Rows that are run together where no gradient is taken."""
        return self.config.micro_batch_size or self.config.minibatch_size

    @torch.no_grad()
    def mean_entropy(self, rollout: Rollout) -> float:
        """Entropy per token of the policy over a rollout."""
        total = 0.0
        batches = range(0, len(rollout.prompts), self.forward_rows)
        for at in batches[self.group.rank :: self.group.size]:
            part = slice(at, at + self.forward_rows)
            now = self.model.log_probs(
                rollout.prompts[part], rollout.responses[part], temperature=self.config.temperature
            )
            total += float(cast(Tensor, now.entropies).sum())
        (total,) = self.group.sums(total)
        return total / int(rollout.mask.sum())

    def join(self, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Sequences:
        return join_sequences(prompts, responses, device=self.model.palm.device)

    def capture(self, values: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What ``restore`` needs, and ``values`` beside it."""
        actor, actor_values = optimizer_tensors(self.actor_optimizer)
        tensors = with_prefix("model", self.model.trainable_state()) | with_prefix("actor_optimizer", actor)
        critic_values: dict[str, Any] = {}
        if self.critic_optimizer is not None:
            critic, critic_values = optimizer_tensors(self.critic_optimizer)
            tensors |= with_prefix("critic_optimizer", critic)
        return tensors, {
            **values,
            "actor_optimizer": actor_values,
            "critic_optimizer": critic_values,
            "kl_coefficient": self.controller.coefficient,
            "tally": self.tally.to_dict(),
            "part": self.tally.steps,
        }

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Bring back what ``capture`` took, into a trainer made from the same parents and settings."""
        self.model.load_state_dict(take_prefix("model", tensors), strict=False)
        restore_optimizer(self.actor_optimizer, take_prefix("actor_optimizer", tensors), values["actor_optimizer"])
        if self.critic_optimizer is not None:
            critic = take_prefix("critic_optimizer", tensors)
            restore_optimizer(self.critic_optimizer, critic, values["critic_optimizer"])
        self.controller.coefficient = values["kl_coefficient"]
        self.tally = Tally(**values.get("tally", {}))


def widen(x: Tensor, longest: int) -> Tensor:
    """(batch, n) -> (batch, longest), with zeros on the right."""
    return F.pad(x, (0, longest - x.shape[1]))
