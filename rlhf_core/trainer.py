"""``RLHFTrainer``: the seed library's one-object interface over the same parts that the runs use."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from rlhf_core.config import PolicyConfig, SamplingConfig
from rlhf_core.errors import CheckpointError, ConfigError
from rlhf_core.functions import TextFunction
from rlhf_core.generation.batch import check_tokens
from rlhf_core.generation.best_of_n import best_of_n
from rlhf_core.generation.filters import chosen_filter, keep_all, top_k, top_p
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import read_prompts
from rlhf_core.rewards import Composite, Reward, checked, reward_from_function, reward_of
from rlhf_core.seeds import derive_seed
from rlhf_core.text.template import encode_prompt
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.ppo import PolicyTrainer
from rlhf_core.weights import check_same, read_weights, save_weights

KL_HARD_CAP = 10_000.0  # nats a response: the seed library has no cap, and its responses may have thousands of tokens
LONGEST_RESPONSE = 4096
LONGEST_PROMPT = 8192
TokenizerFunction: TypeAlias = Callable[[list[str]], Tensor | Sequence[Sequence[int]]]
ARGUMENTS = {  # the seed library's names of our settings
    "ppo_epochs": "epochs",
    "learning_rate": "actor_lr",
    "critic_learning_rate": "critic_lr",
    "kl_coefficient": "kl_div_loss_weight",
    "clip_ratio": "eps_clip",
    "entropy_coefficient": "beta_s",
    "max_grad_norm": "max_norm",
    "adam_epsilon": "actor_adam_eps",
}
HL_GAUSS = {
    "min_value": 0.0,
    "max_value": 5.0,
    "min_max_value_on_bin_center": True,
    "clamp_to_range": True,
    "sigma_to_bin_ratio": 1.0,
}


class RLHFTrainer(nn.Module):
    """PPO on a PaLM and a reward model, with the arguments of the seed library.

    Neither ``palm`` nor ``reward_model`` is changed: the trainer works on copies, so a second trainer may be made from
    the same ones. What it learned is ``actor_critic``. Where the numbers mean something else than in the seed library,
    docs/algorithms/seed-compatibility.md says so.

    Args:
        prompts, prompts_path, prompt_token_ids: exactly one of texts; a file of them, one a line, or, named ``.jsonl``,
            of prompts as the runs read them; or token ids, a tensor (prompts, length) or rows of any lengths. Texts
            need ``tokenizer``.
        palm: the policy to start from.
        reward_model, reward, reward_function: exactly one scores the responses: a reward model; a reward of token ids,
            as ``rlhf_core.rewards`` makes them; or a function of (prompt, response) as texts, which needs a
            ``Tokenizer``.
        tokenizer: a ``Tokenizer``, for texts, or a function from a list of texts to token ids in either form.
        critic, critic_palm: trunk of the critic; None shares the policy's.
        actor_critic: a ready one, instead of making it.
        actor_lr, critic_lr, actor_wd, critic_wd, betas, actor_adam_eps, critic_adam_eps: of the optimisers.
        actor_lora, critic_lora, actor_lora_r, critic_lora_r: train adapters, and their rank.
        critic_pooled_values: one value a response, read off its prompt, in place of one a token.
        actor_dropout, critic_dropout: must be 0: with dropout the ratios of unchanged weights are not 1.
        max_norm: largest gradient norm; None does not clip.
        eps_clip, value_clip: how far ratios and values may move.
        beta_s: weight of the entropy bonus.
        pad_value: what stands behind shorter prompts in a tensor of them. Only such a tail is cut off.
        minibatch_size, epochs: of the learning.
        kl_div_loss_weight: reward given up for a nat of KL to the frozen parent.
        accelerate_kwargs: must be empty; several processes are not served here.
        critic_num_pred_bins: bins of the critic's values; 1 predicts the value itself and has no range.
        hl_gauss_loss_kwargs: of the bins: ``min_value``, ``max_value``, whether these are the centres of the outer bins
            (``min_max_value_on_bin_center``) or their outer edges, and the smoothing ``sigma_to_bin_ratio``.
        use_lion: Lion in place of AdamW; it has no epsilon and wants smaller learning rates.
        seed: of everything random.

    Raises:
        ConfigError: an argument outside its range, or one that asks for what is not served.
        ValueError: not exactly one kind of prompts, texts without a tokenizer, a prompt that is empty or holds a token
            outside the vocabulary, or parts that do not go together.
    """

    def __init__(
        self,
        *,
        palm: PaLM,
        reward_model: RewardModel | None = None,
        reward: Reward | None = None,
        reward_function: TextFunction | None = None,
        prompts: Sequence[str] | None = None,
        prompts_path: str | Path | None = None,
        prompt_token_ids: Tensor | Sequence[Sequence[int]] | None = None,
        tokenizer: Tokenizer | TokenizerFunction | None = None,
        critic: PaLM | None = None,
        actor_critic: ActorCritic | None = None,
        actor_lr: float = 1e-4,
        critic_lr: float = 1e-4,
        actor_wd: float = 0.0,
        critic_wd: float = 0.0,
        actor_lora: bool = True,
        critic_lora: bool = True,
        actor_lora_r: int = 8,
        critic_lora_r: int = 8,
        critic_pooled_values: bool = False,
        actor_dropout: float = 0.0,
        critic_dropout: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        max_norm: float | None = None,
        eps_clip: float = 0.2,
        value_clip: float = 0.4,
        beta_s: float = 0.01,
        pad_value: float = 0.0,
        minibatch_size: int = 16,
        epochs: int = 1,
        kl_div_loss_weight: float = 0.1,
        accelerate_kwargs: Mapping[str, Any] = MappingProxyType({}),
        critic_num_pred_bins: int = 6,
        hl_gauss_loss_kwargs: Mapping[str, Any] = MappingProxyType(HL_GAUSS),
        critic_palm: PaLM | None = None,
        actor_adam_eps: float = 1e-5,
        critic_adam_eps: float = 1e-5,
        use_lion: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        refuse("accelerate_kwargs", accelerate_kwargs, bool(accelerate_kwargs), "empty: one process trains")
        for name, rate in (("actor_dropout", actor_dropout), ("critic_dropout", critic_dropout)):
            refuse(name, rate, rate != 0.0, "0: with dropout the ratios of unchanged weights are not 1")
        for name, decay in (("actor_wd", actor_wd), ("critic_wd", critic_wd)):
            refuse(name, decay, not decay >= 0, "at least 0")
        refuse("betas", betas, not all(0 <= beta < 1 for beta in betas), "two numbers, each at least 0 and below 1")
        refuse("critic_adam_eps", critic_adam_eps, not 0 < critic_adam_eps <= 0.1, "above 0 and at most 0.1")
        if sum(one is not None for one in (critic, critic_palm, actor_critic)) > 1:
            raise ValueError("give at most one of critic, critic_palm, which is its early name, and actor_critic")
        if sum(one is not None for one in (reward_model, reward, reward_function)) != 1:
            raise ValueError("give exactly one of reward_model, reward and reward_function")
        if reward_function is not None:
            if not isinstance(tokenizer, Tokenizer):
                raise ValueError("a reward_function reads texts: give tokenizer, a Tokenizer that decodes them")
            reward = reward_from_function(reward_function, tokenizer)
        if reward_model is not None and reward_model.palm.num_tokens != palm.num_tokens:
            raise ValueError(
                f"the reward model reads {reward_model.palm.num_tokens} tokens, the policy writes {palm.num_tokens}"
            )
        self.tokenizer = tokenizer
        self.prompts = collect_prompts(prompts, prompts_path, prompt_token_ids, tokenizer, int(pad_value))
        check_tokens(self.prompts, palm.num_tokens)
        value_range, value_smoothing = bins_of_values(critic_num_pred_bins, hl_gauss_loss_kwargs)
        if actor_critic is None:
            critic = critic_palm if critic is None else critic
            actor_critic = ActorCritic(
                plain_copy(palm),
                None if critic is None else plain_copy(critic),
                pooled_values=critic_pooled_values,
                actor_lora=actor_lora,
                critic_lora=critic_lora,
                actor_lora_r=actor_lora_r,
                critic_lora_r=critic_lora_r,
                critic_dim_out=critic_num_pred_bins,
                value_range=value_range,
                value_smoothing=value_smoothing,
            )
        self.actor_critic = actor_critic
        self.reward_model = None if reward_model is None else copy.deepcopy(reward_model).eval().requires_grad_(False)
        self.reward = reward
        self.seed = seed
        self.optimisers: dict[str, Any] = dict(
            betas=betas,
            actor_weight_decay=actor_wd,
            critic_weight_decay=critic_wd,
            critic_adam_epsilon=critic_adam_eps,
            use_lion=use_lion,
        )
        self.settings: dict[str, Any] = dict(
            minibatch_size=minibatch_size,
            ppo_epochs=epochs,
            learning_rate=actor_lr,
            critic_learning_rate=critic_lr,
            kl_coefficient=kl_div_loss_weight,
            kl_target=None,
            clip_ratio=eps_clip,
            value_clip=value_clip,
            entropy_coefficient=beta_s,
            critic_warmup_updates=0,
            max_grad_norm=1e6 if max_norm is None else max_norm,
            kl_hard_cap=KL_HARD_CAP,
            adam_epsilon=actor_adam_eps,
            seed=seed,
        )
        try:  # refuse what is out of range now and not after the first hour
            PolicyConfig(**self.settings)
        except ConfigError as error:
            raise ConfigError(ARGUMENTS.get(error.field, error.field), error.value, error.permitted) from None
        self.history: list[dict[str, float]] = []
        self.policy_trainer: PolicyTrainer | None = None
        self.rounds = self.drawn = 0  # over all calls of train, so that none repeats the numbers of an earlier one

    def train(  # the seed library's name and meaning; train(False) still sets the mode
        self,
        num_episodes: int | bool = 50_000,
        max_timesteps: int = 500,
        update_timesteps: int = 5000,
        max_batch_size: int = 16,
        max_seq_len: int = 2048,
        eos_token: int | None = None,
        temperature: float = 1.0,
    ) -> "RLHFTrainer":
        """Roll out ``num_episodes * max_timesteps`` responses and learn after every ``update_timesteps`` of them.

        A second call goes on: with the next prompts, new random numbers and the optimisers as they are. The learning
        rates fall from their peak to 0 in each call.

        Args:
            num_episodes, max_timesteps, update_timesteps: as above; what is left at the end is learned from too.
            max_batch_size: responses that are drawn together at most.
            max_seq_len: longest prompt and response together, in tokens; all responses get the room that the longest
                prompt leaves.
            eos_token: ends a response; None lets all run to the limit.
            temperature: of the drawing and of the ratios alike.

        Returns:
            itself. ``history`` holds the metrics of each round (``rlhf_core.config.METRICS["policy"]``); where the
            reward is a ``Composite``, also the mean of each part, as ``score_NAME``.

        Raises:
            ConfigError: a count below 1, an ``eos_token`` outside the vocabulary, or a ``max_seq_len`` that leaves no
                room for a response, or more than 4,096 tokens.
            TrainingDiverged: a number is not finite, or the KL passed 10,000 nats a response.
            FunctionError: the reward fails, or gives something else than a finite number for each response.
        """
        if isinstance(num_episodes, bool):
            return super().train(num_episodes)
        counts = dict(num_episodes=num_episodes, max_timesteps=max_timesteps, update_timesteps=update_timesteps)
        for name, count in (counts | {"max_batch_size": max_batch_size}).items():
            refuse(name, count, count < 1, "at least 1")
        check_end(eos_token, self.actor_critic.palm.num_tokens)
        total = num_episodes * max_timesteps
        sizes = [min(update_timesteps, total - at) for at in range(0, total, update_timesteps)]
        longest_prompt = max(map(len, self.prompts))
        room = room_for_response(max_seq_len, longest_prompt)
        score = self.score(eos_token)
        for number, size in enumerate(sizes):
            config = PolicyConfig(
                **self.settings,
                updates=len(sizes),
                rollout_batch_size=size,
                max_new_tokens=room,
                temperature=temperature,
            )
            if self.policy_trainer is None:
                self.policy_trainer = PolicyTrainer(
                    self.actor_critic, self.prompts, score, config, eos_token, **self.optimisers
                )
            trainer = self.policy_trainer
            trainer.config, trainer.score, trainer.end_id = config, score, eos_token
            trainer.rollout_rows = max_batch_size
            metrics = trainer.update(self.rounds, drawn=self.drawn, remaining=1 - number / len(sizes))
            if isinstance(self.reward, Composite):
                metrics |= {f"score_{name}": value for name, value in self.reward.latest.items()}
            self.history.append(metrics)
            self.rounds += 1
            self.drawn += size
        return self

    @torch.no_grad()
    def generate(
        self,
        max_seq_len: int,
        *,
        prompt: Tensor,
        num_samples: int = 4,
        eos_token: int | None = None,
        temperature: float = 1.0,
        filter_logits_fn: Callable[..., Tensor] | None = None,
        filter_thres: float | None = None,
        pad_value: float = 0.0,
        use_tqdm: bool = False,
    ) -> Tensor:
        """The best of ``num_samples`` responses by their score, with its prompt in front.

        Args:
            max_seq_len: longest prompt and response together.
            prompt: (prompt,) token ids.
            num_samples: how many to choose from.
            eos_token: ends a response.
            temperature: of the drawing.
            filter_logits_fn, filter_thres: ``top_k`` never draws this share of the vocabulary, the least likely of it;
                ``top_p`` draws from the likeliest tokens that hold this mass. One alone takes ``top_k`` or .9 as the
                other, neither draws from all.
            pad_value, use_tqdm: accepted for the seed library's sake; one response is not padded, and no bar is shown.

        Returns:
            (at most max_seq_len,) token ids.

        Raises:
            ConfigError: ``num_samples`` below 1, an ``eos_token`` outside the vocabulary, or another filter.
            ValueError: ``prompt`` is not one row, leaves no room for a response, or has a token outside the vocabulary.
        """
        refuse("num_samples", num_samples, num_samples < 1, "at least 1")
        check_end(eos_token, self.actor_critic.palm.num_tokens)
        if prompt.ndim != 1 or not 0 < len(prompt) < max_seq_len:
            raise ValueError(f"prompt must be one row of 1 to {max_seq_len - 1} tokens, not {tuple(prompt.shape)}")
        tokens = prompt.tolist()
        best = best_of_n(
            self.actor_critic.palm,
            [tokens],
            self.score(eos_token),
            samples=num_samples,
            sampling=SamplingConfig(
                max_new_tokens=room_for_response(max_seq_len, len(tokens)),
                temperature=temperature,
                **filter_settings(filter_logits_fn, filter_thres, self.actor_critic.palm.num_tokens),
            ),
            end_id=eos_token,
            seeds=[derive_seed(self.seed, "generate", row) for row in range(num_samples)],
            finetune_scope=self.actor_critic.actor_scope,
        )
        return torch.tensor([*tokens, *best[0].generation.tokens], device=prompt.device)

    def score(self, eos_token: int | None) -> Reward:
        """What scores responses that end with ``eos_token``."""
        if self.reward_model is not None:
            return reward_of(self.reward_model, eos_token)
        assert self.reward is not None
        return checked(self.reward)

    def save(self, filepath: str | Path = "./checkpoint.pt") -> None:
        """Write what policy and critic learned to one safetensors file, which is whole or absent after a crash."""
        save_weights(filepath, self.actor_critic.trainable_state(), {"kind": "actor-critic"})

    def load(self, filepath: str | Path = "./checkpoint.pt") -> None:
        """Read what ``save`` wrote, into a trainer made from the same parents and settings.

        Raises:
            CheckpointError: the file is missing, torn, altered, or was written with other settings. Nothing was
                changed then.
        """
        about, state = read_weights(filepath)
        try:
            if about.get("kind") != "actor-critic":
                raise ValueError("RLHFTrainer.save did not write it")
            learned = self.actor_critic.trainable_state()
            check_same({name: tensor.shape for name, tensor in learned.items()}, state)
        except ValueError as error:
            raise CheckpointError(f"{filepath} is no state of such a trainer: {error}") from error
        self.actor_critic.load_state_dict(state, strict=False)
        self.policy_trainer = None  # its optimisers' moments are those of other weights


def refuse(name: str, value: Any, is_refused: bool, permitted: str) -> None:
    """Raise ConfigError for an argument of the seed library that asks for what is not served."""
    if is_refused:
        raise ConfigError(name, value, permitted)


def check_end(eos_token: int | None, num_tokens: int) -> None:
    """Raise ConfigError for an end token that can never be drawn."""
    is_outside = eos_token is not None and not 0 <= eos_token < num_tokens
    refuse("eos_token", eos_token, is_outside, f"a token of the vocabulary, 0 to {num_tokens - 1}, or None")


def filter_settings(
    filter_logits_fn: Callable[..., Tensor] | None, filter_thres: float | None, num_tokens: int
) -> dict[str, Any]:
    """One of the seed library's filters as keywords of ``SamplingConfig``."""
    chosen, thres = chosen_filter(filter_logits_fn, filter_thres)
    refuse("filter_thres", thres, not 0 <= thres <= 1, "at least 0 and at most 1")
    if chosen is keep_all:
        return {}
    if chosen is top_k:
        return {"top_k": max(1, math.ceil((1 - thres) * num_tokens))}
    refuse("filter_logits_fn", chosen, chosen is not top_p, "top_k, top_p or None")
    return {"top_p": thres}


def bins_of_values(bins: int, hl_gauss: Mapping[str, Any]) -> tuple[tuple[float, float], float]:
    """Centres of the outer bins of the critic's values, and the smoothing of what it is taught, in bins."""
    for name, value in hl_gauss.items():
        refuse("hl_gauss_loss_kwargs", name, name not in HL_GAUSS, "of " + ", ".join(HL_GAUSS))
        refuse("clamp_to_range", value, name == "clamp_to_range" and not value, "True: no bin stands for more")
    given = {**HL_GAUSS, **hl_gauss}
    lowest, highest = float(given["min_value"]), float(given["max_value"])
    refuse("max_value", highest, bins > 1 and not lowest < highest, f"above min_value, which is {lowest:g}")
    half = 0.0 if given["min_max_value_on_bin_center"] else (highest - lowest) / (2 * max(1, bins))
    return (lowest + half, highest - half), float(given["sigma_to_bin_ratio"])


def room_for_response(max_seq_len: int, prompt_length: int) -> int:
    """Tokens that a response may have behind the longest prompt."""
    if not 0 < max_seq_len - prompt_length <= LONGEST_RESPONSE:
        permitted = f"1 to {LONGEST_RESPONSE} tokens more than the longest prompt, which has {prompt_length}"
        raise ConfigError("max_seq_len", max_seq_len, permitted)
    return max_seq_len - prompt_length


def plain_copy(palm: PaLM) -> PaLM:
    """A copy of the base, without the LoRA scopes it may have."""
    copied = copy.deepcopy(palm)
    for scope in list(copied.lora):
        copied.remove_finetune_params(scope)
    return copied


def collect_prompts(
    prompts: Sequence[str] | None,
    prompts_path: str | Path | None,
    prompt_token_ids: Tensor | Sequence[Sequence[int]] | None,
    tokenizer: Tokenizer | TokenizerFunction | None,
    pad: int,
) -> list[list[int]]:
    """Token ids of each prompt.

    Raises:
        ValueError: not exactly one source, texts without a tokenizer, a tensor that is no (prompts, length), or no
            prompts.
    """
    if sum(source is not None for source in (prompts, prompts_path, prompt_token_ids)) != 1:
        raise ValueError("give exactly one of prompts, prompts_path and prompt_token_ids")
    if prompt_token_ids is None:
        if tokenizer is None:
            raise ValueError("prompts that are text need a tokenizer")
        texts = list(prompts or ()) if prompts_path is None else texts_in(Path(prompts_path))
        if isinstance(tokenizer, Tokenizer):
            return some([encode_prompt(tokenizer, text, LONGEST_PROMPT) for text in texts])
        prompt_token_ids = tokenizer(some(texts))
    if not isinstance(prompt_token_ids, Tensor):
        return some([list(row) for row in prompt_token_ids])  # rows say themselves where they end
    if prompt_token_ids.ndim != 2 or prompt_token_ids.is_floating_point():
        raise ValueError(
            f"prompt_token_ids must be whole numbers (prompts, length), not {prompt_token_ids.dtype} "
            f"{tuple(prompt_token_ids.shape)}"
        )
    return some([without_tail(row, pad) for row in prompt_token_ids.tolist()])


def some(prompts: list[Any]) -> list[Any]:
    """``prompts``, or a ValueError where there are none."""
    if not prompts:
        raise ValueError("there are no prompts")
    return prompts


def texts_in(path: Path) -> list[str]:
    """The prompts of a file: as the runs read them if it is named .jsonl, else its lines, but for blank ones."""
    if path.suffix == ".jsonl":
        return [prompt.text for prompt in read_prompts(path)]
    return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def without_tail(row: list[int], pad: int) -> list[int]:
    """``row`` without the run of ``pad`` at its end; one inside the text stays, and one token at least."""
    length = len(row)
    while length > 1 and row[length - 1] == pad:
        length -= 1
    return row[:length]
