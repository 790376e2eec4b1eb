"""One bounded read from Redis: MGET with a deadline for the whole answer; hiredis packs and parses.

A client's socket time-out bounds each wait, so a server that drips can take any multiple of it.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any

from girl_features.errors import DeadlineError, StoreError, require

_BUFFER = 1 << 18


class RedisReader:
    """One connection that reads. After an error it is closed, as what is left in it belongs to no question."""

    def __init__(self, host: str, port: int, parameters: dict[str, Any]) -> None:
        self._host, self._port, self._parameters = host, port, parameters
        self._socket: socket.socket | None = None
        self._hiredis = require("hiredis", "redis")
        self._parser: Any = None
        self._buffer = bytearray(_BUFFER)

    def mget(self, keys: Sequence[bytes], deadline_ms: float) -> list[bytes | None]:
        """The values of `keys`, None for a miss.

        Raises:
            DeadlineError: connecting and reading took longer than `deadline_ms` milliseconds in all.
            StoreError: the server is not there, or answers with an error.
        """
        if not keys:
            return []
        until = time.monotonic() + deadline_ms / 1000
        try:
            values = self._ask_again(("MGET", *keys), until)
        except TimeoutError as error:
            self.close()
            raise DeadlineError(
                f"Redis at {self._host}:{self._port} did not answer for {len(keys)} keys within {deadline_ms:g} ms; "
                f"answer without these features, or raise `read_deadline_ms` under `online_store:`"
            ) from error
        except OSError as error:
            self.close()
            raise StoreError(
                f"Redis at {self._host}:{self._port} does not answer: {error.strerror or error}; "
                f"check `connection_string` under `online_store:` and that the server runs"
            ) from error
        except BaseException:
            self.close()
            raise
        assert isinstance(values, list)
        return values

    def close(self) -> None:
        """Let the connection go; the next read makes a new one."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _ask_again(self, words: tuple[Any, ...], until: float) -> Any:
        """The answer; on a new connection where the server has dropped the old one since the last question."""
        if self._socket is not None:
            try:
                return self._ask(words, until)
            except ConnectionError:
                self.close()
        self._connect(until)
        return self._ask(words, until)

    def _connect(self, until: float) -> None:
        connection = socket.create_connection((self._host, self._port), timeout=_left(until))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._parameters.get("ssl"):
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=self._host)
        self._socket, self._parser = connection, self._hiredis.Reader()
        password, user = self._parameters.get("password"), self._parameters.get("username")
        if password is not None:
            self._ask(("AUTH", *([user] if user is not None else []), password), until)
        if database := self._parameters.get("db"):
            self._ask(("SELECT", database), until)

    def _ask(self, words: tuple[Any, ...], until: float) -> Any:
        assert self._socket is not None
        self._socket.settimeout(_left(until))
        self._socket.sendall(self._hiredis.pack_command(words))
        while (answer := self._parser.gets()) is False:
            self._socket.settimeout(_left(until))
            n_bytes = self._socket.recv_into(self._buffer)
            if not n_bytes:
                raise ConnectionResetError("the server closed the connection")
            self._parser.feed(self._buffer, 0, n_bytes)
        if isinstance(answer, self._hiredis.ReplyError):
            raise StoreError(f"Redis at {self._host}:{self._port} refuses: {answer}")
        return answer


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
