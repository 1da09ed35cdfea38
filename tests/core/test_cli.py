"""The command line: options from the settings, refusals without a traceback, exit codes, resuming."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlhf_core import answers, cli
from rlhf_core.checkpoint import load_policy
from rlhf_core.commands import SMALLEST_VOCABULARY
from rlhf_core.config import (
    METRICS,
    PRESETS,
    RUN_CONFIGS,
    ModelConfig,
    PolicyConfig,
    PretrainConfig,
    RewardConfig,
    SamplingConfig,
)
from rlhf_core.errors import ConfigError
from rlhf_core.generation.sampler import generate_batch
from rlhf_core.options import GROUPS
from rlhf_core.records import Comparison, Feedback, Prompt, ScoredResponse, write_feedback, write_prompts
from rlhf_core.text.template import encode_prompt
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training.run_directory import RunDirectory, read_events

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMMAND = [sys.executable, "-m", "rlhf_core"]
WITH_TEST_TRAINER = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
from rlhf_core import cli
cli.TRAINERS["reward"] = ("trainers_for_tests", "train_counting")
sys.exit(cli.main(sys.argv[1:]))
"""


def make_run(path: Path, mood: str = "", **config) -> RunDirectory:
    settings = RewardConfig(threads=1, **config)
    return RunDirectory.create(path / "run", kind="reward", config=settings, store=path / "store", meta={"mood": mood})


def start(run: RunDirectory, *more: str, **options) -> subprocess.Popen:
    arguments = [sys.executable, "-c", WITH_TEST_TRAINER, "reward", "--run-dir", str(run.path), *more]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, **options)


def finish(run: RunDirectory, *more: str) -> tuple[int, str, str]:
    child = start(run, *more)
    out, err = child.communicate(timeout=60)
    return child.returncode, out, err


# Help and options


def test_help_needs_no_torch():
    code = "import sys; from rlhf_core.cli import make_parser; make_parser().format_help(); import rlhf_core; " + (
        "print([name for name in ('torch', 'numpy', 'yaml', 'rich', 'tokenizers') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert shown.stdout.strip() == "[]"
    assert (
        "pretrain" in subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    )


@pytest.mark.parametrize("kind", [*RUN_CONFIGS, "sample"])
def test_every_setting_is_an_option_with_its_help(kind, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([kind, "--help"])
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for field in dataclasses.fields(RUN_CONFIGS.get(kind, SamplingConfig)):  # type: ignore[arg-type]
        assert "--" + field.name.replace("_", "-") in shown
        assert field.metadata["help"].split()[0] in shown


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """A folder with everything a run may name; the test stands in it."""
    monkeypatch.chdir(tmp_path)
    for name in ("policy", "reward_model"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"kind": name}))
    for name in ("feedback.jsonl", "prompts.jsonl", "text.txt"):
        (tmp_path / name).write_text("")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt_id":"a","text":"It"}\n{"prompt_id":"b","text":"caf\xe9"}\n')
    return tmp_path


def prepared(*arguments: str) -> RunDirectory:
    return RunDirectory(cli.prepare_run(cli.make_parser().parse_args(arguments)))


REWARD = ("reward", "--run-dir", "run", "--policy", "policy", "--feedback", "feedback.jsonl")
POLICY = (
    "policy",
    "--run-dir",
    "run",
    "--policy",
    "policy",
    "--reward-model",
    "reward_model",
    "--prompts",
    "prompts.jsonl",
)


def test_options_become_a_run_directory(files):
    run = prepared(*REWARD, "--learning-rate", "2e-4", "--epochs", "3", "--store", "kept")
    assert run.config == RewardConfig(learning_rate=2e-4, epochs=3)
    assert run.inputs == {"policy": str(files / "policy"), "reward_model": None}
    assert run.store == files / "kept"
    assert run.read_feedback() == []


def test_settings_come_from_preset_then_file_then_options(files):
    (files / "settings.yaml").write_text("updates: 7\nlearning_rate: 1e-5\nkl_target: null\n")
    run = prepared(*POLICY, "--preset", "GPU", "--config", "settings.yaml", "--updates", "9")
    expected = dataclasses.replace(PRESETS["policy"]["GPU"], updates=9, learning_rate=1e-5, kl_target=None)
    assert run.config == expected


def test_an_optional_setting_can_be_emptied_and_a_switch_said_in_words(files):
    assert prepared(*POLICY, "--kl-target", "none").config == PolicyConfig(kl_target=None)
    run = prepared("pretrain", "--run-dir", "other", "--text", "text.txt", "--qk-rmsnorm", "no", "--vocab-size", "512")
    assert run.model == ModelConfig(qk_rmsnorm=False, num_tokens=512)
    assert run.inputs["text"] == [str(files / "text.txt")]


def test_the_shape_of_a_model_may_stand_in_the_file(files):
    (files / "settings.json").write_text('{"steps": 5, "model": {"dim": 64, "depth": 2}}')
    run = prepared("pretrain", "--run-dir", "run", "--text", "text.txt", "--config", "settings.json", "--depth", "3")
    assert run.model == ModelConfig(dim=64, depth=3)


def test_without_a_folder_the_run_gets_one_of_its_own(files, capsys):
    run = prepared("reward", "--policy", "policy", "--feedback", "feedback.jsonl")
    assert run.path.parent == files / "runs"
    assert str(run.path.name) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*REWARD, "--learning-rate", "-1"], "learning_rate = -1.0 is not permitted: above 0 and at most 1"),
        ([*REWARD, "--epochs", "two"], "epochs = 'two' is not permitted: a whole number"),
        ([*REWARD, "--epochs", "0"], "epochs = 0 is not permitted: at least 1 and at most 1000"),
        ([*REWARD, "--learning-rate", "nan"], "learning_rate = nan is not permitted"),
        (["pretrain", "--run-dir", "run", "--text", "text.txt", "--qk-rmsnorm", "maybe"], "qk_rmsnorm = 'maybe'"),
        (
            ["pretrain", "--run-dir", "run", "--text", "gone.txt"],
            "text = 'gone.txt' is not permitted: an existing file",
        ),
        (["pretrain", "--run-dir", "run", "--steps", "3"], "text = None is not permitted: given (--text)"),
        (
            ["pretrain", "--run-dir", "run", "--text", "text.txt", "--schedule", "linear"],
            "schedule = 'linear' is not permitted: one of wsd, cosine",
        ),
        (
            ["pretrain", "--run-dir", "run", "--text", "text.txt", "--schedule", "cosine", "--decay-fraction", ".2"],
            "decay_fraction = '.2' is not permitted: left out with the schedule cosine",
        ),
        (
            ["sft", "--run-dir", "run", "--policy", "reward_model", "--demonstrations", "text.txt"],
            "policy = 'reward_model' is not permitted: the folder of a policy; this one holds a reward_model",
        ),
        (["sft", "--run-dir", "run", "--policy", "policy"], "demonstrations = None is not permitted: given (--demon"),
        ([*REWARD, "--track", "tensorbord"], "track = 'tensorbord' is not permitted: one of tensorboard, wandb"),
        (["sample", "--policy", "policy", "--prompt", " "], "prompt = ' ' is not permitted: text that is not empty"),
        (["sample", "--policy", "policy"], "prompt = None is not permitted: given, or else --prompts FILE"),
        (["sample", "--policy", "policy", "--prompt", "a", "--prompts", "prompts.jsonl"], "and not both"),
        (["sample", "--prompt", "a"], "policy = None is not permitted: given (--policy)"),
        (["reward", "--run-dir", "run", "--policy", "policy"], "feedback = None"),
        ([*REWARD[:4], "nowhere", *REWARD[5:]], "policy = 'nowhere' is not permitted: the folder of a checkpoint"),
        ([*REWARD, "--config", "gone.yaml"], "config = 'gone.yaml'"),
        (["reward", "--run-dir", "nowhere"], "run-dir = 'nowhere' is not permitted: a folder with a run.json"),
        (["sample", "--policy", "policy", "--prompt", "a", "--samples", "0"], "samples = 0 is not permitted"),
        (["sample", "--policy", "policy", "--prompt", "a", "--top-p", "2"], "top_p = 2.0 is not permitted"),
        (["sample", "--policy", "nowhere", "--prompt", "a"], "nowhere is no checkpoint"),
        (["sample", "--policy", "policy", "--prompts", "gone"], "prompts = 'gone' is not permitted: an existing file"),
        (["sample", "--policy", "policy", "--prompts", "latin.jsonl"], "latin.jsonl, line 2: no UTF-8"),
        ([*REWARD, "--store", "text.txt"], "store = 'text.txt' is not permitted: a folder"),
        ([*REWARD, "--store", "text.txt/store"], "store = 'text.txt/store' is not permitted: a folder"),
        ([*REWARD[:2], "text.txt/sub", *REWARD[3:]], "Not a directory: "),
    ],
)
def test_what_is_not_permitted_is_named_and_nothing_is_made(files, capsys, arguments, message):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (files / "run" / "run.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reward", "--learing-rate", "3"], "--learing-rate is no option of reward; did you mean --learning-rate?"),
        (["reward", "--epochs"], "argument --epochs: expected one argument\nsee python -m rlhf_core reward --help\n"),
        (["policy", "--preset", "TPU"], "argument --preset: invalid choice: 'TPU'"),
        (["rewrad"], "argument COMMAND: invalid choice: 'rewrad'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_a_mistyped_option_is_answered_in_two_lines(capsys, arguments, message):
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 2
    assert "--help" in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3", "epoch = 3 is not permitted: no such setting; did you mean epochs?"),
        ("feedback: 3", "feedback = 3 is not permitted: a path"),
        ("feedback: [a, b]", "feedback = ['a', 'b'] is not permitted: a path"),
        ("preset: TPU", "preset = 'TPU' is not permitted: one of CPU, GPU"),
    ],
)
def test_what_a_settings_file_may_not_say_is_named(files, capsys, content, message):
    (files / "settings.yaml").write_text(content)
    assert cli.main(["reward", "--run-dir", "run", "--config", "settings.yaml"]) == 2
    assert message in capsys.readouterr().err
    assert not (files / "run").exists()


def test_a_settings_file_may_name_everything_and_options_win_over_it(files):
    (files / "run.yaml").write_text(
        "text: [text.txt, prompts.jsonl]\nstore: kept\nsteps: 1e4\nlearning-rate: 3e-4\nschedule: cosine\n"
        "vocab_size: 300\ndim: 32\nmodel:\n  depth: 3\n  heads: 2\n"
    )
    run = prepared("pretrain", "--run-dir", "run", "--config", "run.yaml", "--heads", "1", "--text", "text.txt")
    assert run.config == PretrainConfig(steps=10_000, learning_rate=3e-4, schedule="cosine")
    assert run.model == ModelConfig(num_tokens=300, dim=32, depth=3, heads=1)
    assert run.inputs["text"] == [str(files / "text.txt")]
    assert run.store == files / "kept"


def test_a_vocabulary_follows_the_tokenizer_unless_it_is_named(files, tiny_tokenizer, capsys):
    tiny_tokenizer.save(files / "tokenizer.json")
    common = ("--text", "text.txt", "--tokenizer", "tokenizer.json")
    assert prepared("pretrain", "--run-dir", "a", *common).model == ModelConfig(num_tokens=259)
    assert prepared("pretrain", "--run-dir", "b", *common, "--vocab-size", "512").model == ModelConfig(num_tokens=512)
    larger = Tokenizer.train(["a good film and a good plot"] * 4, 270)
    larger.save(files / "tokenizer.json")
    assert cli.main(["pretrain", "--run-dir", "c", *common, "--vocab-size", "260"]) == 2
    assert f"vocab_size = 260 is not permitted: at least the tokenizer's {larger.vocab_size}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", RUN_CONFIGS)
def test_the_printed_settings_are_a_file_that_gives_the_same_settings(files, capsys, kind):
    options = {
        "pretrain": ["--dim", "32", "--vocab-size", "300"],
        "policy": ["--kl-target", "none", "--preset", "GPU"],
    }.get(kind, [])
    assert cli.main([kind, "--print-config", "--seed", "7", *options]) == 0
    (files / "printed.yaml").write_text(capsys.readouterr().out)
    parse = cli.make_parser().parse_args
    asked = cli.build_request(kind, cli.given_options(parse([kind, "--seed", "7", *options])))
    again = cli.build_request(kind, cli.given_options(parse([kind, "--config", "printed.yaml"])))
    assert (again.config, again.model) == (asked.config, asked.model)
    assert again.config.seed == 7  # type: ignore[attr-defined]
    assert not (files / "runs").exists()


def test_a_switch_alone_means_yes(files):
    assert prepared(*POLICY, "--whiten-rewards").config == PolicyConfig(whiten_rewards=True)


@pytest.mark.parametrize("content", ["epochs: [", "- 1", "just words", "epoch: 3", "epochs: 1.5"])
def test_a_bad_settings_file_is_refused(files, capsys, content):
    (files / "settings.yaml").write_text(content)
    assert cli.main([*REWARD, "--config", "settings.yaml"]) == 2
    assert "not permitted" in capsys.readouterr().err


def test_a_run_that_exists_takes_no_settings_again(files, capsys):
    prepared(*REWARD)
    assert cli.main([*REWARD, "--epochs", "3"]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_every_setting_stands_in_one_group_of_the_help():
    names = [name for group in GROUPS.values() for name in group]
    assert len(names) == len(set(names))
    for settings in (*RUN_CONFIGS.values(), ModelConfig, SamplingConfig):
        assert {item.name for item in dataclasses.fields(settings)} <= set(names)  # type: ignore[arg-type]


def test_the_smallest_vocabulary_is_the_tokenizers():
    assert Tokenizer.train(["a"], SMALLEST_VOCABULARY).vocab_size == SMALLEST_VOCABULARY
    with pytest.raises(ConfigError):
        Tokenizer.train(["a"], SMALLEST_VOCABULARY - 1)


def test_help_says_default_range_and_unit(capsys):
    with pytest.raises(SystemExit):
        cli.main(["policy", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "--learning-rate NUMBER peak learning rate of the policy, falls linearly to 0 [default 0.005; above 0, to 1]"
        in shown
    )
    assert "--kl-target NUMBER/none" in shown
    assert "--max-new-tokens INTEGER longest response, in tokens [default 64; 1 to 4,096]" in shown
    assert "--updates INTEGER rounds of sampling and learning [default 40; 1 to 1,000,000]" in shown


# Ends of a run


def test_away_from_a_terminal_a_run_tells_in_lines_and_a_supervised_one_keeps_quiet(tmp_path):
    lines = finish(make_run(tmp_path / "a"))[2].splitlines()
    assert lines[0].endswith("train 1/5  loss 1.000")
    assert "train 5/5  loss 0.200" in lines[-1]
    reading, writing = os.pipe()
    child = start(make_run(tmp_path / "b"), "--control-fd", str(reading), pass_fds=[reading])
    assert child.communicate(timeout=60)[1] == ""
    for end in (reading, writing):
        os.close(end)


def test_a_run_that_is_stopped_says_how_to_go_on(tmp_path):
    run = make_run(tmp_path, "slow")
    child = start(run)
    while not run.saved_states():
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    said = child.communicate(timeout=20)[1]
    assert said.endswith(f"to go on: python -m rlhf_core reward --run-dir {run.path}\n")


def test_a_run_that_is_done_says_so_and_is_done_the_next_time_too(tmp_path):
    run = make_run(tmp_path)
    code, out, err = finish(run, "--progress", "none")
    assert (code, err) == (0, "")
    assert json.loads(out) == run.result
    assert json.loads(out)["metrics"] == {"total": 15.0}
    before = (run.path / "events.jsonl").read_bytes()
    assert finish(run)[0] == 0
    assert (run.path / "events.jsonl").read_bytes() == before
    metrics = [event["metrics"] for event in read_events(run.path / "events.jsonl")[0] if event["kind"] == "metrics"]
    assert [entry["threads"] for entry in metrics] == [1.0] * 5


def test_a_refusal_ends_with_2_and_an_error_file_and_can_be_tried_again(tmp_path):
    run = make_run(tmp_path, "refused")
    code, _, err = finish(run)
    assert code == 2
    assert err == "error: 3 usable ratings, 20 are needed\n"
    error = {"error": "DatasetError", "message": "3 usable ratings, 20 are needed"}
    assert json.loads((run.path / "error.json").read_text()) == error
    request = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**request, "meta": {}}))
    assert finish(run)[0] == 0
    assert not (run.path / "error.json").exists()


def test_a_divergence_ends_with_3(tmp_path):
    run = make_run(tmp_path, "diverged")
    assert finish(run)[0] == 3
    assert json.loads((run.path / "error.json").read_text())["error"] == "TrainingDiverged"
    state = run.load_state()
    assert state is not None
    assert state.step == 2  # the last good state stands


def test_a_malformed_request_is_refused_in_the_run_directory(tmp_path):
    run = make_run(tmp_path)
    (run.path / "run.json").write_text('{"kind":"reward","store":"x","config":{"epochs":0}}')
    code, _, err = finish(run)
    assert code == 2
    assert "Traceback" not in err
    assert "epochs = 0" in json.loads((run.path / "error.json").read_text())["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": [1]}, "config = [1] is not permitted: an object or null"),
        ({"feedback": 5}, "feedback = 5 is not permitted: text or null"),
        ({"prompts": ["a"]}, "prompts = ['a'] is not permitted"),
        ({"store": 5}, "store = 5 is not permitted: text"),
        ({"store": "run.json"}, "store = 'run.json' is not permitted: a folder"),
        ({"model": "large"}, "model = 'large' is not permitted"),
        ({"inputs": ["a"]}, "inputs = ['a'] is not permitted"),
        ({"inputs": {"policy": 5}}, "policy = 5 is not permitted"),
        ({"inputs": {"text": [5]}}, "text = 5 is not permitted"),
        ({"meta": 1}, "meta = 1 is not permitted"),
    ],
)
def test_an_entry_of_the_wrong_type_is_refused_by_name(tmp_path, monkeypatch, capsys, change, message):
    run = make_run(tmp_path)
    monkeypatch.chdir(run.path)
    request = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps({**request, **change}))
    assert cli.main(["reward", "--run-dir", str(run.path)]) == 2
    assert message in capsys.readouterr().err
    assert message in json.loads((run.path / "error.json").read_text())["message"]


def test_a_run_of_another_kind_is_refused(tmp_path):
    run = RunDirectory.create(tmp_path / "run", kind="policy", config=PolicyConfig(), store=tmp_path)
    code, _, err = finish(run)
    assert code == 2
    assert "kind = 'policy'" in err


def test_sigterm_ends_with_75_and_the_next_start_goes_on(tmp_path):
    run = make_run(tmp_path, "slow")
    child = start(run)
    while not run.saved_states():
        assert child.poll() is None
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=20) == 75
    assert run.result is None
    assert finish(run)[0] == 0
    assert run.result is not None
    assert run.result["metrics"] == {"total": 15.0}
    events = read_events(run.path / "events.jsonl")[0]
    assert [event["step"] for event in events if event["kind"] == "progress"] == [1, 2, 3, 4, 5]


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    run = make_run(tmp_path, "killed")
    assert finish(run)[0] == -signal.SIGKILL
    assert finish(run)[0] == 0
    assert run.result is not None
    assert run.result["metrics"] == {"total": 15.0}


def test_a_run_whose_supervisor_is_gone_saves_and_leaves(tmp_path):
    run = make_run(tmp_path, "slow")
    reading, writing = os.pipe()
    child = start(run, "--control-fd", str(reading), pass_fds=[reading])
    os.close(reading)
    while not run.saved_states():
        assert child.poll() is None
    os.close(writing)
    assert child.wait(timeout=20) == 75
    assert run.load_state() is not None
    child.communicate()


# From text to responses


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    """A policy that was trained from a shell for three steps."""
    folder = tmp_path_factory.mktemp("pretrained")
    reviews = [f"Review {number}: the film was {'good' if number % 2 else 'bad'} and long." for number in range(60)]
    (folder / "reviews.txt").write_text("\n\n".join(reviews))
    arguments = ["--run-dir", str(folder / "run"), "--store", str(folder / "store"), "--vocab-size", "280"]
    arguments += ["--text", str(folder / "reviews.txt"), "--dim", "16"]
    arguments += ["--depth", "1", "--heads", "2", "--dim-head", "8", "--steps", "3", "--warmup-steps", "1"]
    arguments += ["--sequence-length", "16", "--batch-size", "4", "--threads", "1"]
    done = subprocess.run([*COMMAND, "pretrain", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Path(json.loads(done.stdout)["outputs"][0]["path"])


def drawn(capsys, *arguments: str) -> list[dict]:
    assert cli.main(["sample", *arguments, "--json", "--threads", "1", "--max-new-tokens", "6"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_policy_trained_from_a_shell_can_be_sampled_from_it(policy, capsys):
    first = drawn(capsys, "--policy", str(policy), "--prompt", "Review", "--samples", "3", "--seed", "5")
    assert [line["seed"] for line in first] == [5, 6, 7]
    assert all(line["prompt"] == "Review" and line["log_prob"] < 0 for line in first)
    assert all(1 <= len(line["tokens"]) <= 6 for line in first)
    again = drawn(capsys, "--policy", str(policy), "--prompt", "Review", "--samples", "1", "--seed", "6")
    assert again[0]["tokens"] == first[1]["tokens"]


def test_many_samples_through_few_rows_come_in_the_order_of_their_seeds(policy, capsys, monkeypatch):
    whole = drawn(capsys, "--policy", str(policy), "--prompt", "Review", "--samples", "9")
    monkeypatch.setattr(answers, "ROWS_AT_ONCE", 4)
    assert [
        line["tokens"] for line in drawn(capsys, "--policy", str(policy), "--prompt", "Review", "--samples", "9")
    ] == [line["tokens"] for line in whole]


def test_the_prompts_of_a_file_are_sampled_each(policy, capsys, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt_id":"a","text":"The film"}\n{"prompt_id":"b","text":"It was a long"}\n')
    lines = drawn(capsys, "--policy", str(policy), "--prompts", str(path), "--samples", "2")
    assert [(line["prompt_id"], line["seed"]) for line in lines] == [("a", 0), ("a", 1), ("b", 2), ("b", 3)]
    path.write_text("not json\n")
    assert cli.main(["sample", "--policy", str(policy), "--prompts", str(path)]) == 2
    assert "prompts.jsonl, line 1" in capsys.readouterr().err


def test_responses_read_as_text_without_json(policy, capsys):
    assert cli.main(["sample", "--policy", str(policy), "--prompt", "Review", "--threads", "1"]) == 0
    assert capsys.readouterr().out.startswith("[0] Review")


def test_a_policy_is_fine_tuned_from_a_shell(policy, tmp_path):
    lines = [json.dumps({"prompt": f"Review {n}:", "response": "the film was good"}) for n in range(40)]
    (tmp_path / "shown.jsonl").write_text("\n".join(lines))
    options = ("--policy", str(policy), "--demonstrations", str(tmp_path / "shown.jsonl"), "--threads", "1")
    ended = trained("sft", tmp_path / "run", *options, "--store", str(tmp_path / "store"), "--epochs", "1")
    assert ended.returncode == 0, ended.stderr
    output = json.loads(ended.stdout)["outputs"][0]
    assert load_policy(output["path"])[2]["meta"]["parent"] == policy.name
    assert metric_names(tmp_path / "run") <= set(METRICS["sft"])
    lines = ended.stderr.splitlines()
    assert any(
        re.fullmatch(r"\d\d:\d\d:\d\d train 3/3  loss \d\.\d{3}  validation .* tokens/s.*", line) for line in lines
    ), lines
    assert any("sample after step 3: Review" in line for line in lines)


def test_the_settings_of_sampling_may_stand_in_a_file(policy, capsys, tmp_path):
    (tmp_path / "sampling.yaml").write_text(f"policy: {policy}\nprompt: Review\nsamples: 2\nmax_new_tokens: 3\n")
    assert cli.main(["sample", "--config", str(tmp_path / "sampling.yaml"), "--json", "--threads", "1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    assert all(len(line["tokens"]) <= 3 for line in lines)


def trained(kind: str, folder: Path, *arguments: str, failpoint: str = "") -> subprocess.CompletedProcess:
    options = ["--run-dir", str(folder), *arguments]
    environment = {**os.environ, "STEERSMAN_FAILPOINT": failpoint}
    return subprocess.run(
        [*COMMAND, kind, *options], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )


RATING = {"kind": "score", "prompt_id": "a", "prompt_tokens": [1, 5], "response_tokens": [7, 2], "score": 3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({**RATING, "response_tokens": [7.5]}).encode(), "line 1: rating '': token 7.5 is not a whole"),
        (json.dumps({**RATING, "score": True}).encode(), "line 1: rating '': score True is not one of 1 to 5"),
        (json.dumps({**RATING, "prompt_id": [1]}).encode(), "line 1: rating '': rating_id and prompt_id must be text"),
        (json.dumps(RATING).encode() + b"\n\xff\n", "feedback.jsonl, line 2: no UTF-8"),
    ],
)
def test_feedback_that_is_malformed_ends_a_run_with_2_and_an_error_file(policy, tmp_path, content, message):
    (tmp_path / "feedback.jsonl").write_bytes(content)
    arguments = ["--policy", str(policy), "--feedback", str(tmp_path / "feedback.jsonl"), "--threads", "1"]
    refused(trained("reward", tmp_path / "run", *arguments), tmp_path / "run", message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vocab-size", "100"], "vocab_size = 100 is not permitted: at least 259"),
        (["--tokenizer", "broken.json"], "broken.json' is not permitted: a tokenizer.json of this library"),
    ],
)
def test_a_vocabulary_that_cannot_be_is_refused_before_anything_is_made(tmp_path, arguments, message):
    (tmp_path / "text.txt").write_text("\n\n".join(f"Review {number} of a film" for number in range(60)))
    (tmp_path / "broken.json").write_text("{")
    placed = [str(tmp_path / argument) if argument.endswith(".json") else argument for argument in arguments]
    ended = trained("pretrain", tmp_path / "run", "--text", str(tmp_path / "text.txt"), "--threads", "1", *placed)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()


def refused(ended: subprocess.CompletedProcess, folder: Path, message: str) -> None:
    assert ended.returncode == 2, ended.stderr
    assert "Traceback" not in ended.stderr
    assert message in json.loads((folder / "error.json").read_text())["message"]


def metric_names(run: Path) -> set[str]:
    events = read_events(run / "events.jsonl")[0]
    return {name for event in events if event["kind"] == "metrics" for name in event["metrics"]}


def test_the_loop_closes_from_a_shell_and_a_run_killed_twice_leaves_the_one_checkpoint(policy, tmp_path):
    palm, tokenizer, _ = load_policy(policy)
    prompts = [Prompt(f"p{number}", f"Review {number}: the film") for number in range(24)]
    write_prompts(tmp_path / "prompts.jsonl", prompts)
    encoded = [encode_prompt(tokenizer, prompt.text, 12) for prompt in prompts]
    sampling = SamplingConfig(max_new_tokens=6)
    drawn = generate_batch(
        palm, encoded, sampling=sampling, end_id=tokenizer.end, seeds=range(48), samples_per_prompt=2
    )
    records: list[Feedback] = []
    for number, (prompt, tokens) in enumerate(zip(prompts, encoded, strict=True)):
        first, second = (tuple(generation.tokens) for generation in drawn[2 * number : 2 * number + 2])
        chosen, rejected = (first, second) if len(first) >= len(second) else (second, first)
        records.append(Comparison(prompt.prompt_id, tuple(tokens), chosen, rejected))
        records.append(ScoredResponse(prompt.prompt_id, tuple(tokens), first, 2 + number % 3))
    write_feedback(tmp_path / "feedback.jsonl", records)

    common = ("--policy", str(policy), "--store", str(tmp_path / "store"), "--threads", "1")
    reward = trained("reward", tmp_path / "reward", *common, "--feedback", str(tmp_path / "feedback.jsonl"))
    assert reward.returncode == 0, reward.stderr
    reward_model = json.loads(reward.stdout)["outputs"][0]
    options = (*common, "--reward-model", reward_model["path"], "--prompts", str(tmp_path / "prompts.jsonl"))
    options += ("--updates", "3", "--rollout-batch-size", "8", "--minibatch-size", "4", "--save-interval", "1")
    options += ("--max-new-tokens", "6", "--max-prompt-tokens", "12")
    straight = trained("policy", tmp_path / "straight", *options)
    assert straight.returncode == 0, straight.stderr

    killed = trained("policy", tmp_path / "killed", *options, failpoint="before-rename:2")
    assert killed.returncode == -signal.SIGKILL
    killed = trained("policy", tmp_path / "killed", failpoint="after-blob")
    assert killed.returncode == -signal.SIGKILL
    resumed = trained("policy", tmp_path / "killed")
    assert json.loads(resumed.stdout)["outputs"][0]["id"] == json.loads(straight.stdout)["outputs"][0]["id"]
    assert len(list((tmp_path / "store").iterdir())) == 2  # the reward model and one policy

    improved, _, manifest = load_policy(json.loads(straight.stdout)["outputs"][0]["path"])
    assert manifest["meta"]["parent"] == policy.name
    assert manifest["meta"]["reward_model"] == reward_model["id"]
    assert any(not torch.equal(a, b) for a, b in zip(improved.parameters(), palm.parameters(), strict=True))
    for kind, folder in (("reward", "reward"), ("policy", "straight")):
        assert metric_names(tmp_path / folder) <= set(METRICS[kind])
    assert metric_names(tmp_path / "straight") == set(METRICS["policy"])
    assert metric_names(policy.parents[1] / "run") <= set(METRICS["pretrain"])

    options = ("--policy", json.loads(straight.stdout)["outputs"][0]["path"], "--parent", str(policy), "--threads", "1")
    options += ("--reward-model", reward_model["path"], "--held-out", str(tmp_path / "prompts.jsonl"))
    evaluated = trained("evaluate", tmp_path / "evaluated", *options, "--prompts", "5", "--max-new-tokens", "6")
    assert evaluated.returncode == 0, evaluated.stderr
    report = json.loads(evaluated.stdout)["report"]
    assert (report["prompts"], set(report["kl"])) == (5, {"parent", "base"})
    assert report["kl"]["base"] == report["kl"]["parent"]
    assert metric_names(tmp_path / "evaluated") == set(METRICS["evaluate"])


def test_a_process_that_a_launcher_started_starts_no_others(tmp_path, monkeypatch):
    run = make_run(tmp_path, processes=2)
    begun = []
    monkeypatch.setattr(cli, "launch", lambda *_: begun.append("several") or 0)
    monkeypatch.setattr(cli, "train", lambda *_, **__: begun.append("this one") or 0)
    words = ["reward", "--run-dir", str(run.path)]
    assert cli.main(words) == 0
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")  # torchrun --nproc_per_node 1
    assert cli.main(words) == 0
    assert begun == ["several", "this one"]
