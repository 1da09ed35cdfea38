"""Heads of reward models: from a pooled embedding to the value of a response, and what a rating teaches them."""

import torch
from torch import Tensor, nn

from rlhf_core.config import RewardHeadKind
from rlhf_core.errors import ConfigError
from rlhf_core.losses import binned_cross_entropy, cumulative_link_loss, fit_thresholds, weighted_mean

WITH_BINS = ("binned", "ordinal")


class RewardHead(nn.Linear):
    """One linear head, or several side by side for the members of an ensemble, with a likelihood for ratings.

    - ``binned``: log-odds of the ratings 0 to n - 1; the value is their expectation, in bins.
    - ``ordinal``: the value is one number without bounds; between two ratings stands a learned threshold, on a scale
      that is learned too.
    - ``scalar``: the value is one number, a rating a noisy reading of it.
    - ``pairwise``: the value is one number that only comparisons teach.

    Args:
        dim: of the pooled embedding.
        kind: as above.
        bins: of the rating scale, for ``binned`` and ``ordinal``; 0 or 1 for the others.
        members: of the ensemble.

    Raises:
        ConfigError: ``bins`` that do not go with ``kind``.
    """

    def __init__(self, dim: int, kind: RewardHeadKind, bins: int, members: int) -> None:
        if (kind in WITH_BINS) != (bins > 1):
            permitted = "at least 2" if kind in WITH_BINS else "0 or 1"
            raise ConfigError("num_binned_output", bins, f"{permitted} with a {kind} head")
        self.outputs = bins if kind == "binned" else 1
        super().__init__(dim, members * self.outputs, bias=kind == "binned")
        self.kind = kind
        self.bins = bins
        self.members = members
        nn.init.normal_(self.weight, std=(dim + 1) ** -0.5)
        if kind == "binned":
            nn.init.zeros_(self.bias)
        if kind == "ordinal":  # equally common ratings, until start_from_habits knows better
            even = fit_thresholds(torch.zeros(0, dtype=torch.long), bins)
            self.thresholds = nn.Parameter(spaced(even).repeat(members, 1))
            self.rating_log_scale = nn.Parameter(torch.zeros(members))

    def member_outputs(self, pooled: Tensor) -> Tensor:
        """(members, batch, dim) or, where all read the same, (1, batch, dim) -> (members, batch, outputs)."""
        weight = self.weight.view(self.members, self.outputs, -1)
        found = pooled @ weight.transpose(1, 2)
        return found if self.bias is None else found + self.bias.view(self.members, 1, self.outputs)

    def value(self, outputs: Tensor) -> Tensor:
        """(..., outputs) -> (...) float32."""
        if self.kind != "binned":
            return outputs.squeeze(-1).float()
        positions = torch.arange(self.bins, device=outputs.device, dtype=torch.float32)
        return outputs.float().softmax(dim=-1) @ positions

    @property
    def direction(self) -> Tensor:
        """(outputs,) what a step along the head's natural parameter adds to the outputs: one number, or tilted bins."""
        places = torch.arange(self.outputs, device=self.weight.device, dtype=torch.float32)
        return places - places.mean() if self.kind == "binned" else torch.ones_like(places)

    def slope(self, outputs: Tensor) -> Tensor:
        """(..., outputs) -> (...) what such a step adds to the value: 1, or the variance of the tilted bins."""
        if self.kind != "binned":
            return torch.ones(outputs.shape[:-1], device=outputs.device)
        chances = outputs.float().softmax(dim=-1)
        return chances @ self.direction.square() - (chances @ self.direction).square()

    def rating_loss(self, outputs: Tensor, labels: Tensor, weights: Tensor | None = None, member: int = 0) -> Tensor:
        """What ratings cost one member: their mean negative log-likelihood, in nats.

        A scalar's is the squared error, which is that of a normal distribution with variance ½, its constant left out.

        Args:
            outputs: (batch, outputs) of this member.
            labels: (batch,) whole numbers 0 to bins - 1, or any numbers for a scalar head.
            weights: (batch,), positive; None weighs all alike.

        Raises:
            ValueError: labels that are no bins, or a pairwise head.
        """
        self.check_labels(labels)
        if self.kind == "binned":
            return binned_cross_entropy(outputs, labels, weights)
        if self.kind == "ordinal":
            scaled = self.rating_log_scale[member].exp() * self.value(outputs)
            return cumulative_link_loss(scaled, labels, rising(self.thresholds[member]), weights)
        return weighted_mean((self.value(outputs) - labels).square(), weights)

    def check_labels(self, labels: Tensor) -> None:
        """Raise ValueError for labels that this head cannot learn."""
        if self.kind == "pairwise":
            raise ValueError("a pairwise head learns from comparisons alone; ratings need a binned or ordinal head")
        if self.kind in WITH_BINS:
            is_whole = not labels.is_floating_point()
            if not is_whole or not bool(((labels >= 0) & (labels < self.bins)).all()):
                raise ValueError(f"labels must be whole numbers from 0 to {self.bins - 1}, not {labels.tolist()}")
        elif not bool(torch.isfinite(labels).all()):
            raise ValueError(f"labels must be finite numbers, not {labels.tolist()}")

    @torch.no_grad()
    def start_from_habits(self, labels: Tensor) -> None:
        """Set the thresholds of an ordinal head to how often raters gave each rating; nothing else has any."""
        if self.kind == "ordinal":
            self.thresholds.copy_(spaced(fit_thresholds(labels, self.bins)).expand_as(self.thresholds))


def rising(raw: Tensor) -> Tensor:
    """(..., n) free numbers -> (..., n) thresholds, each above the one before: the first, and the logs of the steps."""
    return torch.cat((raw[..., :1], raw[..., 1:].exp()), dim=-1).cumsum(dim=-1)


def spaced(thresholds: Tensor) -> Tensor:
    """What ``rising`` turns into these thresholds."""
    return torch.cat((thresholds[..., :1], thresholds.diff(dim=-1).log()), dim=-1)
