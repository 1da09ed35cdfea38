"""How a run uses the machine."""

import ctypes
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from rlhf_core.config import RewardConfig
from rlhf_core.distributed import Group
from rlhf_core.errors import ConfigError
from rlhf_core.threads import use_threads
from rlhf_core.training import device
from rlhf_core.training.device import lock_folder, take_gpu, use_device
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
        use_threads(6, processes=2)
        assert torch.get_num_threads() == 3
        use_threads(1, processes=2)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_the_processes_of_a_run_on_one_machine_share_its_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "uses_cuda", lambda: False)
    run = RunDirectory.create(tmp_path / "run", kind="reward", config=RewardConfig(threads=6), store=tmp_path)
    run.group = Group(0, 4, 0, 2)
    threads = torch.get_num_threads()
    try:
        use_device(6, run)
        assert torch.get_num_threads() == 3
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
    told, waited = sorted(read_events(second.path / "events.jsonl")[0], key=lambda event: event["kind"])
    assert waited["phase"] == "wait for the GPU"
    assert told["message"] == f"waits for GPU GPU-1, on which process {os.getpid()} in {first.path} trains"
    first.release()
    take_gpu(second, "GPU-1")
    second.release()


class Pair(Group):
    """One of two processes, here threads, which exchange bytes over a barrier."""

    def __init__(self, rank, barrier, table):
        super().__init__(rank, 2, rank, 2)
        self.barrier, self.table = barrier, table

    def gather(self, data):
        self.table[self.rank] = data
        self.barrier.wait(20)
        found = list(self.table)
        self.barrier.wait(20)
        return found

    def any(self, *flags):
        return [max(column) for column in zip(*self.gather_rows([list(map(bool, flags))]), strict=True)]


def test_two_runs_that_want_the_same_gpus_in_another_order_get_them_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(device, "GPU_WAIT_SECONDS", 0.01)
    had = []

    def take_part(name, rank, gpu, group):
        run = RunDirectory(tmp_path / name, group)
        take_gpu(run, gpu)
        had.append(name)
        group.barrier.wait(20)
        run.release()

    threads = []
    for name, gpus in {"first": ("GPU-1", "GPU-2"), "second": ("GPU-2", "GPU-1")}.items():
        RunDirectory.create(tmp_path / name, kind="reward", config=RewardConfig(), store=tmp_path)
        barrier, table = threading.Barrier(2), [b"", b""]
        for rank, gpu in enumerate(gpus):
            group = Pair(rank, barrier, table)
            threads.append(threading.Thread(target=take_part, args=(name, rank, gpu, group), daemon=True))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert had in (["first", "first", "second", "second"], ["second", "second", "first", "first"])


def test_two_processes_of_a_run_on_one_gpu_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    run = RunDirectory.create(tmp_path / "run", kind="reward", config=RewardConfig(), store=tmp_path)

    class Twins(Group):
        def gather(self, data):
            return [data, data]

    run.group = Twins(0, 2, 0, 2)
    with pytest.raises(ConfigError, match="launcher's number = 2 is not permitted: one process for each GPU"):
        take_gpu(run, "GPU-1")


def test_locks_lie_where_nobody_else_may_put_anything(tmp_path, monkeypatch):
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    folder = lock_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    run = RunDirectory.create(tmp_path / "run", kind="reward", config=RewardConfig(), store=tmp_path)
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (folder / "gpu-GPU-1.lock").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        take_gpu(run, "GPU-1")
    assert precious.read_text() == "kept"
    folder.chmod(0o770)
    with pytest.raises(ConfigError, match="is yours alone"):
        lock_folder()


@pytest.mark.parametrize("put", [Path.touch, lambda place: place.symlink_to("nowhere")])
def test_what_is_no_folder_in_the_place_of_the_locks_is_named(tmp_path, monkeypatch, put):
    monkeypatch.setattr(device.tempfile, "gettempdir", lambda: str(tmp_path))
    put(tmp_path / f"steersman-{os.getuid()}")
    with pytest.raises(ConfigError, match="is yours alone"):
        lock_folder()
