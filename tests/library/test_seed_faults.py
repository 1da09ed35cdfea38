"""The thirty faults of the seed library: the page that answers them, and those that no other test holds."""

import re
from dataclasses import fields

import pytest
import torch
from torch.testing import assert_close

import rlhf_core
from benchmarks.peers.environments import ROOT
from rlhf_core import ActorCritic, PaLM
from rlhf_core.config import RUN_CONFIGS, PolicyConfig
from rlhf_core.generation.log_probs import sequence_log_probs
from rlhf_core.training.ppo import PolicyTrainer

PAGE = (ROOT / "docs/algorithms/seed-compatibility.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| .+ \| (.+) \|$", PAGE, flags=re.MULTILINE)


def test_every_fault_has_its_row():
    assert [int(number) for number, _ in ROWS] == list(range(1, 31))


@pytest.mark.parametrize(("number", "cell"), ROWS, ids=[number for number, _ in ROWS])
def test_the_tests_that_a_row_names_exist(number, cell):
    named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", cell)
    assert named
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{name}"


def make_palm(num_tokens: int = 997) -> PaLM:
    torch.manual_seed(0)
    return PaLM(dim=16, num_tokens=num_tokens, depth=1, dim_head=8, heads=2)


def make_trainer(score) -> PolicyTrainer:
    settings = PolicyConfig(rollout_batch_size=8, minibatch_size=4, max_new_tokens=5, critic_warmup_updates=0)
    return PolicyTrainer(ActorCritic(make_palm()), [[3, 4], [5]], score, settings, None)


def test_a_rollout_holds_no_tensor_as_wide_as_the_vocabulary():  # fault 12
    rollout = make_trainer(lambda prompts, responses: torch.zeros(len(responses))).roll_out(0)
    tensors = [getattr(rollout, item.name) for item in fields(rollout)]
    shapes = {tuple(one.shape) for one in tensors if isinstance(one, torch.Tensor)}
    assert shapes == {(8, 5), (8,)}


def test_the_log_probability_of_a_nearly_impossible_token_has_no_floor():  # fault 21
    palm = make_palm(num_tokens=4)
    with torch.no_grad():
        palm.norm.gain_offset.fill_(100.0)
    logits = palm(torch.tensor([[1, 2]]))[0, 0]
    token = int(logits.argmin())
    found = sequence_log_probs(palm, [[1]], [[token]]).log_probs[0, 0]
    exact = (logits.double() - logits.double().logsumexp(0))[token]
    assert_close(found.double(), exact, atol=1e-4, rtol=0)
    with torch.no_grad():
        palm.norm.gain_offset.mul_(float(-200 / exact))
    assert float(sequence_log_probs(palm, [[1]], [[token]]).log_probs.detach()) < -150  # log 1e-20 is -46


def test_scores_of_either_sign_train():  # fault 30
    for sign in (-1.0, 1.0):
        trainer = make_trainer(lambda prompts, responses, sign=sign: sign * torch.arange(1.0, 1 + len(responses)))
        before = trainer.model.palm.state_dict()["lora.actor.0.q.B"].clone()
        metrics = trainer.update(0)
        assert metrics["score"] == sign * 4.5
        assert not torch.equal(trainer.model.palm.state_dict()["lora.actor.0.q.B"], before)


def test_algorithms_that_are_not_here_are_not_offered():  # faults 22, 23 and 30
    missing = {"grpo", "flowrl", "implicitprm", "tpo", "maxrl"}
    assert missing.isdisjoint(name.lower() for name in [*rlhf_core.__all__, *RUN_CONFIGS])
