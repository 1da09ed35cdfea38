"""What feedback leaves open of a reward model's heads: a Laplace approximation of their last layer.

Members of an ensemble that learn from the same feedback come to much the same weights, whatever they began from, so
how far they disagree says little of what the feedback does not tell. Its likelihood does: along the directions of the
pooled embedding in which no two judged responses differ, a head's weights are as open after training as before
(docs/algorithms/reward-model.md).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlhf_core.losses import comparison_logits
from rlhf_core.masking import Sequences
from rlhf_core.modules.reward_model import STRENGTHS, RewardModel
from rlhf_core.records import Comparison, Feedback, ScoredResponse
from rlhf_core.training.feedback import join_responses, labels_of

READ_AT_ONCE = 32  # records


@torch.no_grad()
def fit_posterior(
    model: RewardModel,
    records: Sequence[Feedback],
    shares: Tensor | None = None,
    *,
    on_read: Callable[[], None] = lambda: None,
) -> None:
    """Set ``model.head_covariance`` by the feedback that the model learned from; normalise the model after it.

    Of each member it is the inverse of

        (dim + 1)·|c|²·I + Σ weight · l'' · x xᵀ

    over the records. Only weights along the head's natural parameter count as open: the value's own where it is one
    number (c = 1), the tilt of the bins towards the better ones of a binned head (c = how far each bin lies from the
    middle). For a rating x is the pooled embedding and l'' the curvature of its negative log-likelihood in that
    parameter; for a comparison x is the slope of the value, chosen less rejected, and l'' the curvature in the
    difference of values. The first term is the precision of the normal distribution that a head's first weights are
    drawn from. Trunk, thresholds and scales count as known.

    Args:
        shares: (members, records) how often each member learned from each record, by which the record's weight is
            multiplied; None: all from all, once.
        on_read: called each time that some records more were read.

    Source: MacKay 1992, https://doi.org/10.1162/neco.1992.4.3.448; of the last layer alone, Daxberger et al. 2021,
    https://arxiv.org/abs/2106.14806
    """
    model.eval()
    weights = torch.tensor([item.weight for item in records]).expand(model.members, -1)
    weights = weights if shares is None else weights * shares
    rated = [place for place, item in enumerate(records) if isinstance(item, ScoredResponse)]
    compared = [place for place, item in enumerate(records) if isinstance(item, Comparison)]
    ratings = [item for item in records if isinstance(item, ScoredResponse)]
    comparisons = [item for item in records if isinstance(item, Comparison)]
    dim = model.palm.dim
    prior = (dim + 1) * float(model.head.direction.square().sum())
    precision = torch.eye(dim, dtype=torch.float64).mul(prior).repeat(model.members, 1, 1)
    for at in range(0, len(ratings), READ_AT_ONCE):
        part = slice(at, at + READ_AT_ONCE)
        precision += rating_information(model, ratings[part], weights[:, rated[part]])
        on_read()
    for at in range(0, len(comparisons), READ_AT_ONCE):
        part = slice(at, at + READ_AT_ONCE)
        precision += comparison_information(model, comparisons[part], weights[:, compared[part]])
        on_read()
    model.head_covariance = torch.linalg.inv(precision).float().to(model.palm.device)
    model.reference_slopes = model.usual_variance = None  # until the model is normalised again


@torch.no_grad()
def most_telling(model: RewardModel, first: Sequences, second: Sequences, count: int) -> list[int]:
    """Of pairs of responses the ``count`` whose verdicts would tell the model most, as if they came one by one.

    Each time the pair is taken with the largest log(1 + i · xᵀSx), twice the entropy that its verdict is expected to
    take from the head: S is the covariance left by the pairs taken before it, x the slope of the difference of values,
    i what a verdict at that difference is expected to tell. So pairs of which the model is sure count little, and of
    pairs that are alike one is enough. An ensemble's gain is the mean of its members'.

    Args:
        model: one with a ``head_covariance``.
        first, second: a response of each pair.
        count: at most the number of pairs.

    Raises:
        ValueError: the model has no posterior, or ``count`` is above the number of pairs.

    Source: MacKay 1992, https://doi.org/10.1162/neco.1992.4.4.590, section 3
    """
    if model.head_covariance is None:
        raise ValueError("the model does not know what its feedback leaves open: fit_posterior comes first")
    rows = len(first.tokens)
    if count > rows:
        raise ValueError(f"{count} of {rows} pairs: no more than there are")
    (values, slopes), (others, other_slopes) = (model.read_values(one) for one in (first, second))
    x = slopes - other_slopes
    told = torch.stack([verdict_information(model, gap, member) for member, gap in enumerate(values - others)])
    covariance = model.head_covariance.clone()
    variance = ((x @ covariance) * x).sum(dim=-1)
    chosen: list[int] = []
    for _ in range(count):
        gain = torch.log1p(told * variance).mean(dim=0)
        gain[chosen] = -torch.inf
        best = int(gain.argmax())
        chosen.append(best)
        along = (covariance @ x[:, best, :, None])[..., 0]  # Sherman and Morrison: S - i · S x xᵀS / (1 + i · xᵀSx)
        share = told[:, best] / (1 + told[:, best] * variance[:, best])
        covariance = covariance - share[:, None, None] * along[..., None] * along[:, None]
        variance = (variance - share[:, None] * (x @ along[..., None])[..., 0].square()).clamp(min=0)
    return chosen


def verdict_information(model: RewardModel, gap: Tensor, member: int) -> Tensor:
    """(rows,) differences of a member's values -> (rows,) Fisher information of a verdict in the difference.

    That of an adjacent-category model is the variance of the verdict's steps, in the scale of its log-odds.
    """
    biases = model.step_biases.view(-1, STRENGTHS + 1)[member]
    chances = comparison_logits(model.compare(gap, torch.zeros_like(gap), member), biases).softmax(dim=-1)
    steps = torch.arange(-STRENGTHS, STRENGTHS + 1, device=gap.device, dtype=chances.dtype)
    scale = model.comparison_log_scale.view(-1)[member].exp()
    return scale.square() * (chances @ steps.square() - (chances @ steps).square())


def rating_information(model: RewardModel, ratings: Sequence[ScoredResponse], weights: Tensor) -> Tensor:
    """(members, dim, dim) what ratings of (members, rows) weights add to the precision; see ``fit_posterior``."""
    pooled = model.pooled(join_responses(model, ratings))
    outputs = model.head.member_outputs(pooled)
    labels = labels_of([item.score for item in ratings], model).to(pooled.device)
    weights = weights.to(pooled.device)

    def loss(step: Tensor) -> Tensor:
        tilted = outputs + step[..., None] * model.head.direction
        each = [model.head.rating_loss(one, labels, some(weights[member]), member) for member, one in enumerate(tilted)]
        return torch.stack(each) @ weights.sum(dim=1)

    return information(loss, pooled.expand(model.members, -1, -1))


def comparison_information(model: RewardModel, comparisons: Sequence[Comparison], weights: Tensor) -> Tensor:
    """(members, dim, dim) what comparisons of (members, rows) weights add to the precision; see ``fit_posterior``."""
    pooled = model.pooled(join_responses(model, comparisons))
    outputs = model.head.member_outputs(pooled)
    values, slopes = model.value(outputs), model.value_slopes(pooled, outputs)
    strengths = torch.tensor([item.strength for item in comparisons], device=pooled.device)
    weights = weights.to(pooled.device)

    def loss(step: Tensor) -> Tensor:
        each = [
            model.comparison_loss(one[0::2] + step[member], one[1::2], strengths, some(weights[member]), member)
            for member, one in enumerate(values)
        ]
        return torch.stack(each) @ weights.sum(dim=1)

    return information(loss, slopes[:, 0::2] - slopes[:, 1::2])


def some(weights: Tensor) -> Tensor:
    """Weights with a sum above 0: equal ones in place of none, whose mean then counts for nothing in the whole."""
    return weights if bool(weights.any()) else torch.ones_like(weights)


def information(loss: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """(members, dim, dim) Σ l'' · x xᵀ, in float64 on the CPU.

    Args:
        loss: of (members, rows) steps, the sum of losses of which each depends on a step of its own alone, convexly.
        x: (members, rows, dim) what a step is linear in.
    """
    with torch.enable_grad():
        step = torch.zeros(x.shape[:2], device=x.device, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(step), step, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), step)
    rows = x.double().cpu()
    return (rows.mT * curvature.double().cpu()[:, None]) @ rows
