"""Scores in the sampler: behind what is drawn, bounded, and refused by name."""

import threading

import pytest
import torch

from rlhf_core.checkpoint import save_reward_model
from rlhf_core.config import SamplingConfig
from rlhf_core.errors import CheckpointError, QueueFull
from rlhf_core.text.tokenizer import Tokenizer
from tests.faults.watching import until
from tests.reward_models import make_reward_model, without_numbers
from workers.sampler.client import SamplerClient, SamplerUnavailable
from workers.sampler.engine import SCORES_WAITING, Sampler, SamplerStopped
from workers.sampler.wire import NotFinite, OtherTokens, PolicyUnreadable, Unscorable

WISHES = SamplingConfig(max_new_tokens=6, max_prompt_tokens=8)


def test_scores_that_are_no_numbers_are_told_as_such(start_sampler, steersman_data, make_policy, tokenizer, save):
    policy = make_policy(steersman_data / "checkpoints")
    _, client = start_sampler(steersman_data / "checkpoints")
    with pytest.raises(Unscorable, match="not finite"):
        client.score(save(without_numbers(tokenizer)).id, policy.id, [[1, 5]], [[7, 2]])
    torn = make_reward_model(tokenizer, ensemble=2)
    torn.reward_mean.copy_(torch.tensor([3e38, -3e38]))  # whose mean is a number, but not how far they are apart
    with pytest.raises(NotFinite, match="not finite"):
        client.score(save(torn).id, policy.id, [[1, 5]], [[7, 2]])


def test_a_draw_that_comes_in_goes_before_the_rest_of_a_scoring(tmp_path, make_policy, tokenizer):
    policy = make_policy(tmp_path)
    reward_model = save_reward_model(tmp_path, make_reward_model(tokenizer), tokenizer, {})
    sampler = Sampler(tmp_path, window_seconds=0.0)
    done: list[str] = []
    draws: list[threading.Thread] = []
    draw_batch, score_some = sampler.draw_batch, sampler.score_some

    def draw(tickets):
        draw_batch(tickets)
        done.append("draw")

    def score_and_ask():
        score_some()
        done.append("score")
        if len(draws) < 2:  # while the first pieces are scored, raters want something
            words = (policy.id, ["A film"], [len(draws)], WISHES, 30)
            draws.append(threading.Thread(target=sampler.draw, args=words))
            draws[-1].start()
            until(lambda: sampler.waiting, 5, "the draw waits")

    sampler.policies.get(policy.id)
    sampler.draw_batch, sampler.score_some = draw, score_and_ask
    loop = threading.Thread(target=sampler.run)
    loop.start()
    found = sampler.score(reward_model.id, policy.id, [[1, 5]] * 20, [[7, 2]] * 20, 30)
    for thread in draws:
        thread.join(10)
    sampler.stop()
    loop.join(10)
    assert done[:5] == ["score", "draw", "score", "draw", "score"]  # 8, 8 and 4 responses
    assert len(found.scores) == len(found.uncertainties) == sampler.scored == 20
    assert found.scores == pytest.approx([found.scores[0]] * 20), "equal responses score alike"


def test_refusals_cross_the_socket_by_name(start_sampler, tmp_path, make_policy, tokenizer):
    policy = make_policy(tmp_path)
    reward_model = save_reward_model(tmp_path, make_reward_model(tokenizer), tokenizer, {})
    other = Tokenizer.train(["quite other words"] * 3, vocab_size=280)
    stranger = save_reward_model(tmp_path, make_reward_model(other), other, {})
    _, client = start_sampler(tmp_path)
    assert client.score(reward_model.id, policy.id, [[1, 5]], [[7, 2]]).reward_model == reward_model.id
    with pytest.raises(OtherTokens, match="reads other tokens"):
        client.score(stranger.id, policy.id, [[1, 5]], [[7, 2]])
    with pytest.raises(PolicyUnreadable, match="the policy cannot be read"):
        client.score(reward_model.id, "0" * 64, [[1, 5]], [[7, 2]])
    with pytest.raises(CheckpointError, match="is a policy, not a reward_model"):
        client.score(policy.id, policy.id, [[1, 5]], [[7, 2]])
    for prompts, responses, said in (
        ([[1]], [[]], "a response has no tokens"),
        ([[1]], [[10**6]], "a token is not between 0 and"),
        ([[1]], [[-1]], "a token is not between 0 and"),
        ([[1]] * 2, [[7]], "2 prompts, 1 responses"),
        ([], [], "one each, 1 to 32"),
    ):
        with pytest.raises(ValueError, match=said):
            client.score(reward_model.id, policy.id, prompts, responses)
    assert client.score(reward_model.id, policy.id, [[1, 5]], [[7, 2]]).scores
    assert client.health()["reward_models"] == [stranger.id, reward_model.id], "the one used last at the end"


def test_what_waits_to_be_scored_is_bounded_and_told_when_the_sampler_stops(tmp_path, make_policy, tokenizer):
    policy = make_policy(tmp_path)
    reward_model = save_reward_model(tmp_path, make_reward_model(tokenizer), tokenizer, {})
    sampler = Sampler(tmp_path)  # nobody scores, so what comes in waits
    heard: list[Exception] = []

    def ask():
        try:
            sampler.score(reward_model.id, policy.id, [[1, 5]], [[7, 2]], 30)
        except SamplerStopped as error:
            heard.append(error)

    asking = [threading.Thread(target=ask) for _ in range(SCORES_WAITING)]
    for thread in asking:
        thread.start()
    until(lambda: len(sampler.to_score) == SCORES_WAITING, 10, "all wait")
    with pytest.raises(QueueFull):
        sampler.score(reward_model.id, policy.id, [[1, 5]], [[7, 2]], 30)
    sampler.stop()
    sampler.run()
    for thread in asking:
        thread.join(10)
    assert len(heard) == SCORES_WAITING


def test_a_sampler_that_is_gone_is_named(tmp_path):
    with pytest.raises(SamplerUnavailable, match="does not answer"):
        SamplerClient(tmp_path / "none.sock").score("a" * 64, "b" * 64, [[1]], [[2]])
