"""Packed online store in one Redis server: one string for each entity, read by MGET with a deadline.

    online_store:
      type: girl_features.store.online_redis.PackedRedisOnlineStore
      connection_string: localhost:6379,db=0,password=...

A script on the server compares times, so that an older row never replaces a newer one. Redis Cluster is not
supported, because one call of the script writes many keys.
"""

from __future__ import annotations

import itertools
import re
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from typing import Any

from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import StrictStr

from girl_features.errors import DeadlineError, StoreError, require
from girl_features.store.failpoints import failpoint
from girl_features.store.online.packed import TIMES_END
from girl_features.store.online.packed_rows import PackedRow
from girl_features.store.online.packed_store import PackedOnlineStore
from girl_features.store.online.plans import view_id

_KEYS_PER_CALL = 250  # every other client waits while a script runs
_KEYS_PER_SCAN = 1_000
_PREFIX = b"girl1:"
_BUFFER_BYTES = 1 << 18

# A row begins with its format and its two times, whose bytes sort as the times do. The script compares byte by byte,
# because Lua compares strings by the server's locale.
_SCRIPT = """
local life = tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  local new = ARGV[i + 1]
  local old = redis.call('GETRANGE', key, 1, TIMES_END - 1)
  local older = false
  for b = 1, #old do
    local x, y = string.byte(new, b + 1), string.byte(old, b)
    if x ~= y then older = x < y; break end
  end
  if not older then
    if life > 0 then redis.call('SET', key, new, 'EX', life) else redis.call('SET', key, new) end
  end
end
""".replace("TIMES_END", str(TIMES_END))


class PackedRedisOnlineStoreConfig(FeastConfigBaseModel):
    """`online_store:` of feature_store.yaml."""

    type: StrictStr = "girl_features.store.online_redis.PackedRedisOnlineStore"
    connection_string: StrictStr = "localhost:6379"
    """ host:port,parameter=value,... with db, username, password and ssl, as for Feast's own store. """
    key_ttl_seconds: int | None = None
    """ Seconds after which Redis deletes a row that was not written again; never if left out. """
    read_deadline_ms: float = 50.0
    """ Milliseconds for one whole read of any number of views and keys; DeadlineError after that. """


class PackedRedisOnlineStore(PackedOnlineStore):
    """Rows under `girl1:<project>_<view>:<entity key>`; any number of processes may read and write."""

    def read_packed(
        self, config: RepoConfig, wanted: Sequence[tuple[str, Sequence[bytes]]], deadline_ms: float
    ) -> list[list[bytes | None]]:
        """Read packed rows by one MGET, None for a miss."""
        redis_keys: list[bytes] = []
        for stored_view, keys in wanted:
            prefix = _redis_prefix(stored_view)
            redis_keys += [prefix + key for key in keys]
        values = self._reader(config).mget(redis_keys, deadline_ms)
        if len(wanted) == 1:
            return [values]
        remaining = iter(values)
        return [list(itertools.islice(remaining, len(keys))) for _, keys in wanted]

    def write_packed(self, config: RepoConfig, view: FeatureView, rows: Sequence[PackedRow]) -> None:
        """Store each row unless a newer one is there."""
        prefix, client = _redis_prefix(view_id(config, view)), self._client(config)
        ttl_seconds = config.online_store.key_ttl_seconds or 0
        with client.pipeline(transaction=False) as pipe:
            for start in range(0, len(rows), _KEYS_PER_CALL):
                batch = rows[start : start + _KEYS_PER_CALL]
                keys = [prefix + row.key for row in batch]
                pipe.eval(_SCRIPT, len(keys), *keys, ttl_seconds, *(row.data for row in batch))
            failpoint("online.before_commit")
            pipe.execute()
        failpoint("online.committed")

    def remove_packed(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> int:
        """Delete rows, and return how many there were."""
        if not keys:
            return 0
        prefix = _redis_prefix(view_id(config, view))
        return int(self._client(config).unlink(*(prefix + key for key in keys)))

    def keys(self, config: RepoConfig, view: FeatureView) -> Iterator[bytes]:
        """List the keys of all rows of a view."""
        prefix = _redis_prefix(view_id(config, view))
        for key in self._client(config).scan_iter(match=_escaped(prefix) + b"*", count=_KEYS_PER_SCAN):
            yield bytes(key[len(prefix) :])

    def drop_view(self, config: RepoConfig, view: FeatureView) -> None:
        """Remove every row of a view."""
        keys = self.keys(config, view)
        while batch := list(itertools.islice(keys, _KEYS_PER_SCAN)):
            self.remove_packed(config, view, batch)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove every row of the views."""
        for view in tables:
            self.drop_view(config, view)

    def _reader(self, config: RepoConfig) -> RedisReader:
        server = config.online_store.connection_string
        return self._connections.get("reader", server, lambda: RedisReader(*parse_connection_string(server)))

    def _client(self, config: RepoConfig) -> Any:
        server = config.online_store.connection_string

        def connect() -> Any:
            host, port, parameters = parse_connection_string(server)
            return require("redis", "redis").Redis(host=host, port=port, **parameters)

        return self._connections.get("client", server, connect)


class RedisReader:
    """One connection for MGET with a deadline for the whole answer; hiredis packs and parses.

    The redis package has a time-out for each wait on the socket only, so a server that sends a few bytes at a time can
    take any multiple of it. The connection is closed after an error, so that a late answer is not taken for the next.
    """

    def __init__(self, host: str, port: int, parameters: dict[str, Any]) -> None:
        self._host, self._port, self._parameters = host, port, parameters
        self._socket: socket.socket | None = None
        self._hiredis = require("hiredis", "redis")
        self._parser: Any = None
        self._buffer = bytearray(_BUFFER_BYTES)

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
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise DeadlineError(
                    f"Redis at {self._host}:{self._port} did not answer for {len(keys)} keys within {deadline_ms:g} "
                    f"ms; answer without these features, or raise `read_deadline_ms` under `online_store:`"
                ) from error
            if isinstance(error, OSError):
                raise StoreError(
                    f"Redis at {self._host}:{self._port} does not answer: {error.strerror or error}; "
                    f"check `connection_string` under `online_store:` and that the server runs"
                ) from error
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
    """Return the seconds until `deadline` on the monotonic clock; raise TimeoutError if it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def parse_connection_string(connection_string: str) -> tuple[str, int, dict[str, Any]]:
    """Return host, port and client parameters of `host:port,parameter=value,...`.

    Raises:
        StoreError: an unknown parameter, or not exactly one server.
    """
    parts = connection_string.split(",")
    hosts = [part for part in parts if "=" not in part]
    given = dict(part.split("=", 1) for part in parts if "=" in part)
    if unknown := sorted(set(given) - {"db", "username", "password", "ssl"}):
        raise StoreError(f"`connection_string` has {unknown}; db, username, password and ssl are known")
    if len(hosts) != 1:
        raise StoreError(f"`connection_string` names {len(hosts)} servers; one is wanted, as host:port")
    host, _, port = hosts[0].partition(":")
    parameters: dict[str, Any] = {name: given[name] for name in ("username", "password") if name in given}
    if "db" in given:
        parameters["db"] = int(given["db"])
    if given.get("ssl", "false").lower() == "true":
        parameters["ssl"] = True
    return host, int(port or 6379), parameters


def _redis_prefix(stored_view: str) -> bytes:
    return _PREFIX + stored_view.encode() + b":"


def _escaped(pattern: bytes) -> bytes:
    """Return a pattern that matches these bytes alone."""
    return re.sub(rb"([*?\[\]\\^-])", rb"\\\1", pattern)
