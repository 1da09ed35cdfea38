"""The reward model: a PaLM that reads a response after its prompt and says how good it is."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_core.config import settings_to_dict
from rlhf_core.errors import CheckpointError, ConfigError, TrainingDiverged
from rlhf_core.losses import binned_cross_entropy, comparison_loss, fit_step_biases
from rlhf_core.masking import Sequences, length_mask, masked_mean
from rlhf_core.modules.palm import PaLM
from rlhf_core.modules.seed_state import is_seed_palm, palm_state_from_seed, reward_state_from_seed
from rlhf_core.weights import check_fit, read_weights, save_weights

UNKNOWN_TO_THE_SEED = ("comparison_log_scale", "step_biases", "reward_mean", "reward_std")
STRENGTHS = 3  # steps by which one response may be better than another


class RewardModel(nn.Module):
    """Mean-pools a PaLM over the response and reads one value off it.

    With bins the head gives the probabilities of the ratings 0 to n - 1 and the value is their expectation, in bins;
    that same value, times a learned scale, is the utility by which comparisons are explained. So both kinds of feedback
    train the one number that a policy will be rewarded with.

    Args:
        palm: trunk to start from; copied, never changed. LoRA scopes it may have are left out of the copy.
        dropout: of the trunk, in training only.
        num_binned_output: bins of the rating scale; 0 or 1 gives a scalar head.
        use_lora: train adapters on a frozen trunk; otherwise the whole trunk learns.
        lora_r: their rank.
        reward_lora_scope: their name.
        sample_from_bins: draw a bin instead of taking the expectation. None is False: a random reward teaches noise.
        sample_temperature: of such draws, above 0.

    Raises:
        ConfigError: bins that are no whole number, a dropout or temperature outside its range, or draws without bins.

    Attributes:
        reward_mean, reward_std: what ``forward`` and ``score`` subtract and divide by; 0 and 1 until ``normalise``.
        head_config: the keywords that make an equal model around an equal trunk.
    """

    reward_mean: Tensor
    reward_std: Tensor
    head_config: dict[str, Any]

    def __init__(
        self,
        palm: PaLM,
        dropout: float = 0.1,
        num_binned_output: float = 0.0,
        use_lora: bool = True,
        lora_r: int = 8,
        reward_lora_scope: str = "reward",
        sample_from_bins: bool | None = None,
        sample_temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if num_binned_output < 0 or num_binned_output != int(num_binned_output):
            raise ConfigError("num_binned_output", num_binned_output, "a whole number, 0 or 1 for a scalar head")
        if not sample_temperature > 0:
            raise ConfigError("sample_temperature", sample_temperature, "above 0")
        if sample_from_bins and num_binned_output <= 1:
            raise ConfigError("sample_from_bins", sample_from_bins, "False without bins to draw from")
        self.bins = int(num_binned_output)
        self.scope = reward_lora_scope if use_lora else None
        self.sample_from_bins = bool(sample_from_bins)
        self.sample_temperature = sample_temperature
        self.head_config = dict(
            dropout=dropout,
            num_binned_output=self.bins,
            use_lora=use_lora,
            lora_r=lora_r,
            reward_lora_scope=reward_lora_scope,
            sample_from_bins=self.sample_from_bins,
            sample_temperature=sample_temperature,
        )
        self.palm = copy.deepcopy(palm)
        for scope in list(self.palm.lora):
            self.palm.remove_finetune_params(scope)
        self.palm.set_dropout(dropout)
        if use_lora:
            self.palm.add_finetune_params(reward_lora_scope, lora_r)
        self.palm.train_only(self.scope)
        dim = palm.dim
        self.prompt_embedding = nn.Parameter(torch.zeros(dim))
        self.response_embedding = nn.Parameter(torch.zeros(dim))
        self.head = nn.Linear(dim, max(1, self.bins), bias=self.bins > 1)
        nn.init.normal_(self.head.weight, std=(dim + 1) ** -0.5)
        if self.bins > 1:
            nn.init.zeros_(self.head.bias)
        self.comparison_log_scale = nn.Parameter(torch.zeros(()))
        self.step_biases = nn.Parameter(torch.zeros(STRENGTHS + 1))
        self.register_buffer("reward_mean", torch.zeros(()))
        self.register_buffer("reward_std", torch.ones(()))
        self.to(palm.device)

    def finetune_parameters(self) -> list[nn.Parameter]:
        """Everything that learns: adapters or trunk, segment embeddings, head, and the scale of comparisons."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def pool(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        prompt_lengths: Tensor | None = None,
        disable_lora: bool = False,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """(batch, dim): the mean of the final embeddings over the real tokens of each response."""
        size = x.shape[1]
        if prompt_mask is not None and prompt_lengths is not None:
            raise ValueError("give prompt_mask or prompt_lengths, not both")
        for name, one in (("mask", mask), ("prompt_mask", prompt_mask)):
            if one is not None and one.shape != x.shape:
                raise ValueError(f"{name} must have the shape of x, {tuple(x.shape)}, not {tuple(one.shape)}")
        if lengths is None:
            lengths = torch.full((len(x),), size, device=x.device) if mask is None else mask.sum(dim=1)
            if mask is not None and not torch.equal(mask, length_mask(lengths, size)):
                raise ValueError("mask must keep the start of each row: padding stands on the right")
        if prompt_lengths is not None:
            prompt_mask = length_mask(prompt_lengths, size)
        if prompt_mask is None:
            prompt_mask = torch.zeros_like(x, dtype=torch.bool)
        response = length_mask(lengths, size) & ~prompt_mask
        if not bool(response.any(dim=1).all()):
            raise ValueError("a row has no response tokens to score")
        segments = torch.where(prompt_mask[..., None], self.prompt_embedding, self.response_embedding)
        embeddings = self.palm(
            x,
            lengths=lengths,
            extra_embed=segments,
            finetune_scope=self.scope,
            disable_lora=disable_lora,
            return_only_embedding=True,
        )
        return masked_mean(embeddings, response[..., None].expand_as(embeddings), dim=1)

    def value(self, head_output: Tensor) -> Tensor:
        """(batch, outputs) of the head -> (batch,) expected bin or scalar, before normalisation."""
        if self.bins <= 1:
            return head_output.squeeze(-1).float()
        positions = torch.arange(self.bins, device=head_output.device, dtype=torch.float32)
        return head_output.float().softmax(dim=-1) @ positions

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        prompt_lengths: Tensor | None = None,
        labels: Tensor | None = None,
        disable_lora: bool = False,
        lengths: Tensor | None = None,
        sample: bool | None = None,
        sample_temperature: float | None = None,
    ) -> Tensor:
        """A value for each row, or the loss of ``labels``.

        Args:
            x: (batch, seq) token ids, padded on the right.
            mask: (batch, seq) bool, True at real tokens. ``lengths`` says the same; neither: all tokens are real.
            prompt_mask: (batch, seq) bool, True at prompt tokens; or give ``prompt_lengths`` (batch,). Neither: all is
                response.
            labels: (batch,) ratings 0 to bins - 1, or numbers for a scalar head.
            disable_lora: leave the adapters out.
            sample, sample_temperature: draw a bin; None takes the model's own settings.

        Returns:
            with labels, the mean cross-entropy in nats (or squared error); else (batch,) normalised expected values,
            or drawn bins 0 to bins - 1.

        Raises:
            ValueError: both prompt arguments, a mask of another shape or that is not padding on the right, a row
                without a response, ``labels`` that are no bins, or ``sample`` without bins.
        """
        if labels is not None:
            self.check_labels(labels, x)
        if sample and self.bins <= 1:
            raise ValueError("there are no bins to draw from: the head is scalar")
        head_output = self.head(self.pool(x, mask, prompt_mask, prompt_lengths, disable_lora, lengths))
        if labels is not None:
            if self.bins > 1:
                return binned_cross_entropy(head_output, labels)
            return (self.value(head_output) - labels).square().mean()
        if self.bins > 1 and (self.sample_from_bins if sample is None else sample):
            temperature = self.sample_temperature if sample_temperature is None else sample_temperature
            return torch.multinomial((head_output.float() / temperature).softmax(dim=-1), 1).squeeze(-1)
        return (self.value(head_output) - self.reward_mean) / self.reward_std

    def check_labels(self, labels: Tensor, x: Tensor) -> None:
        """Raise ValueError unless there is a rating the head can learn for each row."""
        if labels.shape != x.shape[:1]:
            raise ValueError(f"labels must be ({len(x)},), one a row, not {tuple(labels.shape)}")
        if self.bins > 1:
            is_whole = not labels.is_floating_point()
            if not is_whole or not bool(((labels >= 0) & (labels < self.bins)).all()):
                raise ValueError(f"labels must be whole numbers from 0 to {self.bins - 1}, not {labels.tolist()}")

    def head_outputs(self, sequences: Sequences) -> Tensor:
        """(batch, outputs) of the head."""
        return self.head(
            self.pool(sequences.tokens, prompt_lengths=sequences.prompt_lengths, lengths=sequences.lengths)
        )

    @torch.no_grad()
    def score(self, sequences: Sequences, batch_size: int = 32) -> Tensor:
        """(batch,) normalised scores, a few rows at a time."""
        parts = torch.arange(len(sequences.tokens), device=sequences.tokens.device).split(batch_size)
        values = torch.cat([self.value(self.head_outputs(sequences.rows(part))) for part in parts])
        return (values - self.reward_mean) / self.reward_std

    def compare(self, chosen: Tensor, rejected: Tensor) -> Tensor:
        """The utility difference of two values from ``value``, for ``comparison_loss``."""
        return self.comparison_log_scale.exp() * (chosen - rejected)

    def comparison_loss(
        self, chosen: Tensor, rejected: Tensor, strengths: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """Mean negative log-likelihood of comparisons of values; see ``rlhf_core.losses.comparison_loss``."""
        return comparison_loss(self.compare(chosen, rejected), strengths, self.step_biases, weights)

    @torch.no_grad()
    def start_from_habits(self, strengths: Tensor) -> None:
        """Set the step biases to how often raters gave each strength, before training."""
        self.step_biases.copy_(fit_step_biases(strengths, STRENGTHS))

    @torch.no_grad()
    def normalise(self, sequences: Sequences) -> None:
        """Choose mean and standard deviation so that the scores of these responses have mean 0 and deviation 1.

        Raises:
            TrainingDiverged: the scores are not finite.
        """
        self.reward_mean.zero_()
        self.reward_std.fill_(1.0)
        scores = self.score(sequences)
        deviation = float(scores.std(correction=0))
        if not math.isfinite(deviation):
            raise TrainingDiverged(f"the scores of the reference responses are not finite: {scores}")
        self.reward_mean.copy_(scores.mean())
        self.reward_std.fill_(max(deviation, 1e-4))

    def save(self, path: str | Path) -> None:
        """Write everything to one safetensors file, which is whole or absent after a crash."""
        shape = {"head": self.head_config, "config": settings_to_dict(self.palm.config)}
        save_weights(path, self.state_dict(), shape)

    def load(self, path: str | Path, *, correct_qk_scale: bool = False) -> None:
        """Read what ``save`` wrote by a reward model of the same shape, or a state dict of palm-rlhf-pytorch.

        What ``save`` wrote also says whether the trunk is causal, and this one becomes what that one was. The seed
        library's files do not, nor do they know comparisons or normalisation: there this model keeps what it has.

        Args:
            path: safetensors, or what ``torch.save`` wrote; see ``read_weights``.
            correct_qk_scale: for the seed library's files with QK-norm; see ``palm_state_from_seed``.

        Raises:
            CheckpointError: the file is missing, torn, altered, or does not fit. Nothing was changed then.
        """
        about, state = read_weights(path)
        is_causal = self.palm.causal
        try:
            if is_seed_palm(state, "palm."):
                shape = self.palm.config
                palm = palm_state_from_seed(state, shape, prefix="palm.", correct_qk_scale=correct_qk_scale)
                own = {name: one for name, one in state.items() if not name.startswith("palm.")}
                state = palm | self.own_names(own)
            else:
                is_causal = self.check_shape(about)
            check_fit(self, state)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path} is no reward model that fits this one: {error}") from error
        self.load_state_dict(state)
        if is_causal != self.palm.causal:
            self.palm.set_causal(is_causal)

    def check_shape(self, about: Mapping[str, Any]) -> bool:
        """Whether the trunk in a file by ``save`` is causal; ValueError where head or trunk differ otherwise."""
        head, shape = about.get("head"), about.get("config")
        if head is None or shape is None:
            raise ValueError("it says nothing of a head and a trunk: RewardModel.save did not write it")
        if {**shape, "causal": None} != {**settings_to_dict(self.palm.config), "causal": None}:
            raise ValueError(f"its trunk has another shape: {shape}")
        # A PaLM takes in scopes that it lacks: adapters that this model never uses would load unnoticed.
        for name in ("num_binned_output", "use_lora", "lora_r", "reward_lora_scope"):
            if head.get(name) != self.head_config[name]:
                raise ValueError(f"its {name} is {head.get(name)!r}, not {self.head_config[name]!r}")
        return bool(shape.get("causal"))

    def own_names(self, state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
        """A seed library's state with our names outside the PaLM, and this model's tensors that it has none for."""
        kept = {f"{prefix}{name}": getattr(self, name).detach() for name in UNKNOWN_TO_THE_SEED}
        return kept | reward_state_from_seed(state, prefix)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:  # called by load_state_dict, with a copy of its own, before it turns to the parts of this module
        """Take the seed library's names too."""
        if is_seed_palm(state_dict, f"{prefix}palm."):
            renamed = self.own_names(state_dict, prefix)
            state_dict.clear()
            state_dict.update(renamed)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
