"""Settings of every stage: frozen dataclasses, checked when built; standard library only.

Each field carries its help text and permitted range in its metadata. The web app builds its forms from them, the
command line its options, and the documentation its tables, so a setting is described in this one place.
"""

from dataclasses import dataclass
from typing import Literal

from rlhf_core.errors import ConfigError
from rlhf_core.metrics import COMMON_METRICS, CRITIC_METRICS, GROUP_METRICS, JUDGE_METRICS, METRICS
from rlhf_core.settings import (
    Settings,
    check_value,
    permitted_range,
    setting,
    settings_from_dict,
    settings_hash,
    settings_to_dict,
)

__all__ = [
    "COMMON_METRICS",
    "CRITIC_METRICS",
    "GROUP_METRICS",
    "JUDGE_METRICS",
    "METRICS",
    "PRESETS",
    "RUN_CONFIGS",
    "CriticTrunk",
    "EnsembleMembers",
    "EnsembleScoring",
    "EvaluateConfig",
    "FeedbackPart",
    "GroupScaling",
    "ModelConfig",
    "PolicyAlgorithm",
    "PolicyConfig",
    "Pooling",
    "PretrainConfig",
    "RewardConfig",
    "RewardHeadKind",
    "SFTConfig",
    "SamplingConfig",
    "Schedule",
    "Settings",
    "check_value",
    "permitted_range",
    "setting",
    "settings_from_dict",
    "settings_hash",
    "settings_to_dict",
]


@dataclass(frozen=True)
class ModelConfig(Settings):
    """Shape of a PaLM."""

    num_tokens: int = setting(4096, "size of the vocabulary", minimum=4, maximum=1_000_000)
    dim: int = setting(256, "width of the residual stream", minimum=8, maximum=65_536)
    depth: int = setting(4, "number of blocks", minimum=1, maximum=512)
    heads: int = setting(4, "query heads; all share one key and one value head", minimum=1, maximum=512)
    dim_head: int = setting(64, "width of a head, even", minimum=2, maximum=1024)
    ff_mult: int = setting(4, "width of the feed-forward part, in multiples of dim", minimum=1, maximum=64)
    causal: bool = setting(True, "each position sees only itself and those before it")
    qk_rmsnorm: bool = setting(True, "normalise queries and keys, which keeps attention logits bounded")
    rotary_xpos_scale_base: int = setting(512, "distance over which xPos fades attention", minimum=1, maximum=1_000_000)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim_head % 2:
            raise ConfigError("dim_head", self.dim_head, "an even number, since rotary embedding turns pairs")


Schedule = Literal["wsd", "cosine"]
PolicyAlgorithm = Literal["ppo", "rloo", "grpo"]
GroupScaling = Literal["deviation", "none"]
CriticTrunk = Literal["shared", "own", "reward-model", "policy"]
RewardHeadKind = Literal["binned", "ordinal", "scalar", "pairwise"]
Pooling = Literal["mean", "last"]
EnsembleMembers = Literal["adapters", "heads"]
EnsembleScoring = Literal["mean", "worst", "mean-variance"]
FeedbackPart = Literal["all", "first", "second"]


PROCESSES_HELP = (
    "processes of one machine that train it together, each on a GPU of its own or with a share of the cores; the steps "
    "are the same. Under torchrun and the like the launcher's number counts"
)
FSDP_HELP = "spread weights and optimiser over the processes of the run, where there are several"


@dataclass(frozen=True)
class PretrainConfig(Settings):
    """Next-token training on plain text."""

    steps: int = setting(6000, "optimiser steps", minimum=1, maximum=10_000_000)
    batch_size: int = setting(16, "sequences a step", minimum=1, maximum=65_536)
    sequence_length: int = setting(128, "tokens a sequence", minimum=8, maximum=65_536)
    learning_rate: float = setting(3e-3, "peak learning rate", above=0, maximum=1)
    schedule: Schedule = setting(
        "wsd", "after the rise, wsd stays at the peak and falls at the end; cosine falls all the way"
    )
    warmup_steps: int = setting(200, "steps of linear rise to the peak", minimum=0, maximum=1_000_000)
    decay_fraction: float = setting(
        0.3,
        "share of the steps, the last ones, over which the learning rate of wsd falls",
        minimum=0,
        maximum=1,
    )
    final_learning_rate_fraction: float = setting(0.0, "learning rate at the end, of the peak", minimum=0, maximum=1)
    weight_decay: float = setting(0.1, "AdamW weight decay of the matrices", minimum=0, maximum=10)
    beta2: float = setting(0.95, "AdamW decay of the second moment", minimum=0, maximum=0.9999, advanced=True)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", above=0, maximum=1e6)
    validation_interval: int = setting(500, "steps between validations", minimum=1, maximum=1_000_000)
    samples: int = setting(2, "texts drawn and shown at each validation", minimum=0, maximum=256)
    sample_tokens: int = setting(64, "longest of these texts", minimum=1, maximum=4096, unit="tokens")
    save_interval: int = setting(200, "steps between saved states", minimum=1, maximum=1_000_000)
    seed: int = setting(0, "seed of initialisation and order", minimum=0, maximum=2**32 - 1)
    fsdp: bool = setting(False, FSDP_HELP, advanced=True)
    threads: int = setting(0, "CPU threads; 0 takes the machine's cores", minimum=0, maximum=1024, advanced=True)
    processes: int = setting(1, PROCESSES_HELP, minimum=1, maximum=64, advanced=True)


@dataclass(frozen=True)
class SFTConfig(Settings):
    """Supervised fine-tuning of a policy on demonstrations: prompts with the responses that are wanted."""

    epochs: int = setting(3, "passes over the demonstrations", minimum=1, maximum=10_000)
    batch_size: int = setting(16, "demonstrations a step", minimum=1, maximum=65_536)
    max_prompt_tokens: int = setting(128, "longer prompts keep their end", minimum=2, maximum=8192, unit="tokens")
    max_response_tokens: int = setting(
        256, "longer responses are cut, and a cut is not learned as an end", minimum=1, maximum=8192, unit="tokens"
    )
    learning_rate: float = setting(5e-4, "peak learning rate", above=0, maximum=1)
    schedule: Schedule = setting(
        "cosine", "after the rise, wsd stays at the peak and falls at the end; cosine falls all the way", advanced=True
    )
    warmup_steps: int = setting(20, "steps of linear rise to the peak", minimum=0, maximum=1_000_000, advanced=True)
    decay_fraction: float = setting(
        0.3,
        "share of the steps, the last ones, over which the learning rate of wsd falls",
        minimum=0,
        maximum=1,
        advanced=True,
    )
    final_learning_rate_fraction: float = setting(
        0.1, "learning rate at the end, of the peak", minimum=0, maximum=1, advanced=True
    )
    weight_decay: float = setting(0.01, "AdamW weight decay of the matrices", minimum=0, maximum=10, advanced=True)
    beta2: float = setting(0.95, "AdamW decay of the second moment", minimum=0, maximum=0.9999, advanced=True)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", above=0, maximum=1e6, advanced=True)
    lora_rank: int = setting(0, "rank of the adapters; 0 trains all weights", minimum=0, maximum=1024)
    holdout_fraction: float = setting(0.05, "share of the prompts kept for validation", minimum=0, maximum=0.5)
    validation_interval: int = setting(50, "steps between validations", minimum=1, maximum=1_000_000, advanced=True)
    samples: int = setting(2, "responses drawn and shown at each validation", minimum=0, maximum=256)
    sample_tokens: int = setting(64, "longest of these responses", minimum=1, maximum=4096, unit="tokens")
    save_interval: int = setting(50, "steps between saved states", minimum=1, maximum=1_000_000, advanced=True)
    seed: int = setting(0, "seed of adapters and order", minimum=0, maximum=2**32 - 1)
    fsdp: bool = setting(False, FSDP_HELP, advanced=True)
    threads: int = setting(0, "CPU threads; 0 takes the machine's cores", minimum=0, maximum=1024, advanced=True)
    processes: int = setting(1, PROCESSES_HELP, minimum=1, maximum=64, advanced=True)


@dataclass(frozen=True)
class SamplingConfig(Settings):
    """How samples are drawn."""

    max_new_tokens: int = setting(64, "longest response", minimum=1, maximum=4096, unit="tokens")
    max_prompt_tokens: int = setting(32, "longer prompts keep their end", minimum=2, maximum=8192, unit="tokens")
    temperature: float = setting(
        1.0, "1 draws from the policy as it is; lower is safer and duller", above=0, maximum=10
    )
    top_k: int = setting(0, "keep only so many of the likeliest tokens; 0 keeps all", minimum=0, maximum=1_000_000)
    top_p: float = setting(1.0, "keep the likeliest tokens up to this mass; 1 keeps all", above=0, maximum=1)
    min_p: float = setting(
        0.0, "keep the tokens at least so many times as likely as the likeliest; 0 keeps all", minimum=0, maximum=1
    )


@dataclass(frozen=True)
class RewardConfig(Settings):
    """Training of a reward model on ratings and comparisons together."""

    epochs: int = setting(3, "passes over the ratings", minimum=1, maximum=1000)
    batch_size: int = setting(16, "ratings or comparisons a step", minimum=1, maximum=4096)
    learning_rate: float = setting(3e-3, "peak learning rate, falls linearly to 0", above=0, maximum=1)
    weight_decay: float = setting(0.01, "AdamW weight decay", minimum=0, maximum=10)
    lora_rank: int = setting(8, "rank of the adapters; 0 trains all weights", minimum=0, maximum=1024)
    bins: int = setting(5, "steps of the single-answer scale", minimum=2, maximum=100, advanced=True)
    head: RewardHeadKind = setting(
        "binned",
        "what a value is: an expected rating (binned), or a number with thresholds between ratings (ordinal), with "
        "ratings as noisy readings of it (scalar), or taught by comparisons alone (pairwise)",
        advanced=True,
    )
    pooling: Pooling = setting(
        "mean", "read the value off the mean over a response's tokens, or off its last one", advanced=True
    )
    ensemble: int = setting(
        1,
        "members that begin differently; a score is uncertain where they disagree, and where feedback leaves it open",
        minimum=1,
        maximum=64,
    )
    ensemble_bootstrap: bool = setting(
        False,
        "each member learns from prompts drawn anew; otherwise all learn from all, and differ by their first weights",
        advanced=True,
    )
    ensemble_members: EnsembleMembers = setting(
        "adapters",
        "what each member has of its own: adapters and a head, or (cheaper, and more alike) a head alone",
        advanced=True,
    )
    ensemble_scoring: EnsembleScoring = setting(
        "mean-variance",
        "how members' scores become one: their mean, the worst, or the mean less a penalty times what the score's "
        "variance has above that of usual responses of the parent",
    )
    ensemble_penalty: float = setting(
        10.0,
        "weight of the variance in mean-variance: that between members, and what feedback leaves open in each",
        minimum=0,
        maximum=1000,
        advanced=True,
    )
    holdout_fraction: float = setting(0.1, "share of the prompts kept for measuring accuracy", minimum=0, maximum=0.5)
    temperature: float = setting(
        1.0, "of the parent's responses that scores are normalised by; as it is served", above=0, maximum=10
    )
    minimum_ratings: int = setting(20, "fewer usable ratings are refused", minimum=2, maximum=1_000_000)
    part: FeedbackPart = setting(
        "all",
        "learn from the ratings of all prompts, or of half of them; a model of the other half is an independent judge",
        advanced=True,
    )
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", above=0, maximum=1e6)
    save_interval: int = setting(20, "steps between saved states", minimum=1, maximum=100_000, advanced=True)
    seed: int = setting(0, "seed of initialisation and order", minimum=0, maximum=2**32 - 1)
    threads: int = setting(0, "CPU threads; 0 takes the machine's cores", minimum=0, maximum=1024, advanced=True)
    processes: int = setting(1, PROCESSES_HELP, minimum=1, maximum=64, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ensemble > 1 and self.ensemble_members == "adapters" and self.lora_rank == 0:
            raise ConfigError("ensemble_members", self.ensemble_members, "heads, where lora_rank is 0")


@dataclass(frozen=True)
class PolicyConfig(Settings):
    """Improvement of a policy by PPO, RLOO or GRPO with a KL penalty to its frozen parent."""

    algorithm: PolicyAlgorithm = setting(
        "ppo",
        "PPO has a critic; RLOO and GRPO compare the responses to one prompt with each other, and need none",
    )
    group_size: int = setting(
        8, "RLOO and GRPO: responses to each prompt that are compared", minimum=2, maximum=4096, advanced=True
    )
    group_scaling: GroupScaling = setting(
        "deviation",
        "GRPO: what is above a group's mean is divided by the group's deviation, and each response's tokens by their "
        "number; none leaves both out (Dr. GRPO)",
        advanced=True,
    )
    updates: int = setting(40, "rounds of sampling and learning", minimum=1, maximum=1_000_000)
    rollout_batch_size: int = setting(32, "responses a round", minimum=1, maximum=65_536)
    minibatch_size: int = setting(16, "responses an optimiser step", minimum=1, maximum=65_536)
    micro_batch_size: int = setting(
        0,
        "responses run through the network at once; 0 takes the minibatch whole. Fewer need less memory and make the "
        "same gradient",
        minimum=0,
        maximum=65_536,
        advanced=True,
    )
    activation_checkpointing: bool = setting(
        False,
        "keep less of the forward pass and work it out again for the gradient: less memory, slower",
        advanced=True,
    )
    ppo_epochs: int = setting(2, "passes over each round's responses", minimum=1, maximum=100)
    learning_rate: float = setting(5e-3, "peak learning rate of the policy, falls linearly to 0", above=0, maximum=1)
    critic_learning_rate: float = setting(
        3e-3, "peak learning rate of the value head and critic adapters", above=0, maximum=1
    )
    kl_coefficient: float = setting(0.1, "reward given up for a nat of KL (beta), at the start", minimum=0, maximum=100)
    kl_target: float | None = setting(
        7.0, "nats a response that the adaptive coefficient aims at; empty keeps it fixed", above=0, maximum=1000
    )
    kl_horizon: int = setting(
        200, "responses over which the coefficient adapts", minimum=1, maximum=10_000_000, advanced=True
    )
    kl_hard_cap: float = setting(50.0, "nats a response at which the run stops", above=0, maximum=10_000, advanced=True)
    clip_ratio: float = setting(0.2, "how far a probability ratio may move (epsilon)", above=0, maximum=1)
    kl_early_stop: float | None = setting(
        None,
        "nats a token between the policy and the one that drew the round, at which the rest of the round's epochs is "
        "skipped; empty never skips",
        above=0,
        maximum=100,
        advanced=True,
    )
    value_clip: float = setting(0.2, "how far a value may move in a round", above=0, maximum=100, advanced=True)
    entropy_coefficient: float = setting(0.0, "weight of the entropy bonus", minimum=0, maximum=1)
    gamma: float = setting(1.0, "discount a token", minimum=0, maximum=1, advanced=True)
    gae_lambda: float = setting(0.95, "bias against variance of the advantages", minimum=0, maximum=1, advanced=True)
    critic_warmup_updates: int = setting(2, "rounds in which only the critic learns", minimum=0, maximum=10_000)
    lora_rank: int = setting(8, "rank of the adapters; 0 trains all weights", minimum=0, maximum=1024)
    last_layers: int = setting(
        0,
        "blocks from the end that the policy learns, whole, in place of adapters; 0 leaves it to lora_rank",
        minimum=0,
        maximum=512,
        advanced=True,
    )
    critic_lora_rank: int | None = setting(
        None,
        "rank of the critic's adapters; 0 trains all its weights, empty takes lora_rank",
        minimum=0,
        maximum=1024,
        advanced=True,
    )
    critic_last_layers: int = setting(
        0,
        "blocks from the end that the critic learns, whole, in place of adapters; 0 leaves it to critic_lora_rank",
        minimum=0,
        maximum=512,
        advanced=True,
    )
    critic_trunk: CriticTrunk = setting(
        "shared",
        "what the critic reads states with: what it can share with the policy, a copy of its own, a copy of the reward "
        "model, with its head, or the policy itself, whose last states a value head reads, which is fastest",
        advanced=True,
    )
    value_loss_coefficient: float = setting(
        0.0,
        "with critic_trunk policy: weight of the value loss in what moves the policy, so that its states come to tell "
        "values; 0 leaves the policy alone",
        minimum=0,
        maximum=100,
        advanced=True,
    )
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", above=0, maximum=1e6)
    missing_end_penalty: float = setting(
        0.0, "subtracted from the score of a response without an end token", minimum=0, maximum=100
    )
    exclude_truncated: bool = setting(
        False, "the policy learns nothing from responses without an end token", advanced=True
    )
    whiten_rewards: bool = setting(False, "scale each round's rewards to variance 1, mean kept", advanced=True)
    adam_epsilon: float = setting(
        1e-5, "AdamW epsilon; a larger one tames the first steps", above=0, maximum=0.1, advanced=True
    )
    max_new_tokens: int = setting(64, "longest response", minimum=1, maximum=4096, unit="tokens")
    max_prompt_tokens: int = setting(32, "longer prompts keep their end", minimum=2, maximum=8192, unit="tokens")
    temperature: float = setting(1.0, "of the rollouts and of their log-probabilities alike", above=0, maximum=10)
    save_interval: int = setting(5, "rounds between saved states", minimum=1, maximum=100_000, advanced=True)
    step_save_seconds: float = setting(
        60.0,
        "inside a round, a state is saved after the first optimiser step that ends so long after the last save",
        minimum=0,
        maximum=86_400,
        unit="s",
        advanced=True,
    )
    seed: int = setting(0, "seed of everything random", minimum=0, maximum=2**32 - 1)
    threads: int = setting(0, "CPU threads; 0 takes the machine's cores", minimum=0, maximum=1024, advanced=True)
    processes: int = setting(1, PROCESSES_HELP, minimum=1, maximum=64, advanced=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.algorithm != "ppo" and self.rollout_batch_size % self.group_size:
            permitted = f"a multiple of group_size, {self.group_size}, with {self.algorithm}: groups are whole"
            raise ConfigError("rollout_batch_size", self.rollout_batch_size, permitted)
        if self.critic_trunk == "policy":
            self.check_value_head()
        elif self.value_loss_coefficient:
            permitted = (
                f"0 with critic_trunk {self.critic_trunk}: that critic moves no policy; else critic_trunk policy"
            )
            raise ConfigError("value_loss_coefficient", self.value_loss_coefficient, permitted)

    def check_value_head(self) -> None:
        """Raise ConfigError for what a critic that is a head on the policy's own states cannot have."""
        if self.algorithm != "ppo":
            permitted = (
                f"shared, own or reward-model with {self.algorithm}, which has no critic; ppo alone has policy too"
            )
            raise ConfigError("critic_trunk", "policy", permitted)
        for name, nothing in (("critic_lora_rank", None), ("critic_last_layers", 0)):
            if (value := getattr(self, name)) != nothing:
                permitted = (
                    f"{'empty' if nothing is None else nothing} with critic_trunk policy, whose critic learns a head "
                    "alone; a critic that learns more has critic_trunk shared, own or reward-model"
                )
                raise ConfigError(name, value, permitted)

    @property
    def responses_per_prompt(self) -> int:
        """How many responses in a row a prompt gets in a round."""
        return 1 if self.algorithm == "ppo" else self.group_size


@dataclass(frozen=True)
class EvaluateConfig(Settings):
    """Comparison of a candidate with the policies before it, on prompts that nothing was trained on."""

    prompts: int = setting(
        320, "held-out prompts, each answered once by every policy; 0 takes all there are", minimum=0, maximum=1_000_000
    )
    batch_size: int = setting(64, "responses drawn at once", minimum=1, maximum=65_536)
    max_new_tokens: int = setting(64, "longest response", minimum=1, maximum=4096, unit="tokens")
    max_prompt_tokens: int = setting(32, "longer prompts keep their end", minimum=2, maximum=8192, unit="tokens")
    temperature: float = setting(1.0, "of the responses and of their log-probabilities alike", above=0, maximum=10)
    top_k: int = setting(0, "draw from so many of the likeliest tokens; 0 keeps all", minimum=0, maximum=1_000_000)
    top_p: float = setting(1.0, "draw from the likeliest tokens up to this mass; 1 keeps all", above=0, maximum=1)
    min_p: float = setting(
        0.0, "draw from the tokens at least so many times as likely as the likeliest; 0 keeps all", minimum=0, maximum=1
    )
    seed: int = setting(0, "seed of the responses; the same one gives the same ones", minimum=0, maximum=2**32 - 1)
    threads: int = setting(0, "CPU threads; 0 takes the machine's cores", minimum=0, maximum=1024, advanced=True)
    processes: int = setting(1, PROCESSES_HELP, minimum=1, maximum=64, advanced=True)

    @property
    def sampling(self) -> SamplingConfig:
        """How the responses are drawn."""
        return SamplingConfig(
            max_new_tokens=self.max_new_tokens,
            max_prompt_tokens=self.max_prompt_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
        )


RUN_CONFIGS: dict[str, type[Settings]] = {
    "pretrain": PretrainConfig,
    "sft": SFTConfig,
    "reward": RewardConfig,
    "policy": PolicyConfig,
    "evaluate": EvaluateConfig,
}
PRESETS: dict[str, dict[str, Settings]] = {
    "sft": {
        "CPU": SFTConfig(holdout_fraction=0.1, learning_rate=1e-4),
        "GPU": SFTConfig(holdout_fraction=0.1, learning_rate=1e-4, batch_size=64),
    },
    "reward": {"CPU": RewardConfig(), "GPU": RewardConfig(batch_size=64, lora_rank=0, learning_rate=1e-4)},
    "policy": {
        "CPU": PolicyConfig(),
        "GPU": PolicyConfig(
            updates=200,
            rollout_batch_size=256,
            minibatch_size=64,
            learning_rate=1e-3,
            critic_learning_rate=1e-3,
            kl_horizon=5000,
        ),
        "RLOO": PolicyConfig(algorithm="rloo", group_size=4, ppo_epochs=1, kl_coefficient=0.05),
        "GRPO": PolicyConfig(algorithm="grpo", group_size=8, kl_coefficient=0.04),
    },
    "evaluate": {"CPU": EvaluateConfig(), "GPU": EvaluateConfig(prompts=0, batch_size=512)},
}
