import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from rlhf_core.checkpoint import load_policy
from rlhf_core.config import ModelConfig, PretrainConfig
from rlhf_core.errors import ConfigError, DatasetError, TrainingDiverged
from rlhf_core.modules.palm import PaLM
from rlhf_core.records import Prompt, write_prompts
from rlhf_core.text.tokenizer import Tokenizer
from rlhf_core.training import pretrain
from rlhf_core.training.next_token import learning_rate
from rlhf_core.training.run_directory import RunDirectory, RunStopped, read_events
from tests.core.run_steps import metrics_of, stop_after

SHAPE = ModelConfig(num_tokens=280, dim=16, depth=2, heads=2, dim_head=8)
SETTINGS = {
    "steps": 12,
    "batch_size": 4,
    "sequence_length": 16,
    "warmup_steps": 3,
    "validation_interval": 4,
    "save_interval": 5,
    "threads": 1,
}


def write_text(path: Path, documents: int = 60) -> Path:
    words = random.Random(0)
    texts = [" ".join(words.choices(["good", "bad", "film", "plot", "the"], k=12)) + f" {i}" for i in range(documents)]
    path.write_text("\n\n".join(texts))
    return path


def make_run(folder: Path, **changes) -> RunDirectory:
    folder.mkdir(exist_ok=True)
    text = write_text(folder / "text.txt")
    config = PretrainConfig(**{**SETTINGS, **changes})
    return RunDirectory.create(
        folder / "run", kind="pretrain", config=config, store=folder / "store", text=[text], model=SHAPE
    )


def weights_of(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_policy(run.result["outputs"][0]["path"])[0].state_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunDirectory:
    run = make_run(tmp_path_factory.mktemp("whole"))
    pretrain.train_pretrain(run)
    return run


def test_a_run_leaves_a_policy_that_learnt_something(whole):
    metrics = whole.result["metrics"]
    untrained = math.log(280)
    assert metrics["validation_loss"] < untrained - 0.3
    palm, tokenizer, manifest = load_policy(whole.result["outputs"][0]["path"])
    assert palm.config == SHAPE
    assert tokenizer.vocab_size <= 280
    assert manifest["meta"]["tokens_seen"] == 12 * 4 * 16
    assert [step for step, _ in manifest["meta"]["curve"]] == [4, 8, 12]


def test_the_metrics_are_those_that_the_pages_chart(whole):
    log = metrics_of(whole)
    assert set(log) == {1, 4, 8, 10, 12}
    assert set(log[10]) == {"loss", "learning_rate", "grad_norm"}
    assert set(log[12]) == {"loss", "learning_rate", "grad_norm", "validation_loss", "bits_per_character"}


def test_a_run_stopped_and_resumed_twice_equals_one_that_was_not(whole, tmp_path):
    run = make_run(tmp_path)
    for step in (3, 8):  # 3 is no multiple of the save interval: the stop saves
        run = RunDirectory(run.path)
        stop_after(run, step)
        with pytest.raises(RunStopped):
            pretrain.train_pretrain(run)
    torch.manual_seed(99)  # what another process would have
    run = RunDirectory(run.path)
    pretrain.train_pretrain(run)
    assert metrics_of(run)[12] == metrics_of(whole)[12]
    expected = weights_of(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(run).items())


def test_the_same_seed_gives_the_same_run_and_another_seed_another(whole, tmp_path):
    again, other = make_run(tmp_path / "again"), make_run(tmp_path / "other", seed=1)
    pretrain.train_pretrain(again)
    pretrain.train_pretrain(other)
    assert metrics_of(again) == metrics_of(whole)
    assert again.result["outputs"][0]["id"] == whole.result["outputs"][0]["id"]
    assert metrics_of(other)[12]["loss"] != metrics_of(whole)[12]["loss"]


def test_validation_leaves_the_training_alone(whole, tmp_path):
    run = make_run(tmp_path, validation_interval=1)
    pretrain.train_pretrain(run)
    expected = weights_of(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights_of(run).items())


def test_samples_are_drawn_at_validations_from_nothing_or_from_the_prompts_given(whole, tmp_path):
    def samples(run: RunDirectory) -> list[tuple[int, str]]:
        found = read_events(run.path / "events.jsonl")[0]
        return [(event["step"], event["prompt"]) for event in found if event["kind"] == "sample"]

    assert samples(whole) == [(step, "") for step in (4, 4, 8, 8, 12, 12)]
    write_prompts(tmp_path / "asked.jsonl", [Prompt("a", "the good film ")])
    text = write_text(tmp_path / "text.txt")
    config = PretrainConfig(**{**SETTINGS, "samples": 1})
    run = RunDirectory.create(
        tmp_path / "run",
        kind="pretrain",
        config=config,
        store=tmp_path / "store",
        text=[text],
        model=SHAPE,
        prompts=tmp_path / "asked.jsonl",
    )
    pretrain.train_pretrain(run)
    assert samples(run) == [(4, "the good film"), (8, "the good film"), (12, "the good film")]
    assert run.result["outputs"][0]["path"] != whole.result["outputs"][0]["path"]  # its settings differ,
    assert metrics_of(run) == metrics_of(whole)  # what it learned does not


def test_data_that_was_altered_is_refused_when_a_run_goes_on(tmp_path):
    run = make_run(tmp_path)
    stop_after(run, 5)
    with pytest.raises(RunStopped):
        pretrain.train_pretrain(run)
    tokens = run.path / "data" / "train.tokens"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    with pytest.raises(DatasetError, match=r"train.tokens is missing, cut short or altered; remove .*data"):
        pretrain.train_pretrain(RunDirectory(run.path))


def test_a_stop_while_the_text_is_read_leaves_at_once_and_the_next_start_reads_it_again(whole, tmp_path):
    run = make_run(tmp_path)
    run.stop_event.set()
    with pytest.raises(RunStopped, match="before the next step"):
        pretrain.train_pretrain(run)
    run = RunDirectory(run.path)
    pretrain.train_pretrain(run)
    assert run.result["outputs"][0]["id"] == whole.result["outputs"][0]["id"]


def test_steps_may_be_changed_before_the_rate_falls(whole, tmp_path):
    run = make_run(tmp_path, steps=100)
    stop_after(run, 5)
    with pytest.raises(RunStopped):
        pretrain.train_pretrain(run)
    request = json.loads((run.path / "run.json").read_text())
    request["config"]["steps"] = 12
    (run.path / "run.json").write_text(json.dumps(request))
    run = RunDirectory(run.path)
    pretrain.train_pretrain(run)
    assert metrics_of(run)[12] == metrics_of(whole)[12]  # 12 steps decay from step 8 on


def test_fewer_steps_than_were_done_count_the_tokens_that_were_seen(tmp_path):
    run = make_run(tmp_path)
    stop_after(run, 10)
    with pytest.raises(RunStopped):
        pretrain.train_pretrain(run)
    request = json.loads((run.path / "run.json").read_text())
    request["config"]["steps"] = 6
    (run.path / "run.json").write_text(json.dumps(request))
    run = RunDirectory(run.path)
    pretrain.train_pretrain(run)
    assert run.result is not None
    assert load_policy(run.result["outputs"][0]["path"])[2]["meta"]["tokens_seen"] == 10 * 4 * 16


def not_a_number(loss):
    return loss * math.nan


def infinite_gradient(loss):
    """The same loss; its gradient overflows on the way back."""
    loss.register_hook(lambda gradient: gradient * math.inf)
    return loss


@pytest.mark.parametrize("spoil", [not_a_number, infinite_gradient])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_run_rule_42(tmp_path, monkeypatch, spoil):
    run = make_run(tmp_path, save_interval=1)
    whole, steps = pretrain.next_token_loss, []

    def spoiled(palm, batch):
        steps.append(palm)
        loss = whole(palm, batch)
        return spoil(loss) if len(steps) == 3 else loss

    monkeypatch.setattr(pretrain, "next_token_loss", spoiled)
    with pytest.raises(TrainingDiverged, match="step 3"):
        pretrain.train_pretrain(run)
    assert run.result is None
    state = run.load_state()
    assert state is not None
    assert state.step == 2
    assert all(bool(torch.isfinite(parameter).all()) for parameter in steps[0].parameters())


def test_the_gradient_is_clipped_to_the_setting_rule_31(tmp_path, monkeypatch):
    found = {}

    def plain_descent(palm, config):  # moves by the very gradient it is given; Adam's steps would hide its length
        found["weights"] = list(palm.parameters())
        found["before"] = [weight.detach().clone() for weight in found["weights"]]
        return torch.optim.SGD(found["weights"], lr=1.0)

    monkeypatch.setattr(pretrain, "make_optimizer", plain_descent)
    settings = dict(steps=1, warmup_steps=0, decay_fraction=0.0, learning_rate=1.0, max_grad_norm=0.01)
    run = make_run(tmp_path, **settings, final_learning_rate_fraction=1.0)
    pretrain.train_pretrain(run)
    moved = [(new.detach() - old).flatten() for old, new in zip(found["before"], found["weights"], strict=True)]
    assert float(torch.cat(moved).norm()) == pytest.approx(0.01, rel=1e-3)


def test_too_little_text_is_refused(tmp_path):
    run = make_run(tmp_path, batch_size=400)
    with pytest.raises(DatasetError, match="less than a batch"):
        pretrain.train_pretrain(run)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    text = write_text(tmp_path / "text.txt")
    Tokenizer.train([text.read_text()], 300).save(tmp_path / "tokenizer.json")
    run = RunDirectory.create(
        tmp_path / "run",
        kind="pretrain",
        config=PretrainConfig(**SETTINGS),
        store=tmp_path / "store",
        text=[text],
        tokenizer=tmp_path / "tokenizer.json",
        model=ModelConfig(num_tokens=270, dim=16, depth=1, heads=1, dim_head=8),
    )
    with pytest.raises(ConfigError, match="num_tokens = 270"):
        pretrain.train_pretrain(run)


def test_the_learning_rate_rises_stays_and_falls():
    config = PretrainConfig(
        steps=10, learning_rate=0.1, warmup_steps=4, decay_fraction=0.4, final_learning_rate_fraction=0.5
    )
    found = [learning_rate(config, step, 10) for step in range(1, 11)]
    # Up by quarters; from step 6 on, four steps down to a half.
    expected = [0.025, 0.05, 0.075, 0.1, 0.1, 0.1, 0.0875, 0.075, 0.0625, 0.05]
    assert found == pytest.approx(expected)


def test_only_matrices_are_decayed():
    palm = PaLM.from_config(SHAPE)
    decayed, plain = pretrain.make_optimizer(palm, PretrainConfig()).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2}
    assert len(decayed["params"]) == 1 + 2 * 3  # the embedding, and three matrices a block
    assert len(plain["params"]) == 1 + 2 * 2  # the last norm, and norm and gain of each block


def test_an_epoch_visits_every_window_once():
    tokens = np.arange(103)
    windows = pretrain.Windows(tokens, length=10, batch_size=3, seed=0)
    assert (windows.count, windows.steps_an_epoch) == (9, 3)
    epoch = torch.cat([windows.batch(step) for step in (1, 2, 3)])
    assert epoch.shape == (9, 11)
    starts = sorted(epoch[:, 0].tolist())
    assert [later - earlier for earlier, later in zip(starts, starts[1:], strict=False)] == [10] * 8
    assert (epoch == epoch[:, :1] + torch.arange(11)).all()
    assert windows.batch(4).tolist() != windows.batch(1).tolist()  # another epoch, another order
    assert windows.batch(2).tolist() == epoch[3:6].tolist()  # and back, as resuming does


def test_validation_counts_each_token_once_whatever_the_stride():
    palm = PaLM.from_config(SHAPE).eval()
    tokens = np.random.default_rng(0).integers(0, 280, 45)
    whole = palm(torch.from_numpy(tokens)[None], return_loss=True).item()
    assert pretrain.validation_loss(palm, tokens, window=64, stride=32) == pytest.approx(whole, rel=1e-5)

    per_token = []  # by hand: windows of 16 that move by 4, the last 4 of each count, all 16 of the first
    for start in range(0, 44 - 12, 4):
        window = torch.from_numpy(tokens[start : start + 17])[None]
        log_probs = palm(window[:, :-1]).log_softmax(-1)[0]
        nats = -log_probs.gather(1, window[0, 1:, None])[:, 0]
        per_token += nats[0 if start == 0 else 12 :].tolist()
    assert len(per_token) == 44
    found = pretrain.validation_loss(palm, tokens, window=16, stride=4, rows=3)
    assert found == pytest.approx(sum(per_token) / 44, rel=1e-5)


def test_a_uniform_model_costs_the_logarithm_of_its_vocabulary():
    palm = PaLM.from_config(SHAPE)
    torch.nn.init.zeros_(palm.token_emb.weight)
    tokens = np.random.default_rng(0).integers(0, 280, 101)
    found = pretrain.evaluate(palm, tokens, characters=200, window=16)
    assert found["validation_loss"] == pytest.approx(math.log(280))
    assert found["bits_per_character"] == pytest.approx(math.log2(280) * 100 / 200)
