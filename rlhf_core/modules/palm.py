"""PaLM: the one network under policy, reference, critic and reward model."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rlhf_core.config import ModelConfig, settings_from_dict, settings_to_dict
from rlhf_core.errors import CheckpointError, ConfigError
from rlhf_core.generation.decoder import Decoder
from rlhf_core.generation.drawing import draw_tokens
from rlhf_core.generation.filters import chosen_filter
from rlhf_core.modules.attention import LayerNorm, ParallelBlock, Surroundings
from rlhf_core.modules.known_tokens import KnownTokens
from rlhf_core.modules.lora import BlockLoRA
from rlhf_core.modules.rotary import Rotary
from rlhf_core.modules.seed_state import is_seed_palm, palm_state_from_seed
from rlhf_core.modules.token_loss import mean_cross_entropy
from rlhf_core.weights import check_fit, read_weights, save_weights

NOT_A_TOKEN = -100  # a label that the loss leaves out


class PaLM(nn.Module):
    """A decoder of parallel blocks (see ``ParallelBlock``), with a tied output matrix and named LoRA scopes.

    Args:
        dim: width of the residual stream.
        num_tokens: size of the vocabulary.
        depth: number of blocks.
        causal: each position sees only itself and those before it; xPos is on only then.
        dim_head: width of a head, even.
        heads: query heads; one key and one value head serve them all.
        ff_mult: width of the feed-forward part, in multiples of ``dim``.
        attn_dropout, ff_dropout: on attention weights and on the gated hidden layer, in training only.
        qk_rmsnorm: normalise queries and keys.
        lora_r: rank of scopes added without one.
        rotary_xpos_scale_base: distance over which xPos fades attention.
        flash_attn: accepted for the seed library's sake; attention always goes through PyTorch's fused kernels.
        finetune_scopes: LoRA scopes to add at once.
        cross_entropy_ignore_index: label that ``return_loss`` leaves out; by default none, so that every token is
            learned. Tell padding by ``lengths``.

    Raises:
        ConfigError: an argument outside its range.

    Source: Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311. Ours differs: rotary over xPos, QK-norm optional.
    """

    _decoder: Decoder | None = None
    known_tokens: KnownTokens | None = None  # while ``remember_tokens`` is open
    recompute_blocks = False  # keep the input of each block alone and run it again for the gradient: a third slower

    def __init__(
        self,
        *,
        dim: int,
        num_tokens: int,
        depth: int,
        causal: bool = True,
        dim_head: int = 64,
        heads: int = 8,
        ff_mult: int = 4,
        attn_dropout: float = 0.0,
        ff_dropout: float = 0.0,
        qk_rmsnorm: bool = False,
        lora_r: int = 8,
        rotary_xpos_scale_base: int = 512,
        flash_attn: bool = False,
        finetune_scopes: Sequence[str] = (),
        cross_entropy_ignore_index: int = NOT_A_TOKEN,
    ) -> None:
        super().__init__()
        self.config = ModelConfig(
            num_tokens=num_tokens,
            dim=dim,
            depth=depth,
            heads=heads,
            dim_head=dim_head,
            ff_mult=ff_mult,
            causal=causal,
            qk_rmsnorm=qk_rmsnorm,
            rotary_xpos_scale_base=rotary_xpos_scale_base,
        )
        for name, rate in (("attn_dropout", attn_dropout), ("ff_dropout", ff_dropout)):
            if not 0 <= rate < 1:
                raise ConfigError(name, rate, "at least 0 and below 1")
        if isinstance(finetune_scopes, str):
            raise ConfigError("finetune_scopes", finetune_scopes, f"names in a tuple or list: ({finetune_scopes!r},)")
        self.dim = dim
        self.num_tokens = num_tokens
        self.causal = causal
        self.lora_r = lora_r
        self.cross_entropy_ignore_index = cross_entropy_ignore_index
        self.token_emb = nn.Embedding(num_tokens, dim)
        nn.init.normal_(self.token_emb.weight, std=0.02)
        self.rotary = rotary_of(self.config)
        self.blocks = nn.ModuleList(
            ParallelBlock(
                dim=dim,
                dim_head=dim_head,
                heads=heads,
                ff_mult=ff_mult,
                attn_dropout=attn_dropout,
                ff_dropout=ff_dropout,
                qk_rmsnorm=qk_rmsnorm,
            )
            for _ in range(depth)
        )
        self.norm = LayerNorm(dim)
        self.lora = nn.ModuleDict()
        for scope in finetune_scopes:
            self.add_finetune_params(scope)

    @classmethod
    def from_config(cls, config: ModelConfig) -> "PaLM":
        """A PaLM of this shape without dropout."""
        return cls(**settings_to_dict(config))

    @property
    def device(self) -> torch.device:
        return self.token_emb.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.token_emb.weight.dtype

    def set_dropout(self, dropout: float) -> "PaLM":
        """Set both dropouts of every block, each at least 0 and below 1."""
        if not 0 <= dropout < 1:
            raise ConfigError("dropout", dropout, "at least 0 and below 1")
        for block in self.each_block():
            block.attn_dropout = block.ff_dropout = dropout
        return self

    def set_causal(self, causal: bool) -> "PaLM":
        """Let each position see only itself and those before it, with xPos, or all positions, without."""
        self.causal = causal
        self.config = replace(self.config, causal=causal)
        self.rotary = rotary_of(self.config).to(self.device, self.dtype)
        return self

    # ---- LoRA scopes

    def add_finetune_params(self, scope: str, lora_r: int | None = None, lora_alpha: float | None = None) -> None:
        """Add adapters of this name to every block; they change nothing until trained.

        Args:
            lora_r: rank, by default the model's ``lora_r``.
            lora_alpha: the adapters' strength, by default the rank, which makes their factor 1.

        Raises:
            ConfigError: the rank is below 1.
            ValueError: the scope exists, or its name is empty or holds a dot.
        """
        if not scope or "." in scope or scope in self.lora:
            raise ValueError(f"LoRA scope {scope!r} is not permitted: a new, non-empty name without dots")
        shape = self.config
        rank = self.lora_r if lora_r is None else lora_r
        if rank < 1:
            raise ConfigError("lora_r", rank, "at least 1")
        adapters = (BlockLoRA(shape.dim, shape.heads, shape.dim_head, rank, lora_alpha) for _ in self.blocks)
        self.lora[scope] = nn.ModuleList(adapters).to(self.device, self.dtype)

    def remove_finetune_params(self, scope: str) -> nn.ModuleList:
        """Forget a scope; returns its adapters, one a block."""
        self.scope_adapters(scope)
        return cast(nn.ModuleList, self.lora.pop(scope))

    @torch.no_grad()
    def merge_finetune_params(self, scope: str) -> None:
        """Fold a scope into the weights of the base and forget it."""
        for block, adapters in zip(self.each_block(), self.scope_adapters(scope), strict=True):
            changes = [lora.weight_change() for lora in (adapters.q, adapters.k, adapters.v)]
            weight = block.project_in.weight
            weight[: sum(len(change) for change in changes)] += torch.cat(changes)
            block.attention_out.weight += adapters.o.weight_change()
        del self.lora[scope]

    def palm_parameters(self) -> list[nn.Parameter]:
        """Parameters of the base, without those of any scope."""
        adapters = {id(parameter) for parameter in self.lora.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in adapters]

    def finetune_parameters(self, scope: str = "default") -> list[nn.Parameter]:
        """Parameters of one scope."""
        return [parameter for adapters in self.scope_adapters(scope) for parameter in adapters.parameters()]

    def last_parameters(self, layers: int) -> list[nn.Parameter]:
        """Parameters of the last ``layers`` blocks, without those of any scope, and the final gain."""
        self.check_layers(layers)
        return [parameter for module in (*self.blocks[-layers:], self.norm) for parameter in module.parameters()]

    def check_layers(self, layers: int) -> None:
        """Raise ConfigError where there are not so many blocks."""
        if not 1 <= layers <= len(self.blocks):
            raise ConfigError("last_layers", layers, f"1 to {len(self.blocks)}, which is how many blocks there are")

    def branch(self, layers: int) -> "PaLM":
        """A PaLM with last ``layers`` blocks and final gain of its own, copies of these; all before them are shared.

        What is shared is the modules themselves, the tied output matrix too, so it should stay frozen. Scopes stay
        behind.

        Raises:
            ConfigError: there are not so many blocks.
        """
        self.check_layers(layers)
        shared: list[nn.Module] = [self.token_emb, self.rotary, *self.blocks[: len(self.blocks) - layers]]
        branch = copy.deepcopy(self, {id(module): module for module in shared})
        branch.lora.clear()
        return branch

    def train_only(self, scope: str | None) -> None:
        """Let gradients flow to one scope alone, or, given None, to the base alone; the rest needs none."""
        chosen = self.palm_parameters() if scope is None else self.finetune_parameters(scope)
        self.requires_grad_(False)
        for parameter in chosen:
            parameter.requires_grad_(True)

    def each_block(self) -> list[ParallelBlock]:
        return cast(list[ParallelBlock], list(self.blocks))

    def scope_adapters(self, scope: str) -> list[BlockLoRA]:
        """The adapters of a scope, one a block.

        Raises:
            ValueError: there is no such scope.
        """
        if scope not in self.lora:
            raise ValueError(f"there is no LoRA scope {scope!r}; there are {sorted(self.lora)}")
        return cast(list[BlockLoRA], list(cast(nn.ModuleList, self.lora[scope])))

    # ---- forward

    def forward(
        self,
        x: Tensor,
        return_loss: bool = False,
        disable_lora: bool = False,
        finetune_scope: str | None = None,
        extra_embed: Tensor | None = None,
        return_only_embedding: bool = False,
        return_logits_with_embedding: bool = False,
        lengths: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Any:
        """Logits, or what the flags ask for instead.

        Args:
            x: (batch, seq) token ids, padded on the right. Without ``causal``, ids below 0 are padding too.
            return_loss: the mean cross-entropy of each next token instead, in nats.
            disable_lora: leave all adapters out, whatever ``finetune_scope`` says.
            finetune_scope: adapters to use; None uses none.
            extra_embed: added to the token embeddings, broadcastable to (batch, seq, dim).
            return_only_embedding: the final, normed embeddings (batch, seq, dim) instead.
            return_logits_with_embedding: the pair of logits and embeddings instead.
            lengths: (batch,) real tokens of each row. Causal attention needs no help against padding on the right,
                so there they only keep it out of the loss.
            places: (n,) int64, each row * seq + column: the only places that something is wanted at. It comes in their
                order, without the axes of batch and seq, and the last block works out no others. Not for the loss.

        Returns:
            (batch, seq, num_tokens) logits unless a flag says otherwise.

        Raises:
            ValueError: ``finetune_scope`` is unknown, ``x`` has another form or a token outside the vocabulary, there
                is nothing to predict, or a loss was asked for at some places.
        """
        if x.ndim != 2 or x.shape[1] < 1 + return_loss:
            raise ValueError(f"x must be (batch, seq) with at least {1 + return_loss} tokens, not {tuple(x.shape)}")
        adapters = None if disable_lora or finetune_scope is None else self.scope_adapters(finetune_scope)
        labels = None
        if return_loss:
            labels = self.labels(x[:, 1:], None if lengths is None else lengths - 1)
            x = x[:, :-1]
        if return_loss and places is not None:
            raise ValueError("the loss is that of all tokens: places are for embeddings and logits")
        around = self.surroundings(x, lengths)
        hidden = self.embed(x if self.causal else x.clamp(min=0))
        if extra_embed is not None:
            hidden = hidden + extra_embed
        fed = None
        if self.known_tokens is not None and extra_embed is None and self.causal:
            fed = self.known_tokens.feed(x)
        for index, block in enumerate(self.each_block()):
            lora = None if adapters is None else adapters[index]
            wanted = places if index == len(self.blocks) - 1 else None
            if self.recompute_blocks and torch.is_grad_enabled():
                hidden = checkpoint(block, hidden, around, lora, wanted, fed, use_reentrant=False)
            else:
                hidden = block(hidden, around, lora, wanted, fed)
            fed = None
        hidden = self.norm(hidden)
        if return_only_embedding:
            return hidden
        if labels is not None:
            counted = labels != NOT_A_TOKEN
            return mean_cross_entropy(hidden[counted], self.token_emb.weight, labels[counted])
        logits = self.to_logits(hidden)
        if return_logits_with_embedding:
            return logits, hidden
        return logits

    def embed(self, x: Tensor) -> Tensor:
        """(batch, seq) token ids -> (batch, seq, dim)."""
        try:
            return self.token_emb(x)
        except IndexError as error:  # on a GPU the kernel itself stops: looking first would make every step wait
            raise ValueError(
                f"x holds the tokens {int(x.min())} to {int(x.max())}, the vocabulary 0 to {self.num_tokens - 1}"
            ) from error

    def to_logits(self, embeddings: Tensor) -> Tensor:
        """(..., dim) final embeddings -> (..., num_tokens), by the transposed embedding matrix."""
        return F.linear(embeddings, self.token_emb.weight)

    def labels(self, targets: Tensor, lengths: Tensor | None) -> Tensor:
        """``targets`` (batch, seq) with ``NOT_A_TOKEN`` where the loss must not look."""
        left_out = targets == self.cross_entropy_ignore_index
        if not self.causal:
            left_out = left_out | (targets < 0)
        if lengths is not None:
            left_out = left_out | (torch.arange(targets.shape[1], device=targets.device) >= lengths[:, None])
        return targets.masked_fill(left_out, NOT_A_TOKEN)

    def surroundings(self, x: Tensor, lengths: Tensor | None) -> Surroundings:
        """Positions and masks of this pass, shared by all blocks."""
        seq = x.shape[1]
        steps = torch.arange(seq, device=x.device)
        mask = None
        if not self.causal:
            mask = x >= 0
            if lengths is not None:
                mask = mask & (steps < lengths[:, None])
            mask = mask[:, None, None]
        return Surroundings(self.rotary(steps, seq), self.causal and seq > 1, mask)

    # ---- generation

    def decoder(self, finetune_scope: str | None = None, disable_lora: bool = False) -> Decoder:
        """This model with the adapters of one scope or none, ready to decode.

        The last one is kept, as long as its weights haven't changed.

        Raises:
            ValueError: the scope is unknown, or the model isn't causal: earlier tokens would see later ones.
        """
        if not self.causal:
            raise ValueError("decoding with a key/value cache needs a causal model: without, earlier tokens see later")
        adapters = None if disable_lora or finetune_scope is None else self.scope_adapters(finetune_scope)
        weights = (self.token_emb.weight, self.each_block(), self.norm, adapters)
        if self._decoder is None or not self._decoder.is_current(*weights):
            self._decoder = None  # the old copies go before the new ones are made
            self._decoder = Decoder(*weights, self.rotary)
        return self._decoder

    def __getstate__(self) -> dict[str, Any]:
        """What copies of this model take over: all but the weights copied for decoding, and what was looked up."""
        return {**super().__getstate__(), "_decoder": None, "known_tokens": None}

    @torch.no_grad()
    def generate(
        self,
        seq_len: int,
        prompt: Tensor | None = None,
        temperature: float = 1.0,
        filter_logits_fn: Callable[..., Tensor] | None = None,
        filter_thres: float | None = None,
        pad_value: float = 0.0,
        eos_token: int | None = None,
        return_seq_without_prompt: bool = True,
        use_tqdm: bool = False,
        **forward_kwargs: Any,
    ) -> Tensor:
        """Sample up to a total length of ``seq_len``; at least one token is drawn.

        The plain way from the seed library, for prompts of one length; ``rlhf_core.generation`` serves ragged ones,
        with log-probabilities and a seed a row.

        Args:
            seq_len: total length, prompt included.
            prompt: (..., prompt_len) token ids; None starts from one random token, which the result then includes.
            temperature: 0 takes the likeliest token.
            filter_logits_fn, filter_thres: applied to the logits before drawing; one alone takes ``top_k`` or .9 as the
                other, neither draws from the model as it is.
            pad_value: fills each row after its first drawn ``eos_token``.
            eos_token: drawing stops once every row has drawn it.
            return_seq_without_prompt: return the drawn tokens alone.
            use_tqdm: accepted for the seed library's sake; progress is not shown.
            forward_kwargs: passed to ``forward``, for instance ``finetune_scope``.

        Returns:
            (..., drawn) token ids, or (..., prompt_len + drawn) with the prompt.
        """
        filter_logits_fn, filter_thres = chosen_filter(filter_logits_fn, filter_thres)
        if prompt is None:
            prompt = torch.randint(0, self.num_tokens, (1, 1), device=self.device)
            return_seq_without_prompt = False
        tokens = prompt.reshape(-1, prompt.shape[-1]).to(self.device)
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                drawn = self.draw_following(
                    tokens,
                    max(1, seq_len - tokens.shape[1]),
                    temperature,
                    filter_logits_fn,
                    filter_thres,
                    int(pad_value),
                    eos_token,
                    forward_kwargs,
                )
        finally:
            self.train(was_training)
        found = drawn if return_seq_without_prompt else torch.cat((tokens, drawn), dim=1)
        return found.reshape(*prompt.shape[:-1], -1).clone()  # not bound to the inference mode it was made in

    def draw_following(
        self,
        tokens: Tensor,
        count: int,
        temperature: float,
        filter_logits_fn: Callable[[Tensor, float], Tensor],
        filter_thres: float,
        pad: int,
        end: int | None,
        forward_kwargs: Mapping[str, Any],
    ) -> Tensor:
        """(batch, prompt) tokens -> (batch, at most count) tokens drawn after them; see ``generate``."""
        ended = torch.zeros(len(tokens), dtype=torch.bool, device=self.device)
        decoder = None
        if self.causal and forward_kwargs.keys() <= {"finetune_scope", "disable_lora"}:
            decoder = self.decoder(**forward_kwargs)
            cache = decoder.new_cache(len(tokens), tokens.shape[1] + count)
        drawn: list[Tensor] = []
        while len(drawn) < count and not (drawn and bool(ended.all())):
            if decoder is None:
                logits = self(torch.cat((tokens, *(column[:, None] for column in drawn)), dim=1), **forward_kwargs)[
                    :, -1
                ]
            elif drawn:
                logits = decoder.step(drawn[-1], cache)
            else:
                logits = decoder.read_prompts(tokens.tolist(), cache, range(len(tokens)))
            logits = filter_logits_fn(logits, filter_thres)
            if temperature == 0:
                chosen = logits.argmax(dim=-1)
            else:
                uniforms = torch.rand(len(tokens), dtype=torch.float64, device=self.device)
                chosen = draw_tokens(logits, uniforms, temperature=temperature)[0]
            if end is not None:
                chosen = chosen.masked_fill(ended, pad)
                ended = ended | (chosen == end)
            drawn.append(chosen)
        return torch.stack(drawn, dim=1)

    # ---- files

    def save(self, path: str | Path) -> None:
        """Write weights and shape to one safetensors file, which is whole or absent after a crash."""
        save_weights(path, self.state_dict(), {"config": settings_to_dict(self.config)})

    def load(self, path: str | Path, *, correct_qk_scale: bool = False) -> None:
        """Read what ``save`` wrote by a PaLM of the same shape, or a state dict of palm-rlhf-pytorch.

        LoRA scopes in the file that this model lacks are added.

        Args:
            path: safetensors, or what ``torch.save`` wrote; see ``read_weights``.
            correct_qk_scale: for the seed library's files with QK-norm; see ``palm_state_from_seed``.

        Raises:
            CheckpointError: the file is missing, torn, altered, of another shape, or lacks a LoRA scope that this
                model has. Nothing was changed then.
        """
        about, state = read_weights(path)
        before = list(self.lora)
        try:
            if is_seed_palm(state):
                state = palm_state_from_seed(state, self.config, correct_qk_scale=correct_qk_scale)
            elif (found := shape_of(about, path)) != self.config:
                raise ValueError(f"it holds a PaLM of another shape, {found}")
            self.add_lacking_scopes(state)
            check_fit(self, state)
        except ValueError as error:
            for scope in [scope for scope in self.lora if scope not in before]:
                self.remove_finetune_params(scope)
            raise CheckpointError(f"{path} does not fit {self.config}: {error}") from error
        self.load_state_dict(state)

    @classmethod
    def from_file(cls, path: str | Path) -> "PaLM":
        """A PaLM of the shape and weights that ``save`` wrote."""
        palm = cls.from_config(shape_of(read_weights(path)[0], path))
        palm.load(path)
        return palm

    def add_lacking_scopes(self, state: Mapping[str, Any], prefix: str = "") -> None:
        """Add the LoRA scopes that a state holds and this model lacks."""
        start = f"{prefix}lora."
        for name, tensor in state.items():
            if name.startswith(start) and name.endswith(".0.q.A"):
                scope = name[len(start) : -len(".0.q.A")]
                if scope not in self.lora:
                    self.add_finetune_params(scope, lora_r=tensor.shape[1])

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:  # called by load_state_dict, with a copy of its own, before it turns to the parts of this module
        """Take the seed library's names too, and scopes that a fresh PaLM lacks."""
        if is_seed_palm(state_dict, prefix):
            renamed = palm_state_from_seed(state_dict, self.config, prefix=prefix)
            for name in [name for name in state_dict if name.startswith(prefix)]:
                del state_dict[name]
            state_dict.update(renamed)
        self.add_lacking_scopes(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def rotary_of(shape: ModelConfig) -> Rotary:
    """The position embedding of a PaLM; xPos only makes sense where keys stand before queries."""
    return Rotary(shape.dim_head, shape.heads, shape.rotary_xpos_scale_base if shape.causal else None)


def shape_of(about: Mapping[str, Any], path: str | Path) -> ModelConfig:
    """The shape that ``PaLM.save`` wrote beside the weights.

    Raises:
        CheckpointError: there is none.
    """
    if "config" not in about:
        raise CheckpointError(f"{path} says nothing of a PaLM's shape: PaLM.save did not write it")
    try:
        return settings_from_dict(ModelConfig, about["config"])
    except (ConfigError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} names no permitted shape: {error}") from error
