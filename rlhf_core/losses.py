"""Losses of reward models, critics and policies: pure functions of tensors, each from one source."""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Aggregation = Literal["token-mean", "sequence-mean", "fixed-length"]


def aggregate_loss(
    per_token: Tensor,
    mask: Tensor,
    aggregation: Aggregation = "token-mean",
    *,
    total: float | None = None,
    fixed_length: int | None = None,
) -> Tensor:
    """One number from a loss per token.

    Args:
        per_token: (batch, response).
        mask: (batch, response) bool.
        aggregation: "token-mean" weighs every token alike, so long responses weigh more; "sequence-mean" takes the mean
            of each response first; "fixed-length" divides each response's sum by ``fixed_length`` whatever its length.
        total: what the whole minibatch counts (tokens for "token-mean", responses otherwise) when this call sees only
            a part of it. The gradients of the parts then add up to the gradient of the whole.
        fixed_length: needed by "fixed-length".

    Raises:
        ValueError: "fixed-length" without a ``fixed_length``.
    """
    kept = torch.where(mask, per_token, 0.0)
    if aggregation == "token-mean":
        return kept.sum() / (mask.sum().clamp(min=1) if total is None else total)
    rows = mask.shape[0] if total is None else total
    if aggregation == "sequence-mean":
        return (kept.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum() / rows
    if fixed_length is None:
        raise ValueError("aggregation 'fixed-length' needs fixed_length")
    return kept.sum() / (rows * fixed_length)


class PolicyLoss(NamedTuple):
    """Loss per token with what to report of it; all (batch, response)."""

    per_token: Tensor
    ratios: Tensor
    clipped: Tensor


def clipped_policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float | None = None,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """PPO's clipped surrogate, per token: the larger of the two negatives.

    Args:
        log_probs: (batch, response) of the drawn tokens under the policy being trained.
        old_log_probs: (batch, response) as stored when they were drawn, same temperature and filters.
        advantages: (batch, response), detached.
        clip_low: ε below 1.
        clip_high: ε above 1; None takes ``clip_low`` (asymmetric bounds: DAPO, arXiv 2503.14476).
        dual_clip: above 1; bounds the loss of a negative advantage at -dual_clip·A (arXiv 1912.09729). None: no bound.

    Source: Schulman et al. 2017, equation 7, https://arxiv.org/abs/1707.06347
    """
    ratios = torch.exp(log_probs - old_log_probs)
    unclipped = -advantages * ratios
    clipped = -advantages * ratios.clamp(1.0 - clip_low, 1.0 + (clip_low if clip_high is None else clip_high))
    per_token = torch.maximum(unclipped, clipped)
    if dual_clip is not None:
        per_token = torch.where(advantages < 0, torch.minimum(per_token, -dual_clip * advantages), per_token)
    return PolicyLoss(per_token, ratios.detach(), (clipped > unclipped).detach())


def staleness_weights(old_log_probs: Tensor, behaviour_log_probs: Tensor, *, cap: float) -> Tensor:
    """min(π_old / π_behaviour, cap), by token: what a loss on responses of an older policy is to be multiplied by.

    PPO's own ratio compares the policy in training with the one before the round, π_old. Where the responses were drawn
    by another, because they come from earlier rounds or from a sampler that lags behind, this corrects for the rest;
    the cap bounds the variance that a few unlikely tokens would bring. On fresh responses all weights are 1.

    Args:
        old_log_probs: (batch, response) of the drawn tokens under the policy before the round.
        behaviour_log_probs: (batch, response) under the policy that drew them.
        cap: at least 1; 2 to 3 is usual.

    Returns:
        (batch, response), detached: a weight, not a path for gradients.

    Raises:
        ValueError: ``cap`` is below 1, so that even fresh responses would be weighed down.

    Source: truncated importance sampling, Ionides 2008; by token as in IMPALA, https://arxiv.org/abs/1802.01561
    """
    if not cap >= 1.0:
        raise ValueError(f"cap = {cap} is not permitted: at least 1")
    return torch.exp((old_log_probs - behaviour_log_probs).detach()).clamp(max=cap)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float) -> tuple[Tensor, Tensor]:
    """½ · max(unclipped, clipped) squared error, per token, and where the clipped one was the larger.

    Args:
        values: (batch, response) now.
        old_values: (batch, response) at rollout time; ``values`` is clamped to within ``clip`` of them.
        returns: (batch, response) targets.
        clip: in units of the value.

    Source: OpenAI baselines' PPO2; detail 9 of "The 37 implementation details of PPO".
    """
    near = torch.clamp(values, old_values - clip, old_values + clip)
    unclipped, clipped = (values - returns).square(), (near - returns).square()
    return 0.5 * torch.maximum(unclipped, clipped), (clipped > unclipped).detach()


def binned_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean cross-entropy of class labels.

    Args:
        logits: (batch, bins).
        labels: (batch,) int, 0 to bins - 1.
        weights: (batch,) positive; None weighs all alike.
    """
    return weighted_mean(F.cross_entropy(logits.float(), labels, reduction="none"), weights)


def cumulative_link_loss(values: Tensor, labels: Tensor, thresholds: Tensor, weights: Tensor | None = None) -> Tensor:
    """Weighted mean negative log-likelihood of ordered classes: P(class <= k) = sigmoid(threshold_k - value).

    Args:
        values: (batch,) of any size; each step up makes higher classes likelier.
        labels: (batch,) int, 0 to n - 1.
        thresholds: (n - 1,) rising, on the scale of the values.
        weights: (batch,) positive; None weighs all alike.

    Source: McCullagh 1980, "Regression models for ordinal data", J. Royal Statistical Society B 42(2), equation 2.1.
    """
    ends = thresholds.new_full((1,), math.inf)
    edges = torch.cat((-ends, thresholds, ends))
    below, above = edges[labels] - values, edges[labels + 1] - values
    # The difference of two sigmoids without cancellation: s(a) - s(b) = s(a) s(-b) (1 - e^(b - a)).
    log_likelihoods = F.logsigmoid(above) + F.logsigmoid(-below) + torch.log1p(-torch.exp(below - above))
    return weighted_mean(-log_likelihoods, weights)


def fit_thresholds(labels: Tensor, bins: int) -> Tensor:
    """The thresholds at which a response of value 0 gets each rating as often as ``labels`` have it (add-one smoothed).

    Args:
        labels: (ratings,) int, 0 to bins - 1.

    Returns:
        (bins - 1,) rising: the log-odds of a rating of k or less.
    """
    counts = torch.bincount(labels, minlength=bins).float() + 1.0
    return torch.logit(counts.cumsum(dim=0)[:-1] / counts.sum())


def comparison_logits(difference: Tensor, step_biases: Tensor) -> Tensor:
    """Log-odds of the verdicts -n..n (n steps each way, 0 a tie) for a utility difference; adjacent-category model.

    logit(k) = k · difference + bias(|k|): each further step towards the first response multiplies the odds by
    e^difference. With n = 1 this is Davidson's tie model of 1970; where only one step is in use it is Bradley-Terry.

    Args:
        difference: (batch,) utility of the first response less that of the second.
        step_biases: (n + 1,) how common ties (index 0) and each step are among equals.

    Returns:
        (batch, 2n + 1), the verdict k at column n + k.

    Source: Agresti 1992, "Analysis of ordinal paired comparison data", Applied Statistics 41(2);
        Davidson 1970, JASA 65.
    """
    steps = len(step_biases) - 1
    verdicts = torch.arange(-steps, steps + 1, device=difference.device)
    return verdicts * difference.float()[:, None] + step_biases[verdicts.abs()]


def comparison_loss(
    difference: Tensor, strengths: Tensor, step_biases: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Weighted mean negative log-likelihood of comparisons with ties and strengths.

    Args:
        difference: (batch,) utility of chosen less rejected.
        strengths: (batch,) int, 0 a tie (then the order means nothing), 1 to n how much better the chosen one is.
        step_biases: (n + 1,), see ``comparison_logits``.
        weights: (batch,) positive; None weighs all alike.
    """
    logits = comparison_logits(difference, step_biases)
    losses = F.cross_entropy(logits, strengths + len(step_biases) - 1, reduction="none")
    return weighted_mean(losses, weights)


def fit_step_biases(strengths: Tensor, steps: int = 3) -> Tensor:
    """The biases that make verdicts among equals as common as they are in ``strengths`` (add-one smoothed).

    Between equal responses P(tie) ∝ e^b0 and P(step k either way) ∝ 2·e^bk, so bk = log(count) - log 2 for k > 0:
    the maximum-likelihood start, at which a model that cannot tell the responses apart already predicts the habits of
    the raters.
    """
    counts = torch.bincount(strengths, minlength=steps + 1).float() + 1.0
    biases = counts.log()
    biases[1:] -= math.log(2.0)
    return biases - biases.max()


def bradley_terry_loss(difference: Tensor, weights: Tensor | None = None) -> Tensor:
    """-log σ(difference): the plain model, without ties or strengths (Bradley and Terry 1952)."""
    return weighted_mean(-F.logsigmoid(difference.float()), weights)


def histogram_targets(values: Tensor, edges: Tensor, *, sigma: float) -> Tensor:
    """Soft class targets for a scalar: the mass of N(value, sigma²) in each bin, renormalised inside the range.

    Args:
        values: (...), clamped into the range of ``edges``.
        edges: (bins + 1,) rising.
        sigma: width of the smoothing, in units of the value.

    Returns:
        (..., bins), each row sums to 1.

    Source: HL-Gauss, Farebrother et al. 2024, https://arxiv.org/abs/2403.03950
    """
    values = values.clamp(float(edges[0]), float(edges[-1]))
    cumulative = torch.special.ndtr((edges - values[..., None]) / sigma)
    return cumulative.diff(dim=-1) / (cumulative[..., -1:] - cumulative[..., :1])


def weighted_mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Σ w·x / Σ w; the plain mean without weights."""
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()
