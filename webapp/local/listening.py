"""The socket of the pages: the supervisor listens on it from first to last, and the web process inherits it.

A port that is only looked up can be taken by somebody else, another studio say, before the web process binds it. One
that is listened on can't; and while the web process is started again, callers wait in the queue and are not refused.
"""

import errno
import http.client
import socket

from webapp.local.process import LocalServiceError

FIRST_PORT, PORT_TRIES = 8000, 50
BACKLOG = 2048  # callers that wait while nobody accepts; what uvicorn asks for too
EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # and by which of them this machine reaches itself
PROBE_SECONDS = 2.0  # the probe waits while the web process loads, and Ctrl-C and the logs wait with it


def listen(host: str, wanted: int | None = None) -> socket.socket:
    """Listen on port ``wanted`` of ``host``; without one on 8000, the next free port, or one that the system chooses.

    Raises:
        LocalServiceError: ``wanted`` is in use or not for us, or ``host`` is no address of this machine.
    """
    family, address = find_address(host)
    ports = [wanted] if wanted else [*range(FIRST_PORT, FIRST_PORT + PORT_TRIES), 0]
    for port in ports:
        try:
            listener = socket.create_server((address, port), family=family, backlog=BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise LocalServiceError(explain(error, host, port)) from error
            continue
        # uvicorn takes a socket it is handed for a Unix one and leaves this out; without it each answer on a kept
        # connection waits some 40 ms for the caller's acknowledgement. Accepted connections have it from this one.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    if wanted:
        raise LocalServiceError(f"port {wanted} is in use: choose another with --port, or leave it out")
    raise LocalServiceError(f"no port of {host} is free")


def find_address(host: str) -> tuple[socket.AddressFamily, str]:
    """Family and numbers of ``host``; a name with several addresses, such as localhost, means its IPv4 one."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise LocalServiceError(no_address(host)) from error
    family, *_, place = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, str(place[0])


def explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return no_address(host)
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} is not for this user: choose one above 1023 with --port, or leave it out"
    return f"{host} can't be listened on, port {port}: {error.strerror}"


def no_address(host: str) -> str:
    return f"{host} is no address of this machine: choose another with --host, or leave it out"


def way_to(listener: socket.socket) -> tuple[str, int]:
    """Address and port under which this machine reaches ``listener``; numbers, so that no name leads elsewhere."""
    address, port, *_ = listener.getsockname()
    return EVERY_ADDRESS.get(address, address), port


def url_of(listener: socket.socket, host: str) -> str:
    """What a browser on this machine calls ``listener``, which listens on ``host``."""
    name, port = EVERY_ADDRESS.get(host, host), way_to(listener)[1]
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def page_answers(host: str, port: int) -> bool:
    """Whether the web process gives any page that is not a fault of its own."""
    asked = http.client.HTTPConnection(host, port, timeout=PROBE_SECONDS)
    try:
        asked.request("GET", "/healthz")
        return asked.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        asked.close()
