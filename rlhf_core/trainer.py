"""``RLHFTrainer``: the seed library's one-object interface over the same parts that the runs use."""

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as pack
from torch import Tensor, nn

from rlhf_core.config import PolicyConfig, SamplingConfig
from rlhf_core.durable import write_atomically
from rlhf_core.errors import CheckpointError, ConfigError
from rlhf_core.generation.best_of_n import best_of_n
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import read_prompts
from rlhf_core.seeds import derive_seed
from rlhf_core.text.template import encode_prompt
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.ppo import PolicyTrainer, reward_of

KL_HARD_CAP = 10_000.0  # nats a response: the seed library has no cap, and its responses may have thousands of tokens
LONGEST_RESPONSE = 4096


class RLHFTrainer(nn.Module):
    """PPO on a PaLM and a reward model, with the arguments of the seed library.

    Neither ``palm`` nor ``reward_model`` is changed: the trainer works on copies, so a second trainer may be made from
    the same ones. What it learned is ``actor_critic``. Where the numbers mean something else than in the seed library,
    docs/algorithms/seed-compatibility.md says so.

    Args:
        prompts, prompts_path, prompt_token_ids: exactly one of texts, a JSON-lines file of prompts, or token ids
            (prompts, length) or rows of any lengths. Texts need ``tokenizer``.
        palm: the policy to start from.
        reward_model: scores the responses.
        tokenizer: a ``Tokenizer``, for texts.
        critic, critic_palm: trunk of the critic; None shares the policy's.
        actor_critic: a ready one, instead of making it.
        actor_lr, critic_lr, actor_wd, critic_wd, betas, actor_adam_eps, critic_adam_eps: of AdamW; the two epsilons
            must be equal.
        actor_lora, critic_lora, actor_lora_r, critic_lora_r: train adapters, and their rank.
        critic_pooled_values: one value a response, read off its prompt, in place of one a token.
        actor_dropout, critic_dropout: must be 0: with dropout the ratios of unchanged weights are not 1.
        max_norm: largest gradient norm; None does not clip.
        eps_clip, value_clip: how far ratios and values may move.
        beta_s: weight of the entropy bonus.
        pad_value: what stands behind shorter prompts in ``prompt_token_ids``. Only such a tail is cut off.
        minibatch_size, epochs: of the learning.
        kl_div_loss_weight: reward given up for a nat of KL to the frozen parent.
        accelerate_kwargs: must be empty; several processes are not served here.
        critic_num_pred_bins, hl_gauss_loss_kwargs: bins of the critic's values, and ``min_value`` and ``max_value``.
            One bin predicts the value itself and has no range.
        use_lion: must be False.
        seed: of everything random.

    Raises:
        ConfigError: an argument outside its range, or one that asks for what is not served.
        ValueError: not exactly one kind of prompts, or texts without a tokenizer.
    """

    def __init__(
        self,
        *,
        palm: PaLM,
        reward_model: RewardModel,
        prompts: Sequence[str] | None = None,
        prompts_path: str | Path | None = None,
        prompt_token_ids: Tensor | Sequence[Sequence[int]] | None = None,
        tokenizer: Tokenizer | None = None,
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
        critic_pooled_values: bool = True,
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
        accelerate_kwargs: Mapping[str, Any] | None = None,
        critic_num_pred_bins: int = 6,
        hl_gauss_loss_kwargs: Mapping[str, float] | None = None,
        critic_palm: PaLM | None = None,
        actor_adam_eps: float = 1e-5,
        critic_adam_eps: float | None = None,
        use_lion: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        refuse("accelerate_kwargs", accelerate_kwargs, bool(accelerate_kwargs), "empty: one process trains")
        refuse("use_lion", use_lion, use_lion, "False: AdamW is the optimiser")
        for name, rate in (("actor_dropout", actor_dropout), ("critic_dropout", critic_dropout)):
            refuse(name, rate, rate != 0.0, "0: with dropout the ratios of unchanged weights are not 1")
        critic_adam_eps = actor_adam_eps if critic_adam_eps is None else critic_adam_eps
        refuse("critic_adam_eps", critic_adam_eps, critic_adam_eps != actor_adam_eps, "equal to actor_adam_eps")
        self.tokenizer = tokenizer
        self.prompts = collect_prompts(prompts, prompts_path, prompt_token_ids, tokenizer, int(pad_value))
        value_range = {"min_value": 0.0, "max_value": 5.0, **(hl_gauss_loss_kwargs or {})}
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
                value_range=(value_range["min_value"], value_range["max_value"]),
            )
        self.actor_critic = actor_critic
        self.reward_model = copy.deepcopy(reward_model).eval().requires_grad_(False)
        self.seed = seed
        self.betas = betas
        self.weight_decays = (actor_wd, critic_wd)
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
        PolicyConfig(**self.settings)  # refuses what is out of range now and not after the first hour
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
            itself. ``history`` holds the metrics of each round (``rlhf_core.config.METRICS["policy"]``).

        Raises:
            ConfigError: ``max_seq_len`` leaves no room for a response, or more than 4,096 tokens.
            TrainingDiverged: a number is not finite, or the KL passed 10,000 nats a response.
        """
        if isinstance(num_episodes, bool):
            return super().train(num_episodes)
        total = num_episodes * max_timesteps
        sizes = [min(update_timesteps, total - at) for at in range(0, total, update_timesteps)]
        longest_prompt = max(map(len, self.prompts))
        room = room_for_response(max_seq_len, longest_prompt)
        score = reward_of(self.reward_model, eos_token)
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
                    self.actor_critic,
                    self.prompts,
                    score,
                    config,
                    eos_token,
                    betas=self.betas,
                    actor_weight_decay=self.weight_decays[0],
                    critic_weight_decay=self.weight_decays[1],
                )
            trainer = self.policy_trainer
            trainer.config, trainer.score, trainer.end_id = config, score, eos_token
            trainer.rollout_rows = max_batch_size
            self.history.append(trainer.update(self.rounds, drawn=self.drawn, remaining=1 - number / len(sizes)))
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
        filter_thres: float = 0.0,
        pad_value: float = 0.0,
        use_tqdm: bool = False,
    ) -> Tensor:
        """The best of ``num_samples`` responses by the reward model's score, with its prompt in front.

        Args:
            max_seq_len: longest prompt and response together.
            prompt: (prompt,) token ids.
            num_samples: how many to choose from.
            eos_token: ends a response.
            temperature: of the drawing.
            filter_thres: share of the vocabulary that is never drawn, the least likely of it; 0 draws from all.
            pad_value, use_tqdm: accepted for the seed library's sake; one response is not padded, and no bar is shown.

        Returns:
            (at most max_seq_len,) token ids.

        Raises:
            ValueError: ``prompt`` is not one row, or leaves no room for a response.
        """
        if prompt.ndim != 1 or not 0 < len(prompt) < max_seq_len:
            raise ValueError(f"prompt must be one row of 1 to {max_seq_len - 1} tokens, not {tuple(prompt.shape)}")
        tokens = prompt.tolist()
        best = best_of_n(
            self.actor_critic.palm,
            [tokens],
            reward_of(self.reward_model, eos_token),
            samples=num_samples,
            sampling=SamplingConfig(
                max_new_tokens=room_for_response(max_seq_len, len(tokens)),
                temperature=temperature,
                top_k=math.ceil((1 - filter_thres) * self.actor_critic.palm.num_tokens) if filter_thres else 0,
            ),
            end_id=eos_token,
            seeds=[derive_seed(self.seed, "generate", row) for row in range(num_samples)],
            finetune_scope=self.actor_critic.actor_scope,
        )
        return torch.tensor([*tokens, *best[0].generation.tokens], device=prompt.device)

    def save(self, filepath: str | Path = "./checkpoint.safetensors") -> None:
        """Write what policy and critic learned to one safetensors file, which is whole or absent after a crash."""
        state = {name: one.contiguous().cpu() for name, one in self.actor_critic.trainable_state().items()}
        write_atomically(Path(filepath), pack(state, {"format": json.dumps("actor-critic 1")}))

    def load(self, filepath: str | Path = "./checkpoint.safetensors") -> None:
        """Read what ``save`` wrote, into a trainer made from the same parents and settings.

        Raises:
            CheckpointError: the file is missing, torn, or was written with other settings.
        """
        try:
            with safe_open(str(filepath), framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            if state.keys() != self.actor_critic.trainable_state().keys():
                raise ValueError("it holds other tensors than this trainer learns")
            self.actor_critic.load_state_dict(state, strict=False)
            self.policy_trainer = None  # its optimisers' moments are those of other weights
        except Exception as error:  # safetensors raises its own kinds, and a torn file may fail anywhere
            raise CheckpointError(f"{filepath} is no state of such a trainer: {error}") from error


def refuse(name: str, value: Any, is_refused: bool, permitted: str) -> None:
    """Raise ConfigError for an argument of the seed library that asks for what is not served."""
    if is_refused:
        raise ConfigError(name, value, permitted)


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
    tokenizer: Tokenizer | None,
    pad: int,
) -> list[list[int]]:
    """Token ids of each prompt.

    Raises:
        ValueError: not exactly one source, texts without a tokenizer, or no prompts.
    """
    if sum(source is not None for source in (prompts, prompts_path, prompt_token_ids)) != 1:
        raise ValueError("give exactly one of prompts, prompts_path and prompt_token_ids")
    if prompt_token_ids is not None:
        rows = prompt_token_ids.tolist() if isinstance(prompt_token_ids, Tensor) else prompt_token_ids
        found = [without_tail(list(row), pad) for row in rows]
    else:
        if tokenizer is None:
            raise ValueError("prompts that are text need a tokenizer")
        texts = [item.text for item in read_prompts(Path(prompts_path))] if prompts_path else list(prompts or ())
        found = [encode_prompt(tokenizer, text, 8192) for text in texts]
    if not found:
        raise ValueError("there are no prompts")
    return found


def without_tail(row: list[int], pad: int) -> list[int]:
    """``row`` without the run of ``pad`` at its end; one inside the text stays, and one token at least."""
    length = len(row)
    while length > 1 and row[length - 1] == pad:
        length -= 1
    return row[:length]
