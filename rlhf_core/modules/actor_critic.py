"""Policy and critic over one PaLM: two LoRA scopes on the same frozen base, whose bare weights are the reference."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from rlhf_core.config import SamplingConfig
from rlhf_core.errors import ConfigError
from rlhf_core.generation.log_probs import SequenceLogProbs, response_loss, sequence_log_probs, spread
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.masking import Sequences, join_sequences, length_mask, mean_of_rows
from rlhf_core.modules.known_tokens import KnownTokens
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.token_loss import LossOf, TokenLoss
from rlhf_core.seeds import derive_seed

Tokens: TypeAlias = Sequence[Sequence[int]]


class Generated(NamedTuple):
    """What ``ActorCritic.generate`` gives.

    Attributes:
        actions: (batch, longest response) drawn tokens.
        sequence: (batch, seq) prompts and responses, padded on the right.
        mask: (batch, seq) bool, True at real tokens.
        prompt_mask: (batch, seq) bool, True at those of the prompt.
        action_logits: (batch, seq, tokens) of the policy over ``sequence``.
        values: (batch, longest response) of the critic before each drawn token; None unless asked for.
    """

    actions: Tensor
    sequence: Tensor
    mask: Tensor
    prompt_mask: Tensor
    action_logits: Tensor
    values: Tensor | None


class ActorCritic(nn.Module):
    """A policy and a critic that gives the value of the state before each response token.

    Each of the two learns in one of three ways: adapters (LoRA) on frozen weights, all weights, or the last blocks
    alone; or the critic is a head on the policy's own states. As few copies of the weights are made as that permits:
    with adapters for both there is one, which with adapters off is the reference policy too; of last blocks the
    reference keeps the untrained ones beside it and shares what stays frozen; only where all weights of the policy
    learn does the reference have all weights of its own.

    Args:
        palm: the policy to start from; used as it is, not copied. Copy it first if you want it back unchanged.
        critic: the critic's trunk; None shares what it can with the policy and copies the rest of ``palm``.
        pooled_values: one value for a response, read off the prompt alone, in place of one a token. The response is
            never pooled: a baseline that has seen the action cancels the signal.
        actor_lora, critic_lora: train adapters, not weights.
        actor_lora_r, critic_lora_r, actor_lora_scope, critic_lora_scope: rank and name of the adapters.
        actor_dropout, critic_dropout: of their trunks; leave at 0 for PPO, whose ratios they would falsify.
        critic_dim_out: 1 gives a plain value head; more gives that many bins over ``value_range``, whose expectation is
            the value (arXiv 2403.03950).
        value_range: centre of the lowest and of the highest bin, and so the values that bins can express.
        value_smoothing: standard deviation, in bins, of what a return teaches the bins around it.
        actor_last_layers, critic_last_layers: train so many blocks from the end and the final gain, whole, in place of
            adapters or all weights; 0 leaves it to ``actor_lora`` and ``critic_lora``.
        values_from_policy: the value head reads the policy's final states, adapters included, and one pass serves both.
            The critic is the head alone: its gradient reaches the policy only where ``value_outputs`` is given states
            that have one. ``critic_lora``, its rank and scope and ``critic_dropout`` then mean nothing.

    Raises:
        ConfigError: there is no bin, no range for bins to cover, not so many blocks, or a critic of its own is asked
            for together with ``values_from_policy``.
        ValueError: a part is not causal, so that it would see the response before it is drawn, or ``critic`` does not
            go with ``palm``.
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
        value_smoothing: float = 0.75,
        actor_last_layers: int = 0,
        critic_last_layers: int = 0,
        values_from_policy: bool = False,
    ) -> None:
        super().__init__()
        lowest, highest = value_range
        if critic_dim_out < 1:
            raise ConfigError("critic_dim_out", critic_dim_out, "at least 1")
        if critic_dim_out > 1 and not lowest < highest:
            raise ConfigError("value_range", value_range, "a lower and a higher number")
        if critic_dim_out > 1 and not value_smoothing > 0:
            raise ConfigError("value_smoothing", value_smoothing, "above 0")
        for part, one in (("palm", palm), ("critic", critic)):
            if one is not None and not one.causal:
                raise ValueError(f"{part} is not causal: it would see a response before it is drawn")
        if critic is not None and (critic.dim, critic.num_tokens) != (palm.dim, palm.num_tokens):
            raise ValueError(
                f"critic has width {critic.dim} and {critic.num_tokens} tokens, palm {palm.dim} and {palm.num_tokens}"
            )
        if values_from_policy:
            own = {
                "critic": critic and "a PaLM",
                "pooled_values": pooled_values,
                "critic_last_layers": critic_last_layers,
            }
            for name, value in own.items():
                if value:
                    permitted = f"leave {name} out, since values_from_policy has a head read the policy's states alone"
                    raise ConfigError(name, value, permitted)
            critic_lora, critic_dropout = False, actor_dropout
        self.pooled_values = pooled_values
        self.values_from_policy = values_from_policy
        self.actor_last_layers, self.critic_last_layers = actor_last_layers, critic_last_layers
        actor_lora, critic_lora = actor_lora and not actor_last_layers, critic_lora and not critic_last_layers
        self.actor_scope = actor_lora_scope if actor_lora else None
        self.critic_scope = critic_lora_scope if critic_lora else None
        reference = None
        if not actor_lora:
            reference = palm.branch(actor_last_layers) if actor_last_layers else copy.deepcopy(palm)
        if values_from_policy:
            critic = palm
        elif critic is None:
            frozen = palm if reference is None else reference  # holds the weights of before training for good
            may_share = actor_dropout == critic_dropout
            if may_share and critic_lora:
                critic = frozen
            elif may_share and critic_last_layers:
                critic = frozen.branch(critic_last_layers)
            else:
                critic = copy.deepcopy(palm)
        if self.actor_scope is not None:
            palm.add_finetune_params(self.actor_scope, actor_lora_r)
        if self.critic_scope is not None:
            critic.add_finetune_params(self.critic_scope, critic_lora_r)
        palm.set_dropout(actor_dropout)
        critic.set_dropout(critic_dropout)
        self.palm = palm
        self.critic_palm = None if critic is palm else critic  # registered once, so that states hold each weight once
        self.reference_palm = reference
        for module in (palm, critic, reference):
            if module is not None:
                module.requires_grad_(False)
        self.bins = critic_dim_out
        self.value_head = nn.Linear(palm.dim, critic_dim_out)
        nn.init.zeros_(self.value_head.weight)  # every value starts at 0 (with bins: at the middle of the range)
        nn.init.zeros_(self.value_head.bias)
        self.segments: nn.Parameter | None = None
        self.value_smoothing = value_smoothing
        centers = torch.linspace(lowest, highest, critic_dim_out)
        half = (highest - lowest) / (2 * max(1, critic_dim_out - 1))
        edges = torch.cat((centers - half, centers[-1:] + half))
        self.register_buffer("value_edges", edges, persistent=False)
        self.register_buffer("value_centers", centers, persistent=False)
        self.to(palm.device)
        for parameter in (*self.actor_parameters(), *self.critic_parameters()):
            parameter.requires_grad_(True)

    @property
    def critic_trunk(self) -> PaLM:
        return self.palm if self.critic_palm is None else self.critic_palm

    def actor_parameters(self) -> list[nn.Parameter]:
        """What the policy's optimiser moves."""
        return learned_parameters(self.palm, self.actor_scope, self.actor_last_layers)

    def critic_parameters(self) -> list[nn.Parameter]:
        """What the critic's optimiser moves."""
        own = []
        if not self.values_from_policy:
            own = learned_parameters(self.critic_trunk, self.critic_scope, self.critic_last_layers)
        return [*own, *self.value_head.parameters(), *([] if self.segments is None else [self.segments])]

    def add_segments(self, prompt: Tensor, response: Tensor) -> None:
        """Let the critic tell prompt from response by embeddings (dim,) added to its tokens, as a reward model does."""
        self.segments = nn.Parameter(torch.stack((prompt.detach(), response.detach())))

    @contextmanager
    def remember_tokens(self, rows: Tokens) -> Iterator[None]:
        """While this is open, what a first block that doesn't learn feeds forward of these tokens is worked out once.

        On a CPU alone: a GPU would have to be asked at each pass whether a token is new. The tokens are read in an
        order of their own: which batch came first would show in the last digits, and a resumed round begins elsewhere.
        """
        tokens = torch.tensor(sorted({token for row in rows for token in row}), device=self.palm.device)
        known: dict[int, KnownTokens] = {}
        trunks = [trunk for trunk in (self.palm, self.critic_palm, self.reference_palm) if trunk is not None]
        try:
            for trunk in trunks:
                embedding, block = trunk.token_emb.weight, trunk.each_block()[0]
                is_learned = any(weight.requires_grad for weight in (embedding, *block.parameters()))
                if trunk.device.type == "cpu" and not is_learned:
                    if id(block) not in known:  # trunks with one first block have one embedding too
                        known[id(block)] = KnownTokens(embedding, block)
                        known[id(block)].feed(tokens)
                    trunk.known_tokens = known[id(block)]
            yield
        finally:
            for trunk in trunks:
                trunk.known_tokens = None

    def recompute_blocks(self, is_on: bool) -> None:
        """Whether policy and critic keep the input of each block alone and run it again for the gradient."""
        for trunk in (self.palm, self.critic_trunk):
            trunk.recompute_blocks = is_on

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

    def response_loss(
        self,
        prompts: Tokens,
        responses: Tokens,
        loss_of: LossOf,
        *,
        temperature: float = 1.0,
        with_entropies: bool,
        keep_states: Callable[[Tensor], object] | None = None,
    ) -> TokenLoss:
        """A loss of the response tokens' log-probabilities under the policy; see ``generation.log_probs``."""
        return response_loss(
            self.palm,
            prompts,
            responses,
            loss_of,
            temperature=temperature,
            with_entropies=with_entropies,
            finetune_scope=self.actor_scope,
            keep_states=keep_states,
        )

    def reference_log_probs(self, prompts: Tokens, responses: Tokens, *, temperature: float = 1.0) -> Tensor:
        """The same of the policy as it was before training: the base with adapters off, or the frozen copy."""
        palm = self.palm if self.reference_palm is None else self.reference_palm
        with torch.no_grad():
            return sequence_log_probs(palm, prompts, responses, temperature=temperature, disable_lora=True).log_probs

    def value_outputs(self, sequences: Sequences, states: Tensor | None = None) -> Tensor:
        """(batch, response, outputs) of the value head at the state before each response token.

        Args:
            states: (tokens, dim) those states, row after row without padding, where ``values_from_policy`` and the
                policy has just been run; None runs the critic's trunk.
        """
        longest = int(sequences.response_lengths.max())
        if states is not None:
            return spread(self.value_head(states), length_mask(sequences.response_lengths, longest))
        prompt = length_mask(sequences.prompt_lengths, sequences.tokens.shape[1])
        places = torch.arange(sequences.tokens.numel(), device=sequences.tokens.device).view_as(sequences.tokens)
        if self.pooled_values:
            wanted = places[prompt]
        else:
            response = length_mask(sequences.response_lengths, longest)
            wanted = before_response(places, sequences)[response]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.values_from_policy):
            states = self.critic_trunk(
                sequences.tokens,
                lengths=sequences.lengths,
                extra_embed=None if self.segments is None else torch.where(prompt[..., None], *self.segments),
                finetune_scope=self.actor_scope if self.values_from_policy else self.critic_scope,
                return_only_embedding=True,
                places=wanted,
            )
        if self.pooled_values:
            pooled = self.value_head(mean_of_rows(states, prompt))
            return pooled[:, None].expand(-1, longest, -1)
        return spread(self.value_head(states), response)

    def decode_values(self, outputs: Tensor) -> Tensor:
        """(..., outputs) of the value head -> (...) values."""
        return outputs.squeeze(-1) if self.bins == 1 else outputs.softmax(dim=-1) @ self.value_centers

    def values(self, sequences: Sequences) -> Tensor:
        """(batch, response): the critic's value of the state before each token; beyond the response, anything."""
        return self.decode_values(self.value_outputs(sequences))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        return_values: bool = True,
        prompt_lengths: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits (batch, seq, tokens) of the policy and values of the critic.

        Args:
            x: (batch, seq) token ids, padded on the right.
            mask: (batch, seq) bool, True at real tokens.
            return_values: False gives None in their place and does not ask the critic.
            prompt_lengths: (batch,) where responses begin; None gives the value after every token but the last.

        Returns:
            logits, and values (batch, response).
        """
        lengths = torch.full((len(x),), x.shape[1], device=x.device) if mask is None else mask.sum(dim=1)
        starts = torch.ones_like(lengths) if prompt_lengths is None else prompt_lengths
        logits = self.palm(x, lengths=lengths, finetune_scope=self.actor_scope)
        return logits, self.values(Sequences(x, starts, lengths)) if return_values else None

    @torch.no_grad()
    def generate(
        self,
        state: Tensor,
        max_seq_len: int,
        eos_token: int | None = None,
        return_values: bool = False,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> Generated:
        """Continue prompts (batch, prompt) or (prompt,) up to a total length of ``max_seq_len``.

        Nothing is filtered, so that ``action_logits`` are those of the distribution that was drawn from.

        Raises:
            ValueError: there is no token to go on from, or one outside the vocabulary.
        """
        prompts = (state if state.ndim == 2 else state[None]).tolist()
        generations = generate_batch(
            self.palm,
            prompts,
            sampling=SamplingConfig(max_new_tokens=max(1, max_seq_len - state.shape[-1]), temperature=temperature),
            end_id=eos_token,
            seeds=[derive_seed(seed, "generate", row) for row in range(len(prompts))],
            finetune_scope=self.actor_scope,
        )
        joined = join_sequences(prompts, [generation.tokens for generation in generations], device=state.device)
        size = joined.tokens.shape[1]
        mask = length_mask(joined.lengths, size)
        was_training = self.training
        action_logits, values = self.eval()(joined.tokens, mask, return_values, joined.prompt_lengths)
        self.train(was_training)
        return Generated(
            actions=joined.tokens[:, state.shape[-1] :],
            sequence=joined.tokens,
            mask=mask,
            prompt_mask=length_mask(joined.prompt_lengths, size),
            action_logits=action_logits,
            values=values,
        )


def learned_parameters(palm: PaLM, scope: str | None, last_layers: int) -> list[nn.Parameter]:
    """The adapters of a scope, the last blocks, or all weights."""
    if scope is not None:
        return palm.finetune_parameters(scope)
    return palm.last_parameters(last_layers) if last_layers else palm.palm_parameters()


def before_response(x: Tensor, sequences: Sequences) -> Tensor:
    """(batch, seq, ...) -> (batch, response, ...): what stands at the position before each response token."""
    longest = int(sequences.response_lengths.max())
    steps = torch.arange(longest, device=x.device)
    index = (sequences.prompt_lengths[:, None] - 1 + steps).clamp(max=x.shape[1] - 1)
    return x[torch.arange(len(x), device=x.device)[:, None], index]
