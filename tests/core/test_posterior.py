"""What feedback leaves open of a reward model's heads, by hand and against sampling."""

import pytest
import torch
from torch.testing import assert_close

from rlhf_core.checkpoint import load_reward_model, save_reward_model
from rlhf_core.ensembles import combine_scores, disagreement
from rlhf_core.errors import CheckpointError
from rlhf_core.masking import join_sequences
from rlhf_core.modules.reward_model import RewardModel
from rlhf_core.records import Comparison, ScoredResponse
from rlhf_core.rewards import reward_of
from rlhf_core.training.posterior import fit_posterior, most_telling

PROMPT = (1, 5)
RESPONSES = [(10, 2), (11, 12, 2), (13, 14, 15, 2), (16, 2)]


def sequences(responses=RESPONSES):
    return join_sequences([PROMPT] * len(responses), responses)


def comparison(chosen, rejected, strength=2, weight=1.0):
    return Comparison("p", PROMPT, chosen, rejected, strength, weight=weight)


def rating(response, score, weight=1.0):
    return ScoredResponse("p", PROMPT, response, score, weight=weight)


def model_with(make_palm, head="pairwise", **settings):
    torch.manual_seed(0)
    bins = 5 if head in ("binned", "ordinal") else 0
    model = RewardModel(make_palm(), num_binned_output=bins, head=head, **settings)
    with torch.no_grad():
        for parameter in model.finetune_parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def hessian_by_hand(model, pooled, pairs, scale, biases):
    """(dim + 1)·I + Σ s²·Var(k)·x xᵀ: an adjacent-category likelihood is curved by the variance of its verdict."""
    verdicts = torch.arange(-3.0, 4.0, dtype=torch.float64)
    found = (model.palm.dim + 1) * torch.eye(model.palm.dim, dtype=torch.float64)
    for one, other in pairs:
        x = (pooled[one] - pooled[other]).double()
        gap = scale * (x @ model.head.weight[0].double())
        chances = (verdicts * gap + biases[verdicts.abs().long()].double()).softmax(dim=0)
        variance = chances @ verdicts.square() - (chances @ verdicts).square()
        found += scale**2 * variance * torch.outer(x, x)
    return found


def test_the_covariance_of_a_head_is_the_inverse_of_prior_and_curvature(make_palm):
    model = model_with(make_palm)
    fit_posterior(model, [comparison(RESPONSES[0], RESPONSES[1], 3), comparison(RESPONSES[2], RESPONSES[3], 0)])
    pooled = model.pooled(sequences())[0].detach()
    scale = float(model.comparison_log_scale.detach().exp())
    by_hand = hessian_by_hand(model, pooled, [(0, 1), (2, 3)], scale, model.step_biases.detach())
    assert_close(model.head_covariance[0].double(), torch.linalg.inv(by_hand), atol=1e-6, rtol=1e-3)


def test_without_feedback_the_heads_first_weights_are_what_is_open(make_palm):
    model = model_with(make_palm)
    fit_posterior(model, [])
    assert_close(model.head_covariance[0], torch.eye(model.palm.dim) / (model.palm.dim + 1))


def test_a_rating_of_a_scalar_head_tells_twice_its_square(make_palm):
    model = model_with(make_palm, "scalar")
    fit_posterior(model, [rating(RESPONSES[1], 4, weight=3.0)])  # squared error, weighed by 3: its curvature is 6
    x = model.pooled(sequences(RESPONSES[1:2]))[0, 0].detach().double()
    by_hand = (model.palm.dim + 1) * torch.eye(model.palm.dim, dtype=torch.float64) + 6 * torch.outer(x, x)
    assert_close(model.head_covariance[0].double(), torch.linalg.inv(by_hand), atol=1e-6, rtol=1e-3)


def test_a_binned_heads_value_turns_with_the_tilt_of_its_bins(make_palm):
    model = model_with(make_palm, "binned")
    outputs, step = model.head_outputs(sequences()).detach(), 1e-3
    ahead, behind = (model.value(outputs + sign * step * model.head.direction) for sign in (1, -1))
    assert model.head.direction.tolist() == [-2, -1, 0, 1, 2]
    assert_close(model.head.slope(outputs), (ahead - behind) / (2 * step), atol=1e-3, rtol=1e-3)
    fit_posterior(model, [rating(RESPONSES[1], 2)])
    x = model.pooled(sequences(RESPONSES[1:2]))[0, 0].detach().double()
    curvature = model.head.slope(outputs)[0, 1].double()  # of a log-softmax along the tilt: the bins' variance
    by_hand = 10 * (model.palm.dim + 1) * torch.eye(model.palm.dim, dtype=torch.float64)  # |c|² = 4 + 1 + 0 + 1 + 4
    by_hand += curvature * torch.outer(x, x)
    assert_close(model.head_covariance[0].double(), torch.linalg.inv(by_hand), atol=1e-6, rtol=1e-3)


def test_an_ordinal_heads_ratings_make_it_surer_of_what_they_rate(make_palm):
    model = model_with(make_palm, "ordinal")
    fit_posterior(model, [])
    model.normalise(sequences())
    before = model.uncertainty_between(sequences(RESPONSES[:1]), sequences(RESPONSES[1:2]))
    fit_posterior(model, [rating(RESPONSES[0], 5, weight=1e7), rating(RESPONSES[1], 1, weight=1e7)])
    after = model.uncertainty_between(sequences(RESPONSES[:1]), sequences(RESPONSES[1:2]))
    assert float(after) < 0.2 * float(before)


@pytest.mark.parametrize("kind", ["adapters", "heads"])
def test_the_variance_of_a_score_is_between_members_and_within_each(make_palm, kind):
    model = model_with(make_palm, ensemble=3, ensemble_members=kind, ensemble_scoring="mean-variance")
    model.ensemble_penalty = 100.0
    fit_posterior(model, [comparison(RESPONSES[0], RESPONSES[1])])
    model.normalise(sequences())
    scores, variances = model.read(sequences())
    pooled = model.pooled(sequences()).detach().expand(3, -1, -1)
    away = pooled - pooled.mean(dim=1, keepdim=True)
    within = torch.einsum("mrd,mde,mre->mr", away, model.head_covariance, away) / model.reward_std[:, None] ** 2
    assert_close(variances, within, atol=1e-5, rtol=1e-4)
    total = scores.var(0, correction=0) + within.mean(0)
    usual = total.quantile(0.95)  # what the parent's own responses have costs nothing
    assert float(total.max()) > float(usual)
    assert_close(model.usual_variance, usual, atol=1e-5, rtol=1e-4)
    combined = scores.mean(0) - 100 * (total - usual).clamp(min=0)
    spread = combined.std(correction=0)
    assert_close(model.score(sequences()), (combined - combined.mean()) / spread, atol=1e-4, rtol=1e-4)
    assert_close(model.uncertainty(sequences()), total.sqrt() / spread, atol=1e-4, rtol=1e-4)
    assert_close(reward_of(model, 2)([list(PROMPT)] * 4, [list(one) for one in RESPONSES]), model.score(sequences()))


def test_the_total_variance_by_hand():
    scores, variances = torch.tensor([[1.0, 5.0], [3.0, 5.0]]), torch.tensor([[0.5, 2.0], [1.5, 4.0]])
    assert disagreement(scores, variances).square().tolist() == pytest.approx([1 + 1, 0 + 3])
    assert combine_scores(scores, "mean-variance", 0.5, variances).tolist() == [2 - 1.0, 5 - 1.5]
    assert combine_scores(scores, "mean-variance", 0.5, variances, 2.5).tolist() == [2.0, 5 - 0.25]
    assert combine_scores(scores, "worst", 0.5, variances).tolist() == [1.0, 5.0]


def test_the_model_is_least_sure_of_pairs_that_no_verdict_resembles(make_palm):
    model = model_with(make_palm)
    fit_posterior(model, [comparison(RESPONSES[0], RESPONSES[1], weight=1e7)])
    known = model.uncertainty_between(sequences(RESPONSES[:1]), sequences(RESPONSES[1:2]))
    unknown = model.uncertainty_between(sequences(RESPONSES[2:3]), sequences(RESPONSES[3:]))
    same = model.uncertainty_between(sequences(RESPONSES[:1]), sequences(RESPONSES[:1]))
    assert float(same) == 0
    assert float(unknown) > 2 * float(known) > 0


def test_the_most_telling_pairs_are_chosen_as_if_each_verdict_were_in(make_palm):
    """Slow and by hand: the entropy that one more verdict takes, with the covariance inverted anew each time."""
    model = model_with(make_palm)
    with torch.no_grad():
        model.comparison_log_scale.fill_(5.0)  # verdicts tell much beside the prior
    fit_posterior(model, [comparison(RESPONSES[0], RESPONSES[1])] * 20)
    first = sequences([RESPONSES[0], RESPONSES[2], RESPONSES[2], RESPONSES[1]])
    second = sequences([RESPONSES[1], RESPONSES[3], RESPONSES[3], RESPONSES[3]])
    pooled = model.pooled(first)[0].detach().double() - model.pooled(second)[0].detach().double()
    scale = float(model.comparison_log_scale.detach().exp())
    verdicts = torch.arange(-3.0, 4.0, dtype=torch.float64)
    biases = model.step_biases.detach().double()[verdicts.abs().long()]
    precision, expected = torch.linalg.inv(model.head_covariance[0].double()), []
    for _ in range(3):
        gains = []
        for x in pooled:
            chances = (verdicts * scale * (x @ model.head.weight[0].double()) + biases).softmax(dim=0)
            told = scale**2 * (chances @ verdicts.square() - (chances @ verdicts).square())
            gains.append((told, float(torch.logdet(precision + told * torch.outer(x, x)) - torch.logdet(precision))))
        best = max((row for row in range(4) if row not in expected), key=lambda row: gains[row][1])
        expected.append(best)
        precision = precision + gains[best][0] * torch.outer(pooled[best], pooled[best])
    assert most_telling(model, first, second, 3) == expected
    assert len({1, 2} & set(expected[:2])) == 1, "of two equal pairs one is enough"
    with pytest.raises(ValueError, match="5 of 4 pairs"):
        most_telling(model, first, second, 5)
    with pytest.raises(ValueError, match="fit_posterior comes first"):
        most_telling(model_with(make_palm), first, second, 1)


def test_a_checkpoint_and_a_file_keep_what_is_open_and_older_ones_have_none(make_palm, tiny_tokenizer, tmp_path):
    model = model_with(make_palm, ensemble=2, ensemble_scoring="mean-variance")
    older = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not any(name.startswith(("head_covariance", "reference_slopes")) for name in older)
    model.save(tmp_path / "older.safetensors")
    fit_posterior(model, [comparison(RESPONSES[0], RESPONSES[1])])
    model.normalise(sequences())
    expected = model.score(sequences()), model.uncertainty(sequences())
    loaded, _, _ = load_reward_model(save_reward_model(tmp_path / "store", model, tiny_tokenizer, {}).path)
    assert_close((loaded.score(sequences()), loaded.uncertainty(sequences())), expected)
    model.save(tmp_path / "model.safetensors")
    empty = model_with(make_palm, ensemble=2, ensemble_scoring="mean-variance")
    empty.load(tmp_path / "model.safetensors")
    assert_close((empty.score(sequences()), empty.uncertainty(sequences())), expected)
    empty.load(tmp_path / "older.safetensors")
    assert empty.head_covariance is None
    other = model_with(make_palm, ensemble=2, ensemble_scoring="mean-variance")
    half = {**model.state_dict()}
    del half["reference_slopes"]
    torch.save(half, tmp_path / "half.pt")
    with pytest.raises(CheckpointError):
        other.load(tmp_path / "half.pt")
    assert other.head_covariance is None


@pytest.mark.parametrize("head", ["binned", "ordinal"])
def test_a_member_knows_what_it_learned_from_and_nothing_else(make_palm, head):
    model = model_with(make_palm, head, ensemble=2)
    records = [rating(RESPONSES[0], 4), comparison(RESPONSES[1], RESPONSES[2], weight=0.5), rating(RESPONSES[3], 2)]
    fit_posterior(model, records, torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]]))
    found = model.head_covariance.clone()
    fit_posterior(model, [rating(RESPONSES[0], 4, weight=2.0), records[2]])
    assert_close(found[0], model.head_covariance[0], atol=1e-6, rtol=1e-4)
    fit_posterior(model, [comparison(RESPONSES[1], RESPONSES[2], weight=1.5)])
    assert_close(found[1], model.head_covariance[1], atol=1e-6, rtol=1e-4)
