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
from collections.abc import Iterator, Sequence
from typing import Any

from feast.entity import Entity
from feast.feature_view import FeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from pydantic import StrictStr

from girl_features.errors import StoreError, require
from girl_features.store.failpoints import failpoint
from girl_features.store.online.packed import TIMES_END
from girl_features.store.online.packed_rows import PackedRow
from girl_features.store.online.packed_store import PackedOnlineStore
from girl_features.store.online.plans import view_id
from girl_features.store.online.redis_wire import RedisReader

_KEYS_A_CALL = 250  # every other client waits while a script runs
_KEYS_A_SCAN = 1_000
_PREFIX = b"girl1:"

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
            for start in range(0, len(rows), _KEYS_A_CALL):
                batch = rows[start : start + _KEYS_A_CALL]
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
        for key in self._client(config).scan_iter(match=_escaped(prefix) + b"*", count=_KEYS_A_SCAN):
            yield bytes(key[len(prefix) :])

    def drop_view(self, config: RepoConfig, view: FeatureView) -> None:
        """Remove every row of a view."""
        keys = self.keys(config, view)
        while batch := list(itertools.islice(keys, _KEYS_A_SCAN)):
            self.remove_packed(config, view, batch)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove every row of the views."""
        for view in tables:
            self.drop_view(config, view)

    def _reader(self, config: RepoConfig) -> RedisReader:
        """Return this thread's connection for reading."""
        server = config.online_store.connection_string
        return self._connections.get("reader", server, lambda: RedisReader(*parse_connection_string(server)))

    def _client(self, config: RepoConfig) -> Any:
        """Return this thread's client for other commands."""
        server = config.online_store.connection_string

        def connect() -> Any:
            host, port, parameters = parse_connection_string(server)
            return require("redis", "redis").Redis(host=host, port=port, **parameters)

        return self._connections.get("client", server, connect)


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
