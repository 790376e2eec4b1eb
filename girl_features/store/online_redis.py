"""Packed online store in one Redis server: one string an entity, read by MGET under a deadline.

    online_store:
      type: girl_features.store.online_redis.PackedRedisOnlineStore
      connection_string: localhost:6379,db=0,password=...

A script on the server compares times, so two writers cannot undo each other. Redis Cluster is not supported: one
script call writes many keys.
"""

from __future__ import annotations

import itertools
import os
import threading
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

_KEYS_A_CALL = 250  # a script holds up every other client while it runs
_PREFIX = b"girl1:"

# A row begins with its format and its two times, whose bytes sort as the times do. Strings are compared byte by byte,
# as Lua's own comparison follows the server's locale.
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
    """ Redis forgets a row so long after it was written; never if left out. """
    read_deadline_ms: float = 50.0
    """ For one read in all, however many views, keys and packets; then DeadlineError. """


class PackedRedisOnlineStore(PackedOnlineStore):
    """Rows under `girl1:<project>_<view>:<entity key>`; any number of processes may read and write."""

    def __init__(self) -> None:
        super().__init__()
        self._local = threading.local()

    def _read_places(
        self, config: RepoConfig, wanted: Sequence[tuple[str, Sequence[bytes]]], within_ms: float
    ) -> list[list[bytes | None]]:
        names = [prefix + key for place, keys in wanted for prefix in (_prefix(place),) for key in keys]
        values = self._reader(config).mget(names, within_ms)
        if len(wanted) == 1:
            return [values]
        rest = iter(values)
        return [list(itertools.islice(rest, len(keys))) for _, keys in wanted]

    def _write(self, config: RepoConfig, view: FeatureView, rows: Sequence[PackedRow]) -> None:
        prefix, client = _prefix(view_id(config, view)), self._client(config)
        life = config.online_store.key_ttl_seconds or 0
        with client.pipeline(transaction=False) as pipe:
            for start in range(0, len(rows), _KEYS_A_CALL):
                part = rows[start : start + _KEYS_A_CALL]
                keys = [prefix + row.key for row in part]
                pipe.eval(_SCRIPT, len(keys), *keys, life, *(row.data for row in part))
            failpoint("online.before_commit")
            pipe.execute()
        failpoint("online.committed")

    def _remove(self, config: RepoConfig, view: FeatureView, keys: Sequence[bytes]) -> int:
        prefix = _prefix(view_id(config, view))
        return int(self._client(config).unlink(*(prefix + key for key in keys))) if keys else 0

    def keys(self, config: RepoConfig, view: FeatureView) -> Iterator[bytes]:
        """Keys of all rows of a view, for verifying."""
        prefix = _prefix(view_id(config, view))
        for key in self._client(config).scan_iter(match=_escaped(prefix) + b"*", count=1000):
            yield bytes(key[len(prefix) :])

    def _drop(self, config: RepoConfig, view: FeatureView) -> None:
        batch: list[bytes] = []
        for key in self.keys(config, view):
            batch.append(key)
            if len(batch) == 1000:
                self._remove(config, view, batch)
                batch.clear()
        self._remove(config, view, batch)

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:
        """Remove every row of the views."""
        for view in tables:
            self._drop(config, view)

    def _reader(self, config: RepoConfig) -> RedisReader:
        place = (os.getpid(), config.online_store.connection_string)
        if getattr(self._local, "place", None) != place:
            self._local.reader = RedisReader(*_address(config.online_store.connection_string))
            self._local.place = place
        reader: RedisReader = self._local.reader
        return reader

    def _client(self, config: RepoConfig) -> Any:
        place = (os.getpid(), config.online_store.connection_string)
        if getattr(self._local, "writing", None) != place:
            host, port, parameters = _address(config.online_store.connection_string)
            self._local.client = require("redis", "redis").Redis(host=host, port=port, **parameters)
            self._local.writing = place
        return self._local.client


def _address(connection_string: str) -> tuple[str, int, dict[str, Any]]:
    hosts = [part for part in connection_string.split(",") if "=" not in part]
    given = dict(part.split("=", 1) for part in connection_string.split(",") if "=" in part)
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


def _prefix(place: str) -> bytes:
    return _PREFIX + place.encode() + b":"


def _escaped(pattern: bytes) -> bytes:
    return b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^-" else bytes([c]) for c in pattern)
