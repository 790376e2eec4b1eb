"""A small TCP proxy that simulates network faults."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import Literal

Mood = Literal["pass", "hang", "reset", "drip", "close"]


class TcpProxy:
    """Listens on a free port of loopback and passes bytes to `port` and back; a context manager.

    Its `mood` decides what happens to connections: `pass` passes all bytes, `hang` reads requests and answers nothing,
    `reset` ends connections with an RST, `drip` passes a byte of the answer every 20 ms, and `close` hangs up at once.
    """

    def __init__(self, port: int) -> None:
        self.mood: Mood = "pass"
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()

    def refuse(self) -> None:
        """Stop listening, so that new connections are refused."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or a thread waiting in accept() keeps it open
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """End all connections with an RST."""
        for connection in self._open:
            _reset(connection)
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()
            while data := client.recv(65536):
                if self.mood == "reset":
                    return _reset(client)
                if self.mood == "close":
                    return client.close()
                if self.mood != "hang":
                    server.sendall(data)
        return None

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self.mood != "drip":
                    client.sendall(data)
                    continue
                for i in range(len(data)):
                    client.sendall(data[i : i + 1])
                    time.sleep(0.02)


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
