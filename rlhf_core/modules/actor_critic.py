"""Policy and critic over one PaLM: two LoRA scopes on the same frozen base, whose bare weights are the reference."""

import copy
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from rlhf_core.config import SamplingConfig
from rlhf_core.generation.log_probs import SequenceLogProbs, sequence_log_probs
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.masking import Sequences, join_sequences, length_mask, masked_mean
from rlhf_core.modules.palm import PaLM
from rlhf_core.seeds import derive_seed

Tokens: TypeAlias = Sequence[Sequence[int]]


class Generated(NamedTuple):
    """What ``ActorCritic.generate`` gives: drawn tokens, all tokens, and which of the latter are real or prompt."""

    actions: Tensor
    sequence: Tensor
    mask: Tensor
    prompt_mask: Tensor


class ActorCritic(nn.Module):
    """A policy and a critic that gives the value of the state before each response token.

    With LoRA the two are adapters of different names on one base, which stays frozen and, with adapters off, is the
    reference policy: one copy of the weights for all three. Without LoRA each has weights of its own.

    Args:
        palm: the policy to start from; used as it is, not copied. Copy it first if you want it back unchanged.
        critic: the critic's trunk; None shares the base (LoRA) or copies ``palm`` (no LoRA).
        pooled_values: one value for a response, read off the prompt alone, in place of one a token. The response is
            never pooled: a baseline that has seen the action cancels the signal.
        actor_lora, critic_lora: train adapters, not weights.
        actor_lora_r, critic_lora_r, actor_lora_scope, critic_lora_scope: rank and name of the adapters.
        actor_dropout, critic_dropout: of their trunks; leave at 0 for PPO, whose ratios they would falsify.
        critic_dim_out: 1 gives a plain value head; more gives that many bins over ``value_range``, whose expectation is
            the value (arXiv 2403.03950).
        value_range: lowest and highest value that bins can express.
    """

    value_centers: Tensor
    value_edges: Tensor

    def __init__(
        self,
        palm: PaLM,
        critic: PaLM | None = None,
        pooled_values: bool = False,
        actor_lora: bool = True,
        critic_lora: bool = True,
        actor_lora_r: int = 8,
        critic_lora_r: int = 8,
        actor_lora_scope: str | None = "actor",
        critic_lora_scope: str | None = "critic",
        actor_dropout: float = 0.0,
        critic_dropout: float = 0.0,
        critic_dim_out: int = 6,
        value_range: tuple[float, float] = (0.0, 5.0),
    ) -> None:
        super().__init__()
        self.pooled_values = pooled_values
        self.actor_scope = actor_lora_scope if actor_lora else None
        self.critic_scope = critic_lora_scope if critic_lora else None
        shares_base = critic is None and actor_lora and critic_lora and actor_dropout == critic_dropout
        reference = None if actor_lora else copy.deepcopy(palm)
        critic = palm if shares_base else copy.deepcopy(palm) if critic is None else critic
        if self.actor_scope is not None:
            palm.add_finetune_params(self.actor_scope, actor_lora_r)
        if self.critic_scope is not None:
            critic.add_finetune_params(self.critic_scope, critic_lora_r)
        palm.set_dropout(actor_dropout)
        critic.set_dropout(critic_dropout)
        self.palm = palm
        self.critic_palm = None if shares_base else critic  # registered once, so that states hold each weight once
        self.reference_palm = reference
        for module in (palm, critic, reference):
            if module is not None:
                module.requires_grad_(False)
        self.bins = critic_dim_out
        self.value_head = nn.Linear(palm.dim, critic_dim_out)
        nn.init.zeros_(self.value_head.weight)  # every value starts at 0 (with bins: at the middle of the range)
        nn.init.zeros_(self.value_head.bias)
        edges = torch.linspace(*value_range, critic_dim_out + 1)
        self.register_buffer("value_edges", edges, persistent=False)
        self.register_buffer("value_centers", (edges[1:] + edges[:-1]) / 2, persistent=False)
        self.value_head.to(palm.device)
        for parameter in (*self.actor_parameters(), *self.critic_parameters()):
            parameter.requires_grad_(True)

    @property
    def critic_trunk(self) -> PaLM:
        return self.palm if self.critic_palm is None else self.critic_palm

    def actor_parameters(self) -> list[nn.Parameter]:
        """What the policy's optimiser moves."""
        if self.actor_scope is None:
            return self.palm.palm_parameters()
        return self.palm.finetune_parameters(self.actor_scope)

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critic's optimiser moves."""
        trunk = self.critic_trunk
        own = trunk.palm_parameters() if self.critic_scope is None else trunk.finetune_parameters(self.critic_scope)
        return [*own, *self.value_head.parameters()]

    def trainable_state(self) -> dict[str, Tensor]:
        """The learned tensors by name; with ``load_state_dict(strict=False)`` over the same parents they are all."""
        return {name: parameter.detach() for name, parameter in self.named_parameters() if parameter.requires_grad}

    def log_probs(self, prompts: Tokens, responses: Tokens, *, temperature: float = 1.0) -> SequenceLogProbs:
        """Log-probabilities of the response tokens under the policy, and entropies, each (batch, response)."""
        return sequence_log_probs(
            self.palm,
            prompts,
            responses,
            temperature=temperature,
            finetune_scope=self.actor_scope,
            with_entropies=True,
        )

    def reference_log_probs(self, prompts: Tokens, responses: Tokens, *, temperature: float = 1.0) -> Tensor:
        """The same of the policy as it was before training: the base with adapters off, or the frozen copy."""
        palm = self.palm if self.reference_palm is None else self.reference_palm
        with torch.no_grad():
            return sequence_log_probs(palm, prompts, responses, temperature=temperature, disable_lora=True).log_probs

    def value_outputs(self, sequences: Sequences) -> Tensor:
        """(batch, response, outputs) of the value head at the state before each response token."""
        trunk = self.critic_trunk
        embeddings = trunk(
            sequences.tokens,
            lengths=sequences.lengths,
            finetune_scope=self.critic_scope,
            return_only_embedding=True,
        )
        if self.pooled_values:
            prompt = length_mask(sequences.prompt_lengths, embeddings.shape[1])[..., None].expand_as(embeddings)
            pooled = self.value_head(masked_mean(embeddings, prompt, dim=1))
            return pooled[:, None].expand(-1, int(sequences.response_lengths.max()), -1)
        return self.value_head(before_response(embeddings, sequences))

    def decode_values(self, outputs: Tensor) -> Tensor:
        """(..., outputs) of the value head -> (...) values."""
        return outputs.squeeze(-1) if self.bins == 1 else outputs.softmax(dim=-1) @ self.value_centers

    def values(self, sequences: Sequences) -> Tensor:
        """(batch, response): the critic's value of the state before each token; beyond the response, anything."""
        return self.decode_values(self.value_outputs(sequences))

    def forward(
        self, x: Tensor, mask: Tensor | None = None, prompt_lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (batch, seq, tokens) of the policy and values of the critic.

        Args:
            x: (batch, seq) token ids, padded on the right.
            mask: (batch, seq) bool, True at real tokens.
            prompt_lengths: (batch,) where responses begin; None gives the value after every token but the last.

        Returns:
            logits, and values (batch, response).
        """
        lengths = torch.full((len(x),), x.shape[1], device=x.device) if mask is None else mask.sum(dim=1)
        starts = torch.ones_like(lengths) if prompt_lengths is None else prompt_lengths
        logits = self.palm(x, lengths=lengths, finetune_scope=self.actor_scope)
        return logits, self.values(Sequences(x, starts, lengths))

    @torch.no_grad()
    def generate(
        self, state: Tensor, max_seq_len: int, eos_token: int | None = None, temperature: float = 1.0, seed: int = 0
    ) -> Generated:
        """Continue prompts (batch, prompt) or (prompt,) up to a total length of ``max_seq_len``."""
        prompts = (state if state.ndim == 2 else state[None]).tolist()
        room = max(1, max_seq_len - len(prompts[0]))
        generations = generate_batch(
            self.palm,
            prompts,
            sampling=SamplingConfig(max_new_tokens=room, max_prompt_tokens=len(prompts[0]), temperature=temperature),
            end_id=eos_token,
            seeds=[derive_seed(seed, "generate", row) for row in range(len(prompts))],
            finetune_scope=self.actor_scope,
        )
        joined = join_sequences(prompts, [generation.tokens for generation in generations], device=state.device)
        size = joined.tokens.shape[1]
        return Generated(
            actions=joined.tokens[:, len(prompts[0]) :],
            sequence=joined.tokens,
            mask=length_mask(joined.lengths, size),
            prompt_mask=length_mask(joined.prompt_lengths, size),
        )


def before_response(x: Tensor, sequences: Sequences) -> Tensor:
    """(batch, seq, ...) -> (batch, response, ...): what stands at the position before each response token."""
    longest = int(sequences.response_lengths.max())
    steps = torch.arange(longest, device=x.device)
    index = (sequences.prompt_lengths[:, None] - 1 + steps).clamp(max=x.shape[1] - 1)
    return x[torch.arange(len(x), device=x.device)[:, None], index]
