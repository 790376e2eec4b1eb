"""Read from Redis by MGET with a deadline for the whole answer; hiredis packs and parses.

The redis package has a time-out for each wait on the socket only, so a server that sends a few bytes at a time can
take any multiple of it.
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
    """One connection for reading. It is closed after an error, so that a late answer is not taken for the next one."""

    def __init__(self, host: str, port: int, parameters: dict[str, Any]) -> None:
        self._host, self._port, self._parameters = host, port, parameters
        self._socket: socket.socket | None = None
        self._hiredis = require("hiredis", "redis")
        self._parser: Any = None
        self._buffer = bytearray(_BUFFER)

    def mget(self, keys: Sequence[bytes], deadline_ms: float) -> list[bytes | None]:
        """Return the values of `keys`, None for a miss.

        Raises:
            DeadlineError: connecting and reading took longer than `deadline_ms` milliseconds in all.
            StoreError: the server cannot be reached, or answers with an error.
        """
        if not keys:
            return []
        deadline = time.monotonic() + deadline_ms / 1000
        try:
            values = self._send_reconnecting(("MGET", *keys), deadline)
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
        """Close the connection; the next read opens a new one."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _send_reconnecting(self, command: tuple[Any, ...], deadline: float) -> Any:
        """Return the answer, over a new connection if the server has closed the present one since the last command."""
        if self._socket is not None:
            try:
                return self._send(command, deadline)
            except ConnectionError:
                self.close()
        self._connect(deadline)
        return self._send(command, deadline)

    def _connect(self, deadline: float) -> None:
        connection = socket.create_connection((self._host, self._port), timeout=_seconds_until(deadline))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._parameters.get("ssl"):
            connection = ssl.create_default_context().wrap_socket(connection, server_hostname=self._host)
        self._socket, self._parser = connection, self._hiredis.Reader()
        password, user = self._parameters.get("password"), self._parameters.get("username")
        if password is not None:
            credentials = (password,) if user is None else (user, password)
            self._send(("AUTH", *credentials), deadline)
        if database := self._parameters.get("db"):
            self._send(("SELECT", database), deadline)

    def _send(self, command: tuple[Any, ...], deadline: float) -> Any:
        assert self._socket is not None
        self._socket.settimeout(_seconds_until(deadline))
        self._socket.sendall(self._hiredis.pack_command(command))
        while (answer := self._parser.gets()) is False:
            self._socket.settimeout(_seconds_until(deadline))
            n_bytes = self._socket.recv_into(self._buffer)
            if not n_bytes:
                raise ConnectionResetError("the server closed the connection")
            self._parser.feed(self._buffer, 0, n_bytes)
        if isinstance(answer, self._hiredis.ReplyError):
            raise StoreError(f"Redis at {self._host}:{self._port} refuses: {answer}")
        return answer


def _seconds_until(deadline: float) -> float:
    """Return the seconds until `deadline` on the monotonic clock.

    Raises:
        TimeoutError: it has passed.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds
