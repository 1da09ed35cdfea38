"""A PPO run that is stopped or killed anywhere ends as one that was left alone, to the last bit."""

import errno

import pytest
import torch

from rlhf_core import buffer, durable
from rlhf_core.checkpoint import load_policy
from rlhf_core.config import PolicyConfig
from rlhf_core.durable import FAILPOINTS
from rlhf_core.modules.actor_critic import ActorCritic
from rlhf_core.records import write_prompts
from rlhf_core.training.ppo import PolicyTrainer, train_policy
from rlhf_core.training.run_directory import RunDirectory, RunStopped, read_events, settings_digest
from tests.core.small_rounds import even_tokens

SETTINGS = dict(
    updates=3,
    rollout_batch_size=6,
    minibatch_size=3,
    ppo_epochs=2,  # 4 optimiser steps a round
    max_new_tokens=6,
    learning_rate=1e-2,
    critic_learning_rate=1e-2,
    critic_warmup_updates=1,
    kl_target=1.0,
    kl_horizon=50,
    lora_rank=2,
    save_interval=2,
)


class Killed(BaseException):
    """As by SIGKILL: nothing is saved on the way out."""


@pytest.fixture
def make_run(tmp_path, policy_path, reward_model_path, some_prompts):
    def make(name, **settings):
        write_prompts(tmp_path / f"{name}.jsonl", some_prompts)
        return RunDirectory.create(
            tmp_path / name,
            kind="policy",
            config=PolicyConfig(**{**SETTINGS, **settings}),
            store=tmp_path / "store",
            policy=policy_path,
            reward_model=reward_model_path,
            prompts=tmp_path / f"{name}.jsonl",
        )

    return make


@pytest.fixture
def drawn(monkeypatch):
    """The rounds that were drawn, in order."""
    rounds = []
    draw = PolicyTrainer.roll_out

    def counted(trainer, index, *others):
        rounds.append(index)
        return draw(trainer, index, *others)

    monkeypatch.setattr(PolicyTrainer, "roll_out", counted)
    return rounds


@pytest.fixture
def at_step(monkeypatch):
    """Calls a function of the run before the given optimiser steps, counted over all rounds and starts."""
    keep = RunDirectory.save_or_stop_within

    def watch(numbers, act):
        count = 0

        def watched(run, *arguments):
            nonlocal count
            count += 1
            if count in numbers:
                act(run)
            keep(run, *arguments)

        monkeypatch.setattr(RunDirectory, "save_or_stop_within", watched)

    return watch


def outcome(run):
    """Metrics by step, without the clock's, and the trained weights."""
    lines = [event for event in read_events(run.path / "events.jsonl")[0] if event["kind"] == "metrics"]
    metrics = {
        line["step"]: {name: value for name, value in line["metrics"].items() if name != "tokens_per_second"}
        for line in lines
    }
    return metrics, load_policy(run.result["outputs"][0]["path"])[0].state_dict()


def assert_same_outcome(run, other):
    (metrics, weights), (expected_metrics, expected) = outcome(run), outcome(other)
    assert metrics == expected_metrics
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    assert run.result["outputs"] == other.result["outputs"]


def kill(run):
    raise Killed


def start_until_done(run, *errors):
    """Start the run again and again; returns how often it was left with one of ``errors``."""
    for starts in range(50):
        run = RunDirectory(run.path)
        try:
            train_policy(run)
            return starts
        except errors:
            continue
    raise AssertionError("the run does not come to an end")


@pytest.mark.parametrize(
    "settings",
    [{}, {"lora_rank": 0}, {"critic_trunk": "policy"}, {"critic_trunk": "policy", "value_loss_coefficient": 0.5}],
    ids=["adapters", "all", "value-head", "value-loss"],
)
def test_a_run_stopped_before_every_optimiser_step_equals_one_left_alone_rule_43(make_run, at_step, drawn, settings):
    whole, broken = make_run("whole", **settings), make_run("broken", **settings)
    train_policy(whole)
    assert drawn == [0, 1, 2]
    drawn.clear()
    # Every second one: the first start stops before step 1, the next takes it and stops before step 2, and so on.
    at_step(range(1, 25, 2), lambda run: run.stop_event.set())
    assert start_until_done(broken, RunStopped) == 12
    assert drawn == [0, 1, 2]  # no round was drawn again
    assert_same_outcome(broken, whole)


def test_a_stop_in_the_middle_of_a_round_is_obeyed_after_the_step_and_its_state_says_so(make_run, at_step):
    run = make_run("run")
    at_step([7], lambda run: run.stop_event.set())
    with pytest.raises(RunStopped, match="stopped after step 1"):
        train_policy(run)
    state = run.load_state()
    assert state.step == 1
    assert state.values["tally"]["steps"] == 2  # two of the second round's four
    size = sum(path.stat().st_size for path in run.saved_states()[0].iterdir())
    weights = sum(tensor.numel() * tensor.element_size() for tensor in state.tensors.values())
    assert size < weights + 16_000  # beside adapters and moments next to nothing: no tokens, no log-probabilities


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_killed_run_goes_on_from_the_last_saved_step_and_draws_no_kept_round_again(make_run, at_step, drawn, seconds):
    whole, broken = (make_run(name, step_save_seconds=seconds) for name in ("whole", "broken"))
    train_policy(whole)
    drawn.clear()
    taken = []
    step = PolicyTrainer.critic_step

    def counted(trainer, *arguments):
        taken.append(1)
        return step(trainer, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PolicyTrainer, "critic_step", counted)
        at_step([8], kill)  # after three steps of the second round
        assert start_until_done(broken, Killed) == 1
    assert drawn == [0, 1, 2]
    # Saved before each step: one is lost. Saved every two rounds alone: all seven are.
    assert len(taken) == (12 + 1 if seconds == 0 else 12 + 7)
    assert_same_outcome(broken, whole)
    assert not (broken.path / "rollouts").exists()  # gone with the states at the end


@pytest.mark.parametrize("point", FAILPOINTS)
def test_a_kill_while_the_rollout_is_written_leaves_it_whole_or_absent(make_run, drawn, monkeypatch, point):
    whole, broken = (make_run(name, updates=1) for name in ("whole", "broken"))
    train_policy(whole)
    drawn.clear()

    def die(name):
        if name == point:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(durable, "failpoint", die)
        patch.setattr(durable.UnfinishedFolder, "__exit__", lambda *_: None)  # nobody clears up after SIGKILL
        with pytest.raises(Killed):
            train_policy(broken)
    folders = list((broken.path / "rollouts").iterdir())
    assert [path.name for path in folders if path.name.isdigit()] == (["00000000"] if point == "after-rename" else [])
    train_policy(RunDirectory(broken.path))
    assert drawn == ([0] if point == "after-rename" else [0, 0])
    assert_same_outcome(broken, whole)


def test_a_rollout_that_is_lost_in_the_middle_of_its_round_is_drawn_anew_by_the_policy_that_drew_it(
    make_run, at_step, drawn
):
    whole, broken = (make_run(name, save_interval=1, step_save_seconds=0.0) for name in ("whole", "broken"))
    train_policy(whole)
    drawn.clear()
    at_step([12], kill)  # in the third round
    with pytest.raises(Killed):
        train_policy(broken)
    tokens = broken.path / "rollouts" / "00000002" / "tokens.npy"
    data = bytearray(tokens.read_bytes())
    data[-1] ^= 1
    tokens.write_bytes(bytes(data))
    assert start_until_done(broken, Killed) == 0
    assert drawn == [0, 1, 2, 2]  # from the state in the second round, whose rollout is whole
    log = [event["message"] for event in read_events(broken.path / "events.jsonl")[0] if event["kind"] == "log"]
    assert any("rollout of round 3 is damaged" in line for line in log)
    assert any("in whose middle it was taken, is missing" in line for line in log)
    assert_same_outcome(broken, whole)


@pytest.mark.parametrize("reading", [1, 2], ids=["as-it-is-checked", "as-it-is-used"])
def test_a_rollout_that_the_disk_does_not_give_just_now_costs_no_state(make_run, at_step, monkeypatch, reading):
    whole, broken = (make_run(name, save_interval=1, step_save_seconds=0.0) for name in ("whole", "broken"))
    train_policy(whole)
    at_step([12], kill)  # in the third round
    with pytest.raises(Killed):
        train_policy(broken)
    newest = broken.saved_states()[0]
    read, tokens, readings = buffer.file_digest, broken.path / "rollouts" / "00000002" / "tokens.npy", []

    def fail(path):
        readings.extend([path] if path == tokens else [])
        if path == tokens and len(readings) == reading:
            raise OSError(errno.EIO, "Input/output error")
        return read(path)

    monkeypatch.setattr(buffer, "file_digest", fail)
    at_step([1], kill)
    with pytest.raises(Killed if reading == 1 else OSError):
        train_policy(RunDirectory(broken.path))
    assert newest in broken.saved_states()
    log = [event["message"] for event in read_events(broken.path / "events.jsonl")[0] if event["kind"] == "log"]
    assert any("cannot be read now and is passed over" in line for line in log)
    assert not any("damaged" in line for line in log)
    at_step([], kill)
    train_policy(RunDirectory(broken.path))
    assert_same_outcome(broken, whole)


def test_rollouts_are_kept_from_the_earlier_of_the_two_saved_steps_on(make_run, at_step):
    run = make_run("run", updates=6)
    at_step([21], kill)  # at the start of the sixth round; saved after the second and the fourth
    with pytest.raises(Killed):
        train_policy(run)
    assert [path.name for path in sorted((run.path / "rollouts").iterdir())] == [f"{n:08d}" for n in range(2, 6)]


def test_how_often_states_are_saved_may_change_between_two_starts(make_run):
    one, other = make_run("one"), make_run("other", step_save_seconds=1.0, save_interval=3)
    assert settings_digest(one) == settings_digest(other) != settings_digest(make_run("third", minibatch_size=2))


def test_changed_settings_draw_every_round_anew(make_run, at_step, drawn):
    run = make_run("run")
    at_step([2], kill)
    with pytest.raises(Killed):
        train_policy(run)
    request = (run.path / "run.json").read_text()
    (run.path / "run.json").write_text(request.replace('"seed": 0', '"seed": 1'))
    other = make_run("other", seed=1)
    train_policy(RunDirectory(run.path))
    train_policy(other)
    assert drawn == [0, 0, 1, 2, 0, 1, 2]
    assert_same_outcome(RunDirectory(run.path), other)


def test_a_round_that_was_left_in_its_middle_is_not_gone_on_with_unless_it_is_restored(make_palm):
    settings = PolicyConfig(**{**SETTINGS, "critic_warmup_updates": 0})

    def make():
        torch.manual_seed(0)
        return PolicyTrainer(ActorCritic(make_palm(), critic_dim_out=1), [[1, 40]], even_tokens, settings, 2)

    def interrupt():
        if trainer.tally.steps == 2:
            taken.append(trainer.capture({}))
            raise KeyboardInterrupt

    trainer, taken = make(), []
    with pytest.raises(KeyboardInterrupt):
        trainer.update(0, between_steps=interrupt)
    assert trainer.tally.steps == 0
    other = make()
    other.restore(*taken[0])
    assert other.tally.steps == 2
    older = {name: value for name, value in taken[0][1].items() if name != "tally"}  # as written before there were any
    other.restore(taken[0][0], older)
    assert other.tally.steps == 0
