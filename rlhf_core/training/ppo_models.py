"""Policy, critic and reference as the settings of a policy run ask for them."""

import copy

import torch

from rlhf_core.config import PolicyConfig
from rlhf_core.errors import ConfigError
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_model import RewardModel


def make_models(palm: PaLM, config: PolicyConfig, reward_model: RewardModel | None = None) -> ActorCritic:
    """What a policy run trains: ``palm`` itself, and a critic.

    Args:
        palm: the policy to start from; used as it is, not copied.
        reward_model: what the critic starts from, with ``critic_trunk`` "reward-model"; copied.

    Raises:
        ConfigError: more last layers than there are, or a reward model that no critic of this policy can start from.
    """
    critic = None
    if config.algorithm != "ppo":
        return without_critic(palm, config)
    if config.critic_trunk == "own":
        critic = copy.deepcopy(palm)
    elif config.critic_trunk == "reward-model":
        critic = trunk_of(reward_model, palm)
    for name, trunk in (("last_layers", palm), ("critic_last_layers", palm if critic is None else critic)):
        check_layers(name, getattr(config, name), trunk)
    starts_from = reward_model if config.critic_trunk == "reward-model" else None
    critic_rank = config.lora_rank if config.critic_lora_rank is None else config.critic_lora_rank
    model = ActorCritic(
        palm,
        critic,
        actor_lora=config.lora_rank > 0,
        critic_lora=critic_rank > 0,
        actor_lora_r=max(config.lora_rank, 1),
        critic_lora_r=max(critic_rank, 1),
        actor_last_layers=config.last_layers,
        critic_last_layers=config.critic_last_layers,
        values_from_policy=config.critic_trunk == "policy",
        critic_dim_out=1 if starts_from is None else starts_from.head.outputs,
        value_range=(0.0, 5.0) if starts_from is None or starts_from.head.outputs == 1 else range_of(starts_from),
    )
    if starts_from is not None:
        take_head(model, starts_from)
    return model


def without_critic(palm: PaLM, config: PolicyConfig) -> ActorCritic:
    """Policy and reference alone: the critic's part is there by shape, copies no weights and learns nothing."""
    check_layers("last_layers", config.last_layers, palm)
    model = ActorCritic(
        palm,
        actor_lora=config.lora_rank > 0,
        actor_lora_r=max(config.lora_rank, 1),
        actor_last_layers=config.last_layers,
        critic_lora_r=1,
        critic_dim_out=1,
    )
    for parameter in model.critic_parameters():
        parameter.requires_grad_(False)
    return model


def check_layers(name: str, layers: int, trunk: PaLM) -> None:
    """Raise ConfigError where more last layers are to learn than there are."""
    depth = len(trunk.blocks)
    if layers > depth:
        raise ConfigError(name, layers, f"at most {depth}, which is how many blocks there are; 0 leaves it out")


def trunk_of(reward_model: RewardModel | None, palm: PaLM) -> PaLM:
    """A reward model's trunk as plain weights, its adapters merged in.

    Raises:
        ConfigError: there is none, or it cannot value the states of ``palm``.
    """
    needed = f"a causal one of the policy's width {palm.dim} and {palm.num_tokens} tokens"
    if reward_model is None:
        raise ConfigError("critic_trunk", "reward-model", f"only where a reward model is given: {needed}")
    if reward_model.members > 1:
        found = f"this one is an ensemble of {reward_model.members}"
        raise ConfigError("critic_trunk", "reward-model", f"only with a reward model of one member; {found}")
    trunk = copy.deepcopy(reward_model.palm)
    if (trunk.dim, trunk.num_tokens, trunk.causal) != (palm.dim, palm.num_tokens, True):
        kind = "causal" if trunk.causal else "not causal"
        found = f"this one has width {trunk.dim} and {trunk.num_tokens} tokens and is {kind}"
        raise ConfigError("critic_trunk", "reward-model", f"only with a reward model that fits, {needed}; {found}")
    scope = reward_model.scopes[0]
    if scope is not None:
        trunk.merge_finetune_params(scope)
    return trunk


def range_of(reward_model: RewardModel) -> tuple[float, float]:
    """The scores of the lowest and the highest bin, which are the values that a critic with that head can express."""
    mean, deviation = float(reward_model.reward_mean), float(reward_model.reward_std)
    return -mean / deviation, (reward_model.bins - 1 - mean) / deviation


@torch.no_grad()
def take_head(model: ActorCritic, reward_model: RewardModel) -> None:
    """Give the critic the reward model's head and segment embeddings: a state's value is then the score of one that
    ends there, read off its last token alone.
    """
    head, own = reward_model.head, model.value_head
    bias = torch.zeros_like(own.bias) if head.bias is None else head.bias
    if reward_model.head.outputs > 1:  # the bins' centres have the normalisation in them
        own.weight.copy_(head.weight)
        own.bias.copy_(bias)
    else:
        own.weight.copy_(head.weight / reward_model.reward_std)
        own.bias.copy_((bias - reward_model.reward_mean) / reward_model.reward_std)
    model.add_segments(reward_model.prompt_embedding, reward_model.response_embedding)
