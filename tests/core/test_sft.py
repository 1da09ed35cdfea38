"""Fine-tuning: what it learns from, what it leaves alone, and that it resumes exactly."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_core.checkpoint import load_policy
from rlhf_core.config import METRICS, PretrainConfig, SFTConfig
from rlhf_core.errors import DatasetError, TrainingDiverged
from rlhf_core.generation import log_probs
from rlhf_core.records import Demonstration, Prompt, demonstration_to_line, write_prompts
from rlhf_core.text.demonstrations import DemonstrationFile, stream_demonstrations
from rlhf_core.training import sft
from rlhf_core.training.drift import drift_from
from rlhf_core.training.next_token import learning_rate
from rlhf_core.training.run_directory import RunDirectory, RunStopped, read_events
from tests.core.run_steps import stop_after

SETTINGS = {
    "epochs": 2,
    "batch_size": 4,
    "learning_rate": 3e-3,
    "warmup_steps": 2,
    "validation_interval": 4,
    "save_interval": 3,
    "holdout_fraction": 0.1,
    "sample_tokens": 4,
    "threads": 1,
}


def write_demonstrations(path: Path, count: int = 24) -> Path:
    lines = [{"prompt": f"Film {number % 12}:", "response": " good" * (1 + number % 3)} for number in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def make_run(folder: Path, policy: Path, **changes) -> RunDirectory:
    folder.mkdir(exist_ok=True)
    prompts = changes.pop("prompts", None)
    data = changes.pop("data", None) or write_demonstrations(folder / "demonstrations.jsonl")
    config = SFTConfig(**{**SETTINGS, **changes})
    return RunDirectory.create(
        folder / "run",
        kind="sft",
        config=config,
        store=folder / "store",
        policy=policy,
        demonstrations=[data],
        prompts=prompts,
    )


def events(run: RunDirectory, kind: str) -> list[dict]:
    return [event for event in read_events(run.path / "events.jsonl")[0] if event["kind"] == kind]


def learning_log(run: RunDirectory) -> dict[int, dict[str, float]]:
    found = {event["step"]: event["metrics"] for event in events(run, "metrics")}
    return {step: {k: v for k, v in values.items() if k != "tokens_per_second"} for step, values in found.items()}


def output(run: RunDirectory):
    assert run.result is not None
    return load_policy(run.result["outputs"][0]["path"])


@pytest.fixture(scope="module")
def policy(tmp_path_factory, tiny_tokenizer) -> Path:
    from rlhf_core.checkpoint import save_policy
    from rlhf_core.modules.palm import PaLM

    torch.manual_seed(0)
    palm = PaLM(dim=32, num_tokens=259, depth=2, heads=2, dim_head=16, ff_mult=2, cross_entropy_ignore_index=-100)
    return save_policy(tmp_path_factory.mktemp("policy"), palm, tiny_tokenizer, {}).path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, policy) -> RunDirectory:
    run = make_run(tmp_path_factory.mktemp("whole"), policy)
    sft.train_sft(run)
    return run


def test_a_run_leaves_a_policy_that_answers_as_it_was_shown(policy, tmp_path):
    run = make_run(tmp_path, policy, epochs=15, learning_rate=1e-2)
    sft.train_sft(run)
    log = learning_log(run)
    assert log[max(log)]["validation_loss"] < 0.25 * math.log(259)
    manifest = output(run)[2]
    assert manifest["meta"]["parent"] == policy.name
    assert manifest["meta"]["training_demonstrations"] + manifest["meta"]["holdout_demonstrations"] == 24
    last = events(run, "sample")[-1]
    assert last["prompt"].startswith("Film ")
    assert last["response"].strip()[:1] == "g"


def test_the_metrics_are_those_that_are_explained(whole):
    log = learning_log(whole)
    steps = max(log)
    assert steps == 2 * 6  # 2 epochs of 22 demonstrations or so, 4 a step
    assert set(log) == {1, 4, 8, 10, 12}
    assert set(log[steps]) | {"tokens_per_second"} == set(METRICS["sft"])
    assert log[steps]["epoch"] == 2.0


def test_the_parents_loss_and_the_drift_from_it_stand_beside_what_was_learned(policy, tmp_path):
    still = make_run(tmp_path / "still", policy, learning_rate=1e-12)
    moved = make_run(tmp_path / "moved", policy, epochs=6, learning_rate=1e-2)
    with_adapters = make_run(tmp_path / "adapters", policy, epochs=6, learning_rate=1e-2, lora_rank=4)
    for run in (still, moved, with_adapters):
        sft.train_sft(run)
    last = [log[max(log)] for log in map(learning_log, (still, moved, with_adapters))]
    assert last[0]["validation_loss"] == pytest.approx(last[0]["parent_validation_loss"], abs=1e-5)
    assert last[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    for found in last[1:]:
        assert found["parent_validation_loss"] == pytest.approx(last[0]["parent_validation_loss"], abs=1e-5)
        assert found["validation_loss"] < found["parent_validation_loss"] - 0.1
        assert found["kl"] > 0.05


def test_the_drift_is_the_kl_of_the_next_token_where_responses_have_one(policy, tiny_tokenizer):
    from rlhf_core.modules.palm import PaLM

    parent = load_policy(policy)[0]
    torch.manual_seed(1)
    palm = PaLM(dim=32, num_tokens=259, depth=1, heads=2, dim_head=16, ff_mult=2)
    prompt = [1, 40, 41]
    with torch.no_grad():
        palm.token_emb.weight *= 4.0  # surer of itself, so that the two differ by more than chance
        ours, theirs = (one(torch.tensor([prompt]))[0, -1].log_softmax(dim=-1) for one in (palm, parent))
    exact = float((ours.exp() * (ours - theirs)).sum())  # Kullback and Leibler's sum over the whole vocabulary
    rows = 2000
    found = drift_from(parent, palm, [prompt] * rows, end_id=2, max_new_tokens=1, seeds=range(rows))
    assert found.count == rows
    assert found.value == pytest.approx(exact, abs=4 * found.error)
    assert exact > 5 * found.error, "far enough apart to tell"


def test_a_response_that_was_cut_teaches_no_end(tmp_path, tiny_tokenizer):
    data = tmp_path / "d.jsonl"
    whole, cut = Demonstration("A", " b"), Demonstration("A", " c", is_cut=True)
    data.write_text("".join(demonstration_to_line(one) + "\n" for one in (whole, cut)))
    assert list(stream_demonstrations([data])) == [whole, cut]
    written = DemonstrationFile.write(
        tmp_path / "d.tokens",
        stream_demonstrations([data]),
        tiny_tokenizer,
        source_sha256="",
        max_prompt_tokens=8,
        max_response_tokens=8,
    )
    assert written.cut_responses == 1
    responses = written.open(tmp_path / "d.tokens").rows([0, 1])[1]
    assert responses == [[*tiny_tokenizer.encode(" b"), tiny_tokenizer.end], tiny_tokenizer.encode(" c")]


def test_a_run_stopped_and_resumed_twice_equals_one_that_was_not_rule_43(whole, policy, tmp_path):
    run = make_run(tmp_path, policy)
    for step in (2, 7):
        run = RunDirectory(run.path)
        stop_after(run, step)
        with pytest.raises(RunStopped):
            sft.train_sft(run)
    torch.manual_seed(99)  # what another process would have
    run = RunDirectory(run.path)
    sft.train_sft(run)
    assert learning_log(run)[12] == learning_log(whole)[12]
    assert run.result is not None
    assert whole.result is not None
    assert run.result["outputs"][0]["id"] == whole.result["outputs"][0]["id"]


def test_with_adapters_the_base_stays_and_a_resumed_run_is_the_same(policy, tmp_path):
    straight = make_run(tmp_path / "straight", policy, lora_rank=4)
    sft.train_sft(straight)
    stopped = make_run(tmp_path / "stopped", policy, lora_rank=4)
    stop_after(stopped, 5)
    with pytest.raises(RunStopped):
        sft.train_sft(stopped)
    state = stopped.load_state()
    assert state is not None
    assert all("lora" in name for name in state.tensors if name.startswith("model."))
    again = RunDirectory(stopped.path)
    sft.train_sft(again)
    assert again.result["outputs"][0]["id"] == straight.result["outputs"][0]["id"]
    before, after = load_policy(policy)[0].state_dict(), output(straight)[0].state_dict()
    changed = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"project_in", "attention_out"}  # where adapters are merged in; feed-forward rows stay too
    assert torch.equal(before["token_emb.weight"], after["token_emb.weight"])


def test_a_run_whose_demonstrations_changed_begins_anew(policy, tmp_path):
    run = make_run(tmp_path, policy)
    stop_after(run, 5)
    with pytest.raises(RunStopped):
        sft.train_sft(run)
    write_demonstrations(tmp_path / "demonstrations.jsonl", 36)
    run = RunDirectory(run.path)
    sft.train_sft(run)
    assert any("starting anew" in event["message"] for event in events(run, "log"))
    meta = output(run)[2]["meta"]
    assert meta["training_demonstrations"] + meta["holdout_demonstrations"] == 36


def test_the_loss_is_that_of_the_response_tokens_alone(policy, tmp_path):
    palm, tokenizer, _ = load_policy(policy)
    data = tmp_path / "d.jsonl"
    lines = [{"prompt": "It was: ", "response": "ok"}, {"prompt": "A", "response": " long one\n"}]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    limits = {"max_prompt_tokens": 6, "max_response_tokens": 6}
    written = DemonstrationFile.write(
        tmp_path / "d.tokens", stream_demonstrations([data]), tokenizer, source_sha256="", **limits
    )
    assert (written.count, written.cut_responses) == (2, 1)
    encoded = written.open(tmp_path / "d.tokens")
    prompts, responses = encoded.rows([0, 1])
    assert prompts == [[1, *tokenizer.encode(" was:")], [1, *tokenizer.encode("A")]]
    assert responses == [[*tokenizer.encode(" ok"), 2], tokenizer.encode(" long ")]

    expected, count = 0.0, 0
    with torch.no_grad():
        for prompt, response in zip(prompts, responses, strict=True):
            log_probs = palm(torch.tensor([[*prompt, *response]])).log_softmax(dim=-1)[0]
            for place, token in enumerate(response):
                expected -= float(log_probs[len(prompt) - 1 + place, token])
                count += 1
    nats, tokens = sft.response_nats(palm, encoded, np.array([0, 1]), None)
    assert tokens == count == 10
    assert float(nats.detach()) == pytest.approx(expected, rel=1e-5)
    both = np.array([0, 1])
    assert sft.validation_loss(palm, encoded, both, 1, None) == pytest.approx(expected / count, rel=1e-5)
    assert sft.validation_loss(palm, encoded, both, 2, None) == pytest.approx(expected / count, rel=1e-5)


def test_what_a_prompt_says_has_no_gradient_of_its_own(policy, monkeypatch):
    """The logits that predict prompt tokens get none: only response tokens are learned."""
    palm, tokenizer, _ = load_policy(policy)
    prompt, response = [1, *tokenizer.encode("Film")], [*tokenizer.encode(" x"), 2]
    seen = []
    whole = log_probs.token_loss

    def watched(states, *arguments, **options):
        seen.append(len(states))
        return whole(states, *arguments, **options)

    monkeypatch.setattr(log_probs, "token_loss", watched)
    tokens = np.array([*prompt, *response], dtype=np.uint16)
    data = sft.EncodedDemonstrations(tokens, np.array([[0, len(prompt), len(tokens)]], dtype=np.uint64))
    sft.response_nats(palm, data, np.array([0]), None)[0].backward()
    assert seen == [len(response)]


def test_every_demonstration_is_seen_once_an_epoch_in_a_fresh_order():
    order = sft.Order(10, 4, seed=0)
    first = [order.rows(step).tolist() for step in (1, 2, 3)]
    assert [len(rows) for rows in first] == [4, 4, 2]
    assert sorted(sum(first, [])) == list(range(10))
    second = [order.rows(step).tolist() for step in (4, 5, 6)]
    assert sorted(sum(second, [])) == list(range(10))
    assert second != first
    assert order.rows(2).tolist() == first[1]  # and back, as resuming does


def test_all_demonstrations_of_a_prompt_stand_on_the_same_side(tmp_path):
    data = tmp_path / "d.jsonl"
    lines = [{"prompt": f"Film {number % 50}{' ' * (number % 2)}", "response": str(number)} for number in range(200)]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    held = sft.plan_holdout([data], 0.2)
    by_prompt = {number: {bool(one) for one in held[number::50]} for number in range(50)}
    assert all(len(sides) == 1 for sides in by_prompt.values())
    assert 4 <= sum(True in sides for sides in by_prompt.values()) <= 16  # a fifth of 50
    grown = tmp_path / "grown.jsonl"
    grown.write_text('{"prompt": "another", "response": "a"}\n' + data.read_text())
    assert sft.plan_holdout([grown], 0.2)[1:].tolist() == held.tolist()
    assert not sft.plan_holdout([data], 0.0).any()


def test_a_large_holdout_is_measured_in_part_on_the_way_and_whole_at_the_end(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(sft, "QUICK_VALIDATION", 3)
    measured: list[list[int]] = []
    whole = sft.validation_loss

    def watched(palm, data, places, *rest):
        measured.append(places.tolist())
        return whole(palm, data, places, *rest)

    monkeypatch.setattr(sft, "validation_loss", watched)
    run = make_run(tmp_path, policy, holdout_fraction=0.5, epochs=1, samples=0)
    sft.train_sft(run)
    assert run.result is not None
    held_out = output(run)[2]["meta"]["holdout_demonstrations"]
    # The parent's loss is measured too: on a part before the first step, and after the policy's on all at the end.
    assert [len(places) for places in measured] == [3] * (len(measured) - 2) + [held_out] * 2
    assert measured[0][0] == 0  # spread over the file, which may be sorted
    assert measured[0][-1] == held_out - 1
    assert run.result["metrics"]["validation_loss"] != learning_log(run)[max(learning_log(run))]["validation_loss"]


def test_without_a_holdout_all_is_learned_from_and_the_samples_answer_the_first(policy, tmp_path):
    run = make_run(tmp_path, policy, holdout_fraction=0.0, epochs=1)
    sft.train_sft(run)
    assert output(run)[2]["meta"]["training_demonstrations"] == 24
    assert "validation_loss" not in learning_log(run)[6]
    assert [event["prompt"] for event in events(run, "sample")][:2] == ["Film 0:", "Film 1:"]


def test_samples_answer_the_prompts_that_were_given(policy, tmp_path):
    write_prompts(tmp_path / "asked.jsonl", [Prompt("a", "What of it?")])
    run = make_run(tmp_path, policy, prompts=tmp_path / "asked.jsonl", epochs=1)
    sft.train_sft(run)
    assert {event["prompt"] for event in events(run, "sample")} == {"What of it?"}
    assert len(events(run, "sample")) == 2 * 2  # two at each of the validations after steps 4 and 6


def test_without_any_prompt_held_out_demonstrations_are_answered(policy, tmp_path):
    write_prompts(tmp_path / "none.jsonl", [])
    run = make_run(tmp_path, policy, prompts=tmp_path / "none.jsonl", epochs=1)
    sft.train_sft(run)
    assert len(events(run, "sample")) == 2 * 2
    assert all(event["prompt"].startswith("Film ") for event in events(run, "sample"))
    assert run.result["metrics"]["kl"] is not None


def test_samples_leave_the_training_alone_rule_47(whole, policy, tmp_path):
    run = make_run(tmp_path, policy, samples=0)
    sft.train_sft(run)
    assert events(run, "sample") == []
    assert learning_log(run)[12] == learning_log(whole)[12]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found 0 demonstrations"),
        (b"nonsense", "d.jsonl, line 1: no JSON"),
        (b'{"prompt": "a"}', 'd.jsonl, line 1: no "response"; there are prompt'),
        (b'{"prompt": "a", "response": "b"}\n{"prompt": " ", "response": "b"}', "line 2: the prompt is empty"),
        (b'{"prompt": "a", "response": ""}', "line 1: the response is empty"),
        (b'{"prompt": 1, "response": "b"}', '"prompt" is 1, no text'),
        (b'{"prompt": "a", "response": "b", "is_cut": 1}', 'line 1: "is_cut" is 1, neither true nor false'),
    ],
)
def test_demonstrations_that_teach_nothing_are_refused_by_line_and_field(policy, tmp_path, content, message):
    (tmp_path / "d.jsonl").write_bytes(content)
    run = make_run(tmp_path, policy, data=tmp_path / "d.jsonl")
    with pytest.raises(DatasetError, match=message):
        sft.train_sft(run)


def test_demonstrations_that_are_gone_are_refused(policy, tmp_path):
    run = make_run(tmp_path, policy)
    (tmp_path / "demonstrations.jsonl").unlink()
    with pytest.raises(DatasetError, match="demonstrations.jsonl"):
        sft.train_sft(run)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_state_rule_42(policy, tmp_path, monkeypatch):
    run = make_run(tmp_path, policy, save_interval=1)
    whole, steps = sft.response_nats, []

    def spoiled(*arguments):
        if torch.is_grad_enabled():  # else something is only measured
            steps.append(arguments)
        nats, tokens = whole(*arguments)
        return (nats * math.nan if len(steps) == 3 else nats), tokens

    monkeypatch.setattr(sft, "response_nats", spoiled)
    with pytest.raises(TrainingDiverged, match="step 3"):
        sft.train_sft(run)
    state = run.load_state()
    assert state is not None
    assert state.step == 2


def test_cosine_rises_and_falls_along_half_a_wave():
    config = PretrainConfig(
        schedule="cosine", learning_rate=0.1, warmup_steps=2, final_learning_rate_fraction=0.2, decay_fraction=0.5
    )
    found = [learning_rate(config, step, 6) for step in range(1, 7)]
    # Up by halves; then 1, ½(1 + cos 45°), ½, ½(1 + cos 135°), 0 of the way between 0.02 and 0.1.
    expected = [0.05, 0.1, 0.02 + 0.08 * 0.8535534, 0.06, 0.02 + 0.08 * 0.1464466, 0.02]
    assert found == pytest.approx(expected)
    assert learning_rate(config, 1, 1) == pytest.approx(0.05)  # a run shorter than its rise
