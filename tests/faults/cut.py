"""A network between browser and server that can be cut: requests still arrive, their answers are lost."""

import socket
import struct
import threading
from contextlib import suppress

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing tears the connection down


class Network:
    """Passes TCP connections on to ``port``; while ``is_cut``, an answer is thrown away and the connection reset."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.is_cut = threading.Event()
        self.lost = 0
        """Answers of the server that never came to the browser."""
        self.door = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.door.getsockname()[1])
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with suppress(OSError):  # the door is closed
            while True:
                browser, _ = self.door.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                threading.Thread(target=self.carry_requests, args=(browser, server), daemon=True).start()
                threading.Thread(target=self.carry_answers, args=(server, browser), daemon=True).start()

    def carry_requests(self, browser: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):  # either end has gone
            while data := browser.recv(65_536):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def carry_answers(self, server: socket.socket, browser: socket.socket) -> None:
        with suppress(OSError), server, browser:
            while data := server.recv(65_536):
                if self.is_cut.is_set():
                    self.lost += 1
                    browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    browser.shutdown(socket.SHUT_RD)  # wakes the other thread, which else keeps the connection alive
                    return
                browser.sendall(data)

    def close(self) -> None:
        self.door.close()
