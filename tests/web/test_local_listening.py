"""The socket of the pages: whose a port is, what is said of one that can't be had, who serves on it."""

import errno
import io
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.conf import settings

from webapp.local.children import Child
from webapp.local.endpoints import free_port, wait_until
from webapp.local.listening import FIRST_PORT, explain, listen, page_answers, url_of, way_to
from webapp.local.process import LocalServiceError
from webapp.local.supervisor import Supervisor


@pytest.fixture
def supervisors(tmp_path):
    """Two studios' supervisors that listen and have started nothing yet."""
    made = [Supervisor(tmp_path / name, stream=io.StringIO()) for name in ("one", "other")]
    yield made
    for supervisor in made:
        supervisor.stop_children()
        if supervisor.listener is not None:
            supervisor.listener.close()


def is_refused(address):
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_two_studios_that_choose_before_either_serves_are_given_a_port_each(supervisors):
    with ThreadPoolExecutor() as pool:
        list(pool.map(Supervisor.take_port, supervisors))
    one, other = (supervisor.make_web().command for supervisor in supervisors)
    assert one != other
    assert supervisors[0].url != supervisors[1].url
    for supervisor in supervisors:
        port = supervisor.listener.getsockname()[1]
        assert supervisor.url == f"http://127.0.0.1:{port}"
        with pytest.raises(LocalServiceError, match=f"port {port} is in use: choose another with --port, or leave it"):
            listen("127.0.0.1", port)


def test_many_at_once_get_a_port_each():
    with ThreadPoolExecutor(12) as pool:
        listeners = list(pool.map(lambda _: listen("127.0.0.1"), range(12)))
    try:
        assert len({listener.getsockname() for listener in listeners}) == 12
        assert min(listener.getsockname()[1] for listener in listeners) >= FIRST_PORT
    finally:
        for listener in listeners:
            listener.close()


def test_whoever_listens_first_has_the_port():
    with socket.socket() as late:
        late.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        late.bind(("127.0.0.1", 0))  # which alone keeps nobody away: on Linux both may bind while neither listens
        try:
            ours = listen("127.0.0.1", late.getsockname()[1])
        except LocalServiceError:
            return  # on this system it does, and the port is refused as one in use
        with ours, pytest.raises(OSError, match=os.strerror(errno.EADDRINUSE)):
            late.listen()


def test_a_web_process_that_is_killed_comes_back_on_its_port_and_callers_wait_for_it(
    supervisors, process_environment, transactional_db
):
    supervisor = supervisors[0]
    supervisor.take_port()
    child = supervisor.make_web()
    child.environment |= {**process_environment, "SECRET_KEY": settings.SECRET_KEY}
    supervisor.children = [child]
    address = way_to(supervisor.listener)
    child.start()
    assert wait_until(lambda: child.answers(child), seconds=60), child.log.read_text()
    child.process.send_signal(signal.SIGKILL)
    child.process.wait(10)
    with socket.create_connection(address, timeout=60) as caller:  # while nobody serves
        caller.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        child.start()
        assert caller.recv(100).startswith(b"HTTP/1.1 200 OK\r\n"), child.log.read_text()
    assert page_answers(*address)
    supervisor.listener.close()
    assert page_answers(*address)  # by the web process, until it has ended
    supervisor.stop_children()
    assert child.process.returncode == -signal.SIGTERM  # what uvicorn ends with once it has stopped as asked
    assert is_refused(address)


def test_an_accepted_connection_sends_at_once_also_where_its_family_is_taken_for_unix():
    with listen("127.0.0.1", free_port()) as listener:
        handed = socket.fromfd(listener.fileno(), socket.AF_UNIX, socket.SOCK_STREAM)  # as uvicorn does
        with handed, socket.create_connection(listener.getsockname()), handed.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_child_inherits_the_socket_it_is_named_and_no_other(tmp_path):
    look = "import os, sys\nfor number in map(int, sys.argv[1:]):\n    print(os.path.exists(f'/proc/self/fd/{number}'))"
    with listen("127.0.0.1", free_port()) as ours, listen("127.0.0.1", free_port()) as other:
        named = [str(ours.fileno()), str(other.fileno())]
        child = Child("c", [sys.executable, "-c", look, *named], tmp_path / "c.log", inherits=(ours.fileno(),))
        child.start()
        assert child.process.wait(20) == 0
    assert child.log.read_text().splitlines()[1:] == ["True", "False"]


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_ipv6_addresses_are_listened_on_and_stand_in_brackets():
    try:
        listener = listen("::", free_port())
    except LocalServiceError as error:
        pytest.skip(f"this machine has no IPv6 address: {error}")
    with listener:
        port = listener.getsockname()[1]
        assert way_to(listener) == ("::1", port)
        assert url_of(listener, "::") == f"http://[::1]:{port}"


def test_an_address_for_all_is_reached_by_the_loopback_one_and_a_name_keeps_its_name():
    with listen("0.0.0.0", free_port()) as listener:
        port = listener.getsockname()[1]
        assert way_to(listener) == ("127.0.0.1", port)
        assert url_of(listener, "0.0.0.0") == f"http://127.0.0.1:{port}"
    with listen("localhost", free_port()) as listener:
        assert way_to(listener)[0] == "127.0.0.1"
        assert url_of(listener, "localhost") == f"http://localhost:{listener.getsockname()[1]}"


@pytest.mark.parametrize("host", ["192.0.2.1", "a" * 70])
def test_a_host_of_another_machine_is_named_with_what_to_do(host):
    with pytest.raises(LocalServiceError, match=r"is no address of this machine: choose another with --host"):
        listen(host)


def test_a_port_that_is_not_for_us_is_named_with_what_to_do():
    refusal = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    assert explain(refusal, "127.0.0.1", 80) == (
        "port 80 is not for this user: choose one above 1023 with --port, or leave it out"
    )


def test_a_port_is_free_again_as_soon_as_a_studio_has_stopped_though_connections_were_open():
    with listen("127.0.0.1", free_port()) as listener, socket.create_connection(listener.getsockname()) as caller:
        port = listener.getsockname()[1]
        listener.accept()[0].close()  # ours ends first, and the system remembers the connection for a minute
        assert caller.recv(1) == b""
    listen("127.0.0.1", port).close()
