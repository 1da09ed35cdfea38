"""Rollouts on disk: what was written comes back to the last bit, or not at all."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from rlhf_core.buffer import Rollout, RolloutBuffer, arrays_of, rollout_of


@pytest.fixture
def rollout():
    """Three responses of 3, 1 and 2 tokens; padding holds zeros."""
    mask = torch.tensor([[True, True, True], [True, False, False], [True, True, False]])
    generator = torch.Generator().manual_seed(0)

    def numbers():
        return torch.where(mask, torch.randn(3, 3, generator=generator), 0.0)

    return Rollout(
        prompts=[[1, 40], [1], [1, 41, 42, 43]],
        responses=[[50, 51, 2], [2], [60, 61]],
        mask=mask,
        log_probs=numbers(),
        reference_log_probs=numbers(),
        values=numbers(),
        scores=torch.tensor([0.1, -2.5, 1 / 3]),
        ended=torch.tensor([True, True, False]),
    )


@pytest.fixture
def lines():
    return []


@pytest.fixture
def buffer(tmp_path, lines):
    return RolloutBuffer(tmp_path / "rollouts", "digest", lines.append)


def assert_same(found, expected):
    for field in fields(Rollout):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other, field.name


def test_a_rollout_comes_back_to_the_last_bit(buffer, rollout):
    buffer.write(7, rollout)
    assert_same(buffer.read(7), rollout)
    assert buffer.read(6) is None


def test_what_stands_in_the_padding_is_not_kept(buffer, rollout):
    buffer.write(0, replace(rollout, values=torch.where(rollout.mask, rollout.values, 99.0)))
    assert_same(buffer.read(0), rollout)


def test_the_arrays_are_mapped_into_memory_and_take_16_bytes_a_token(buffer, rollout):
    buffer.write(0, rollout)
    tokens = np.load(buffer.folder(0) / "tokens.npy", mmap_mode="r", allow_pickle=False)
    assert isinstance(tokens, np.memmap)
    assert (tokens.shape, tokens.dtype.itemsize) == ((6,), 16)
    assert tokens["id"].tolist() == [50, 51, 2, 2, 60, 61]


@pytest.mark.parametrize("file", ["prompts.npy", "tokens.npy", "responses.npy", "manifest.json"])
def test_an_altered_rollout_is_passed_over_and_logged(buffer, rollout, lines, file):
    buffer.write(3, rollout)
    path = buffer.folder(3) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if file == "manifest.json" else -2] ^= 1
    path.write_bytes(bytes(data))
    assert buffer.read(3) is None
    assert ["round 4 is damaged" in line for line in lines] == [True]


def test_a_rollout_of_other_settings_counts_as_absent_and_gives_way(buffer, rollout, tmp_path, lines):
    buffer.write(0, rollout)
    other = RolloutBuffer(buffer.path, "another digest", lines.append)
    assert other.read(0) is None
    other.write(0, replace(rollout, scores=torch.zeros(3)))
    assert torch.equal(other.read(0).scores, torch.zeros(3))
    assert buffer.read(0) is None
    assert lines == []


def test_a_full_disk_is_logged_and_leaves_nothing(buffer, rollout, lines, monkeypatch):
    def full(path, data):
        path.write_bytes(data[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rlhf_core.durable.write_synced", full)
    buffer.write(0, rollout)
    assert "round 1 could not be kept: [Errno 28] No space left" in lines[0]
    assert list(buffer.path.iterdir()) == []
    assert buffer.read(0) is None


def test_rounds_that_no_state_needs_are_forgotten(buffer, rollout):
    for index in range(4):
        buffer.write(index, rollout)
    (buffer.path / ".writing-1-2").mkdir()
    buffer.forget(before=2)
    assert sorted(path.name for path in buffer.path.iterdir()) == ["00000002", "00000003"]


def test_arrays_that_do_not_go_together_are_refused(rollout):
    prompts, tokens, responses = arrays_of(rollout)
    with pytest.raises(ValueError, match="do not go together"):
        rollout_of(prompts, tokens[:-1], responses)
    with pytest.raises(ValueError, match="of the types"):
        rollout_of(prompts.astype(np.int64), tokens, responses)
