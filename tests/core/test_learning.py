"""Small tasks whose best answer is known exactly: a trainer that is only nearly right does not pass them."""

import math
from itertools import product

import pytest
import torch

from rlhf_core.config import PolicyConfig
from rlhf_core.kl import k1, k3
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.modules.palm import PaLM
from rlhf_core.training.ppo import PolicyTrainer

VOCABULARY, STEPS = 32, 16
LIKED, DISLIKED = range(8, 12), range(12, 16)


def net_liked(prompts, responses):
    return torch.tensor([float(sum((t in LIKED) - (t in DISLIKED) for t in response)) for response in responses])


def tilted(strength: float) -> tuple[float, float]:
    """Reward and KL of the best policy at one point of the frontier: each token tilted by e^(reward · strength)."""
    weights = {1: 4 * math.exp(strength), -1: 4 * math.exp(-strength), 0: VOCABULARY - 8}
    total = sum(weights.values())
    reward = (weights[1] - weights[-1]) / total
    return STEPS * reward, STEPS * (strength * reward - math.log(total / VOCABULARY))


def best_reward(kl: float) -> float:
    """The most reward that any policy gets at this KL, by bisection."""
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tilted(middle)[1] < kl else (low, middle)
    return tilted(low)[0]


def test_the_frontier_itself_is_the_published_one():
    for strength, reward, kl in [(0.5, 2.02, 0.51), (1.0, 4.14, 2.10), (2.0, 8.58, 8.76)]:
        assert tilted(strength) == pytest.approx((reward, kl), abs=0.006)
    assert best_reward(4.0) == pytest.approx(5.74, abs=0.01)


@pytest.mark.parametrize("seed", [0, 1])
def test_ppo_comes_close_to_the_best_objective_and_never_exceeds_the_frontier(seed):
    torch.manual_seed(seed)
    shape = dict(dim=32, num_tokens=VOCABULARY, depth=1, heads=2, dim_head=16, ff_mult=2)
    palm, critic = PaLM(**shape), PaLM(**shape)
    torch.nn.init.normal_(palm.token_emb.weight, std=0.2)
    with torch.no_grad():
        palm.norm.gain_offset.fill_(-1.0)  # final gain 0: the reference is exactly uniform
    config = PolicyConfig(
        updates=40,
        rollout_batch_size=128,
        minibatch_size=64,
        ppo_epochs=2,
        max_new_tokens=STEPS,
        learning_rate=1e-2,
        critic_learning_rate=3e-3,
        kl_coefficient=0.5,
        kl_target=None,
        critic_warmup_updates=0,
        value_clip=10.0,
        seed=seed,
    )
    model = ActorCritic(palm, critic, actor_lora=False, critic_lora=False, critic_dim_out=1)
    trainer = PolicyTrainer(model, [[1]], net_liked, config, None)
    first = trainer.update(0)
    for index in range(1, 40):
        trainer.update(index)
    # Fresh samples, temperature 1, nothing cut.
    trainer.config = PolicyConfig(rollout_batch_size=2048, max_new_tokens=STEPS)
    rollout = trainer.roll_out(10_000)
    kls = k1(rollout.log_probs, rollout.reference_log_probs).sum(1)
    objective = rollout.scores - 0.5 * kls
    best = tilted(2.0)[0] - 0.5 * tilted(2.0)[1]  # 4.20
    assert first["reward"] < 0.5
    assert float(objective.mean()) >= 0.95 * best
    error = float(objective.std()) / len(kls) ** 0.5
    assert float(objective.mean()) <= best + 3 * error  # beyond it, the KL meter or the score would be wrong
    excess = float(rollout.scores.mean()) - best_reward(float(kls.mean()))
    assert excess <= 3 * float((rollout.scores - 0.5 * kls).std()) / len(kls) ** 0.5


def test_the_reported_kl_is_the_exact_one_on_a_policy_small_enough_to_enumerate_rule_13():
    torch.manual_seed(0)
    palm = PaLM(dim=16, num_tokens=4, depth=1, heads=1, dim_head=16, ff_mult=2)
    model = ActorCritic(palm, critic_dim_out=1)
    with torch.no_grad():
        palm.token_emb.weight *= 20
        for parameter in model.actor_parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    temperature, end = 0.7, 2
    config = PolicyConfig(rollout_batch_size=4000, minibatch_size=4000, max_new_tokens=3, temperature=temperature)
    trainer = PolicyTrainer(model, [[1]], lambda prompts, responses: torch.zeros(len(prompts)), config, end)
    responses = [
        list(tokens)
        for length in (1, 2, 3)
        for tokens in product(range(4), repeat=length)
        if end not in tokens[:-1] and (tokens[-1] == end or length == 3)
    ]
    prompts = [[1]] * len(responses)
    with torch.no_grad():
        log_probs = model.log_probs(prompts, responses, temperature=temperature).log_probs.sum(1).double()
    reference = model.reference_log_probs(prompts, responses, temperature=temperature).sum(1).double()
    assert float(log_probs.exp().sum()) == pytest.approx(1.0, abs=1e-5)  # these are all responses there are
    exact = float((log_probs.exp() * (log_probs - reference)).sum())
    assert exact > 0.05
    rollout = trainer.roll_out(0)
    lessons = trainer.derive_lessons(rollout)
    for estimator, reported in ((k1, lessons.kl), (k3, lessons.k3)):
        per_row = torch.where(rollout.mask, estimator(rollout.log_probs, rollout.reference_log_probs), 0.0).sum(1)
        assert reported == pytest.approx(exact, abs=3 * float(per_row.std()) / len(per_row) ** 0.5)


def test_the_end_rate_rises_where_only_a_missing_end_is_wrong_rule_28():
    torch.manual_seed(0)
    palm = PaLM(dim=32, num_tokens=16, depth=1, heads=2, dim_head=16, ff_mult=2)
    config = PolicyConfig(
        updates=25,
        rollout_batch_size=64,
        minibatch_size=32,
        max_new_tokens=8,
        learning_rate=1e-2,
        critic_learning_rate=1e-2,
        kl_coefficient=0.01,
        kl_target=None,
        critic_warmup_updates=0,
        missing_end_penalty=1.0,
        value_clip=10.0,
        lora_rank=0,
    )
    model = ActorCritic(palm, actor_lora=False, critic_lora=False, critic_dim_out=1)
    prompts = [[1], [1, 5, 6], [1, *range(3, 14)]]  # lengths 1 to 12
    trainer = PolicyTrainer(model, prompts, lambda prompts, responses: torch.zeros(len(prompts)), config, 2)
    found = [trainer.update(index) for index in range(25)]
    assert found[0]["end_rate"] < 0.7
    assert found[-1]["end_rate"] > 0.95
    assert found[-1]["truncated_rate"] == pytest.approx(1 - found[-1]["end_rate"])
