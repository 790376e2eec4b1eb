"""Just enough of the Redis protocol for one bounded read: MGET with a deadline for the whole answer.

A client's socket time-out bounds each wait, so a server that drips can take any multiple of it.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any

from girl_features.errors import DeadlineError, StoreError

_BUFFER = 1 << 16


class RedisReader:
    """One connection that reads. After an error it is closed, as what is left in it belongs to no question."""

    def __init__(self, host: str, port: int, parameters: dict[str, Any]) -> None:
        self._host, self._port, self._parameters = host, port, parameters
        self._socket: socket.socket | None = None
        self._data = bytearray()
        self._at = 0

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
            if self._socket is None:
                self._connect(until)
            self._send([b"MGET", *keys], until)
            values = self._reply(until)
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
        self._socket, self._data, self._at = None, bytearray(), 0

    def _connect(self, until: float) -> None:
        connection = socket.create_connection((self._host, self._port), timeout=_left(until))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._parameters.get("ssl"):
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=self._host)
        self._socket = connection
        password, user = self._parameters.get("password"), self._parameters.get("username")
        if password is not None:
            names = [str(user).encode()] if user is not None else []
            self._send([b"AUTH", *names, str(password).encode()], until)
            self._reply(until)
        if database := self._parameters.get("db"):
            self._send([b"SELECT", str(database).encode()], until)
            self._reply(until)

    def _send(self, words: Sequence[bytes], until: float) -> None:
        assert self._socket is not None
        parts = [b"*%d\r\n" % len(words)]
        parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in words]
        self._socket.settimeout(_left(until))
        self._socket.sendall(b"".join(parts))

    def _reply(self, until: float) -> Any:
        line = self._line(until)
        kind, rest = line[:1], line[1:]
        if kind == b"*":
            return [self._value(until) for _ in range(int(rest))]
        if kind == b"-":
            raise StoreError(f"Redis at {self._host}:{self._port} refuses: {rest.decode(errors='replace')}")
        return rest

    def _value(self, until: float) -> bytes | None:
        length = int(self._line(until)[1:])
        if length < 0:
            return None
        while len(self._data) < self._at + length + 2:
            self._receive(until, self._at + length + 2 - len(self._data))
        value = bytes(memoryview(self._data)[self._at : self._at + length])
        self._at += length + 2
        return value

    def _line(self, until: float) -> bytes:
        while (end := self._data.find(b"\r\n", self._at)) < 0:
            self._receive(until, _BUFFER)
        line = bytes(self._data[self._at : end])
        self._at = end + 2
        if self._at == len(self._data):
            self._data, self._at = bytearray(), 0
        return line

    def _receive(self, until: float, wanted: int) -> None:
        assert self._socket is not None
        if self._at > 1 << 20:
            del self._data[: self._at]
            self._at = 0
        self._socket.settimeout(_left(until))
        data = self._socket.recv(max(_BUFFER, wanted))
        if not data:
            raise ConnectionResetError("the server closed the connection")
        self._data += data


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
