"""How a run uses the machine."""

import ctypes
import subprocess
import sys

import pytest
import torch

from rlhf_core.config import RewardConfig
from rlhf_core.training import device
from rlhf_core.training.device import take_gpu, use_device
from rlhf_core.training.run_directory import RunDirectory, RunStopped, read_events

PAGES_OF_A_STEP = 64 * 2**20 // 4096  # that the test's steps ask for and free, in pieces below glibc's threshold
FIVE_STEPS = """
import torch
from rlhf_core.training.device import keep_freed_memory

def pages_given():
    with open("/proc/self/stat") as file:
        return int(file.read().rpartition(")")[2].split()[7])

def step():
    assert len([torch.ones(2**22) for _ in range(4)]) == 4

keep_freed_memory()
step()
before = pages_given()
for _ in range(5):
    step()
print(pages_given() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc has mallopt")
def test_freed_memory_stays_with_the_process():
    told = subprocess.run([sys.executable, "-c", FIVE_STEPS], capture_output=True, text=True, check=True, timeout=60)
    assert int(told.stdout) < PAGES_OF_A_STEP  # given anew each time, it would be five times as many


def test_threads_are_set_where_they_are_asked_for_and_else_left():
    threads = torch.get_num_threads()
    try:
        assert use_device(1).type == ("cuda" if torch.cuda.is_available() else "cpu")
        assert torch.get_num_threads() == 1
        use_device(0)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_one_run_at_a_time_trains_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(device, "GPU_WAIT_SECONDS", 0.01)
    first, second = (
        RunDirectory.create(tmp_path / name, kind="reward", config=RewardConfig(), store=tmp_path)
        for name in ("first", "second")
    )
    take_gpu(first, "GPU-1")
    take_gpu(second, "GPU-2")
    second.stop_event.set()
    with pytest.raises(RunStopped):
        take_gpu(second, "GPU-1")  # the first one's
    assert [event["phase"] for event in read_events(second.path / "events.jsonl")[0]] == ["wait for the GPU"]
    first.release()
    take_gpu(second, "GPU-1")
    second.release()
