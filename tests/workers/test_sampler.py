"""The sampler: rows that ignore their neighbours, a bounded queue, deadlines, two policies at once, verified bytes."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlhf_core.config import SamplingConfig
from rlhf_core.errors import CheckpointError, QueueFull
from workers.sampler.address import sampler_address
from workers.sampler.client import SamplerClient, SamplerUnavailable, UnixConnection
from workers.sampler.engine import DeadlinePassed, Sampler, SamplerStopped
from workers.sampler.server import Door, SamplerBusy

SHORT = SamplingConfig(max_new_tokens=6, max_prompt_tokens=8)
WISHES = {"max_new_tokens": 6, "max_prompt_tokens": 8}


def test_a_row_depends_on_its_prompt_and_seed_and_not_on_its_neighbours(
    start_sampler, tmp_path, make_policy, tokenizer
):
    policy = make_policy(tmp_path)
    _, client = start_sampler(tmp_path)
    together = client.draw(policy.id, ["A film", "The actors", "A film"], [7, 8, 9], WISHES)
    alone = [client.draw(policy.id, [text], [seed], WISHES).samples[0] for text, seed in [("A film", 7), ("A film", 9)]]
    assert together.checkpoint == policy.id
    for shared, single in zip([together.samples[0], together.samples[2]], alone, strict=True):
        assert shared.tokens == single.tokens
        assert shared.log_prob == pytest.approx(single.log_prob)
    first = together.samples[0]
    assert first.prompt_tokens[0] == tokenizer.begin
    assert first.text == tokenizer.decode(first.tokens)
    assert first.finish_reason == ("end" if first.tokens[-1] == tokenizer.end else "length")
    assert first.log_prob < 0


def test_waiting_requests_are_drawn_in_one_batch(start_sampler, tmp_path, make_policy):
    policy = make_policy(tmp_path)
    sampler, client = start_sampler(tmp_path, window_seconds=0.5)
    sizes = []
    draw_batch = sampler.draw_batch

    def count(tickets):
        sizes.append(sum(ticket.rows for ticket in tickets))
        draw_batch(tickets)

    sampler.draw_batch = count
    client.draw(policy.id, ["x"], [0], WISHES)  # loads the policy
    threads = [
        threading.Thread(target=client.draw, args=(policy.id, ["x", "y"], [n, n + 100], WISHES)) for n in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sizes == [1, 10]


def test_a_full_queue_refuses_and_says_when_to_ask_again(tmp_path, make_policy):
    policy = make_policy(tmp_path)
    sampler = Sampler(tmp_path, capacity=4)  # nobody draws, so what comes in waits
    waiting = [
        threading.Thread(
            target=lambda: pytest.raises(
                (DeadlinePassed, SamplerStopped),
                sampler.draw,
                policy.id,
                ["a", "b"],
                [1, 2],
                SHORT,
                deadline_seconds=0.5,
            ),
            daemon=True,
        )
        for _ in range(2)
    ]
    for thread in waiting:
        thread.start()
    while sampler.health()["waiting"] < 4:
        time.sleep(0.01)
    with pytest.raises(QueueFull) as refused:
        sampler.draw(policy.id, ["c"], [3], SHORT, deadline_seconds=1)
    assert refused.value.retry_after_seconds >= 1
    sampler.stop()
    sampler.run()
    for thread in waiting:
        thread.join(10)


def test_a_refusal_crosses_the_socket_with_its_retry_after(start_sampler, tmp_path, make_policy):
    policy = make_policy(tmp_path)
    _, client = start_sampler(tmp_path, capacity=1)
    with pytest.raises(QueueFull) as refused:
        client.draw(policy.id, ["a", "b"], [1, 2], WISHES)
    assert refused.value.retry_after_seconds == 1.0
    connection = UnixConnection(client.address, 5)
    body = {
        "checkpoint": policy.id,
        "prompts": ["a", "b"],
        "seeds": [1, 2],
        "sampling": WISHES,
        "deadline_seconds": 5,
    }
    connection.request("POST", "/sample", json.dumps(body))
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Retry-After")) == (429, "1")
    connection.close()


def test_a_request_whose_deadline_passed_is_not_drawn(tmp_path, make_policy):
    policy = make_policy(tmp_path)
    sampler = Sampler(tmp_path)
    asking = threading.Thread(
        target=lambda: pytest.raises(DeadlinePassed, sampler.draw, policy.id, ["a"], [1], SHORT, 0.05)
    )
    asking.start()
    time.sleep(0.2)
    loop = threading.Thread(target=sampler.run)
    loop.start()
    asking.join(10)
    sampler.stop()
    loop.join(10)
    assert sampler.drawn == 0


def test_each_policy_asked_for_is_served_and_only_two_are_held(start_sampler, tmp_path, make_policy):
    policies = [make_policy(tmp_path, seed) for seed in range(3)]
    _, client = start_sampler(tmp_path)
    drawn = [client.draw(policy.id, ["A film"], [5], WISHES) for policy in policies]
    assert [one.checkpoint for one in drawn] == [policy.id for policy in policies]
    assert len({tuple(one.samples[0].tokens) for one in drawn}) > 1
    assert client.health()["policies"] == [policy.id for policy in policies[1:]]
    assert client.draw(policies[0].id, ["A film"], [5], WISHES).samples == drawn[0].samples


def test_an_altered_policy_is_refused_and_the_old_one_goes_on(start_sampler, tmp_path, make_policy):
    good, bad = make_policy(tmp_path, 0), make_policy(tmp_path, 1)
    weights = bad.path / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    _, client = start_sampler(tmp_path)
    client.draw(good.id, ["x"], [1], WISHES)
    with pytest.raises(CheckpointError, match="altered"):
        client.draw(bad.id, ["x"], [1], WISHES)
    with pytest.raises(CheckpointError, match="no checkpoint id"):
        client.draw("../" + good.id, ["x"], [1], WISHES)
    assert client.draw(good.id, ["x"], [1], WISHES).checkpoint == good.id


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": []},
        {"seeds": [-1]},
        {"seeds": [2**63]},
        {"seeds": [1, 2]},
        {"deadline_seconds": 0},
        {"deadline_seconds": "nan"},
        {"sampling": {"max_new_tokens": 10**9}},
        {"sampling": {"surprise": 1}},
        {"prompts": None},
    ],
)
def test_a_malformed_request_is_refused_with_its_reason(start_sampler, tmp_path, make_policy, change):
    policy = make_policy(tmp_path)
    _, client = start_sampler(tmp_path)
    request = {"checkpoint": policy.id, "prompts": ["x"], "seeds": [1], "sampling": WISHES, "deadline_seconds": 5}
    status, _, answer = client.ask("POST", "/sample", {**request, **change}, 10)
    assert status == 400
    assert answer["error"]


def test_a_request_that_is_too_long_or_no_json_is_refused(start_sampler, tmp_path):
    _, client = start_sampler(tmp_path)
    for length, body, status in [("9000000", b"", 413), ("0", b"", 413), ("3", b"{{{", 400), ("x", b"", 400)]:
        connection = UnixConnection(client.address, 5)
        connection.putrequest("POST", "/sample")
        connection.putheader("Content-Length", length)
        connection.endheaders(body)
        assert connection.getresponse().status == status
        connection.close()


@pytest.mark.parametrize("letter", ["a", "é", "語", '"', "\x01"])
def test_a_full_batch_of_the_longest_prompts_is_drawn(start_sampler, tmp_path, make_policy, letter):
    policy = make_policy(tmp_path)
    _, client = start_sampler(tmp_path)
    longest = letter * (32_768 // len(letter.encode()))
    drawn = client.draw(policy.id, [longest] * 32, list(range(32)), {"max_new_tokens": 1, "max_prompt_tokens": 8})
    assert [len(sample.tokens) for sample in drawn.samples] == [1] * 32


def test_who_sends_too_much_hears_so_and_the_next_is_served(start_sampler, tmp_path, make_policy):
    policy = make_policy(tmp_path)
    _, client = start_sampler(tmp_path)
    with pytest.raises(ValueError, match="a request has 1 to 6324224 bytes, not 20000"):
        client.draw(policy.id, ["a" * 20_000_000], [1], WISHES)
    assert client.draw(policy.id, ["a"], [1], WISHES).samples


def test_two_samplers_never_answer_at_one_address(start_sampler, tmp_path):
    _, client = start_sampler(tmp_path)
    with pytest.raises(SamplerBusy):
        Door(client.address, Sampler(tmp_path))
    left = tmp_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))
    Door(left, Sampler(tmp_path)).server_close()  # what a killed sampler left behind is taken over
    assert not left.exists()


def test_an_absent_sampler_is_named(tmp_path):
    with pytest.raises(SamplerUnavailable, match="does not answer"):
        SamplerClient(tmp_path / "none.sock").health()


def test_an_address_is_a_socket_or_a_port(tmp_path):
    assert sampler_address("", tmp_path) == tmp_path / "sampler.sock"
    assert sampler_address("http://127.0.0.1:8123", tmp_path) == ("127.0.0.1", 8123)
    assert sampler_address("unix:/run/s.sock", tmp_path) == Path("/run/s.sock")
    far = sampler_address("", tmp_path / ("x" * 120))
    assert isinstance(far, Path)
    assert len(str(far)) < 104
    with pytest.raises(ValueError, match="SAMPLER_ADDRESS"):
        sampler_address("ftp://x", tmp_path)


def test_the_process_answers_on_a_socket_of_its_owner_and_leaves_nothing(tmp_path, make_policy):
    data = tmp_path / "data"
    policy = make_policy(data / "checkpoints")
    environment = {**os.environ, "STEERSMAN_DATA": str(data), "SAMPLER_ADDRESS": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "manage.py", "run_sampler", "--device", "cpu"], env=environment)
    client = SamplerClient(data / "sampler.sock")
    try:
        end = time.monotonic() + 60
        while True:
            try:
                client.health()
                break
            except SamplerUnavailable:
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.1)
        assert (data / "sampler.sock").stat().st_mode & 0o077 == 0
        assert os.getpriority(os.PRIO_PROCESS, process.pid) >= 10
        assert client.draw(policy.id, ["A film"], [1], WISHES).checkpoint == policy.id
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not (data / "sampler.sock").exists()


def test_a_client_needs_no_torch():
    code = "import sys, workers.sampler.client, workers.apps; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_answer_that_is_no_http_is_named(tmp_path):
    path = tmp_path / "odd.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def talk():
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"hello\r\n\r\n")

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(SamplerUnavailable):
            SamplerClient(path).health()
        thread.join(5)
    assert issubclass(http.client.BadStatusLine, http.client.HTTPException)
