"""Which process of a run is missing, told by those that wait for it."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_core import cli

ROOT = Path(__file__).parents[2]
# The second stands still, the third works at something else, the fourth leaves with a word; the first waits for all.
PART = """
import os, signal, sys, threading
from rlhf_core.distributed import open_group
from rlhf_core.errors import ProcessLost
group = open_group(answer_seconds=2)
group.sums(1.0)
print("pid", os.getpid(), flush=True)
if group.rank == 1:
    os.kill(os.getpid(), signal.SIGSTOP)
if group.rank == 2:
    threading.Event().wait(60)
if group.rank == 3:
    group.leave_word("ran out of memory")
    threading.Event().wait(60)
try:
    group.sums(1.0)
except ProcessLost as error:
    print(error)
group.roll_call.notes = lambda notes=group.roll_call.notes: {rank: x for rank, x in notes().items() if rank != 3}
print(group.roll_call.missing())
group.leave(0)
"""


@pytest.fixture(scope="module")
def parts():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    begun = []
    for rank in range(4):
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "4", "RANK": str(rank)}
        ours = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "4"}
        command = [sys.executable, "-c", PART]
        begun.append(
            subprocess.Popen(command, env={**os.environ, **ours, **meet}, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        )
    yield begun
    for process in begun:
        process.kill()
        process.communicate()


def test_who_waits_names_who_is_missing(parts):
    assert [part.stdout.readline().split()[0] for part in parts] == ["pid"] * 4
    told, _ = parts[0].communicate(timeout=60)
    host = socket.gethostname()
    assert "process 1 of 4 has lost another one, which ended or did not answer for 2 s: " in told
    assert f"process 4 (pid {parts[3].pid} on {host}) ran out of memory" in told
    assert f"process 2 (pid {parts[1].pid} on {host}) has ended without a word, as one that the kernel" in told
    assert f"process 3 (pid {parts[2].pid} on {host}) still runs and is 1 exchanges behind" in told


def test_the_time_to_answer_is_an_option_with_a_range(capsys):
    assert cli.main(["sft", "--run-dir", "none", "--answer-seconds", "0"]) == 2
    assert "answer_seconds = 0 is not permitted: a whole number from 1 to 86400" in capsys.readouterr().err
