"""What the serving benchmark looks up: vectors of made-up seekers in our stores, in Feast's own and in bare ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import yaml
from store import quiet, redis_client

from girl_features import schema
from girl_features.contract import EncoderContract, FeatureContract, SamplingContract
from girl_features.init_repo import write_repo
from girl_features.lookup.bundle import Bundle, write_bundle
from girl_features.lookup.vector_map import VectorMap
from girl_features.store.online.publishing import publish
from girl_features.store.parts import PartsStore
from girl_features.store.repo import apply_repo

SEED = 0
MADE = datetime(2024, 1, 1, tzinfo=UTC)
CHANGED = MADE + timedelta(days=30)  # when the CV of a stale seeker was changed
HIDDEN = 256  # as `girl train student` has by default
RawRead = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]


class Market(NamedTuple):
    """n seekers with both vectors, then a twentieth whose CV has changed since, and as many with a CV alone."""

    contract: FeatureContract
    store: PartsStore
    hits: list[str]
    stale: list[str]
    cv_alone: list[str]
    jobs: list[str]
    cv: dict[str, np.ndarray]
    generated: dict[str, np.ndarray]
    bundle: Path


def build_market(root: Path, encoder: EncoderContract, n: int, n_jobs: int) -> Market:
    """Write the parts and the bundle."""
    contract = _contract(encoder)
    store = PartsStore(root / "store")
    store.save_contract(contract)
    rng = np.random.default_rng(SEED)
    hits, stale, alone = ([f"{kind}-{i}" for i in range(m)] for kind, m in _sizes(n).items())
    cv = dict(zip([*hits, *stale, *alone], _unit(rng, n + 2 * (n // 20), encoder.dimension), strict=True))
    generated = dict(zip([*hits, *stale], _unit(rng, n + n // 20, encoder.dimension), strict=True))
    jobs = [f"job-{i}" for i in range(n_jobs)]
    changed = dict.fromkeys(stale, CHANGED)
    _write(store, contract, "cv_vectors", schema.CV_VECTORS_SCHEMA, cv, changed)
    _write(store, contract, "generated_jds", schema.GENERATED_SCHEMA, generated, {})
    jd = dict(zip(jobs, _unit(rng, n_jobs, encoder.dimension), strict=True))
    _write(store, contract, "jd_vectors", schema.JD_VECTORS_SCHEMA, jd, {})
    bundle = write_bundle(root / "bundle", _bundle(rng, contract), {})
    return Market(contract, store, hits, stale, alone, jobs, cv, generated, bundle)


def published(market: Market, root: Path, *, ours: bool, redis: str | None) -> Path:
    """A Feast repo with the market's rows online: in our packed store, or in Feast's own."""
    write_repo(root, market.store.root, "girl")
    path = root / "feature_store.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["registry"]["cache_ttl_seconds"] = 3600
    kind = "redis" if redis else "sqlite"
    online: dict[str, Any] = {"type": kind}
    if ours:
        package = f"girl_features.store.online_{kind}.Packed{kind.capitalize()}OnlineStore"
        online = {"type": package, "read_deadline_ms": 60_000}
    else:
        settings["offline_store"] = {"type": "duckdb"}
        del settings["batch_engine"]
    online |= {"connection_string": f"{redis},db={0 if ours else 1}"} if redis else {"path": "data/online.db"}
    path.write_text(yaml.safe_dump({**settings, "online_store": online}))
    with quiet():
        apply_repo(root)
        publish(root, market.store, market.contract)
    return root


def raw_sqlite(market: Market, path: Path) -> RawRead:
    """Two bare tables, id to bytes."""
    connection, dimension = sqlite3.connect(path), market.contract.encoder.dimension
    connection.execute("PRAGMA journal_mode = WAL")
    for table, rows in (("g", market.generated), ("c", market.cv)):
        connection.execute(f"CREATE TABLE {table} (k TEXT PRIMARY KEY, v BLOB)")
        connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", ((k, v.tobytes()) for k, v in rows.items()))
    connection.commit()

    def read(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        marks = ",".join("?" * len(ids))
        found = [dict(connection.execute(f"SELECT k, v FROM {table} WHERE k IN ({marks})", ids)) for table in "gc"]
        return _vectors(found[0], ids, dimension), _vectors(found[1], ids, dimension)

    return read


def raw_redis(market: Market, server: str) -> RawRead:
    """Bare keys of a database of their own, all read by one MGET."""
    client, dimension = redis_client(server), market.contract.encoder.dimension
    with client.pipeline(transaction=False) as pipe:
        for prefix, rows in (("g:", market.generated), ("c:", market.cv)):
            for key, vector in rows.items():
                pipe.set(prefix + key, vector.tobytes())
        pipe.execute()

    def read(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        values = client.mget([*(f"g:{name}" for name in ids), *(f"c:{name}" for name in ids)])
        found = [dict(zip(ids, values[start : start + len(ids)], strict=True)) for start in (0, len(ids))]
        return _vectors(found[0], ids, dimension), _vectors(found[1], ids, dimension)

    return read


def _vectors(found: dict[str, bytes | None], ids: Sequence[str], dimension: int) -> np.ndarray:
    rows = [row for row in (found.get(name) for name in ids) if row is not None]
    return np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), dimension)


def _sizes(n: int) -> dict[str, int]:
    return {"seeker": n, "stale": n // 20, "cv-alone": n // 20}


def _contract(encoder: EncoderContract) -> FeatureContract:
    return FeatureContract(
        generator="made-up",
        weights_sha256="0" * 64,
        adapter_sha256=None,
        trained_until=MADE - timedelta(days=1),
        prompt_version="tiny-1",
        max_cv_tokens=320,
        sampling=SamplingContract(n=1, temperature=0.7, top_p=0.95, max_new_tokens=160, seed=0),
        encoder=encoder,
    )


def _unit(rng: np.random.Generator, n: int, dimension: int) -> np.ndarray:
    vectors = rng.standard_normal((n, dimension), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _bundle(rng: np.random.Generator, contract: FeatureContract) -> Bundle:
    """A student of the usual size, untrained: it takes as long as a trained one."""
    d = contract.encoder.dimension

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / d**0.5).astype(np.float32)

    student = VectorMap(weights(d, d), weights(d), weights(d, HIDDEN), weights(HIDDEN), weights(HIDDEN, d), weights())
    return Bundle(contract, weights(d), weights(d), student, None, None)


def _write(
    store: PartsStore,
    contract: FeatureContract,
    view: str,
    columns: pa.Schema,
    vectors: dict[str, np.ndarray],
    changed: dict[str, datetime],
) -> None:
    fingerprint = contract.fingerprint if view == "generated_jds" else contract.encoder.fingerprint
    times = [changed.get(name, MADE) for name in vectors]
    constant: dict[pa.DataType, Any] = {pa.string(): "x", pa.bool_(): False, pa.int64(): 1, pa.float64(): 0.0}
    constant |= {pa.float32(): 0.0, pa.list_(pa.string()): ["x"], pa.list_(pa.int64()): [0]}
    table = {}
    for field in columns:
        if field.type == schema.VECTOR:
            table[field.name] = list(vectors.values())
        elif field.type == schema.UTC_MICROSECONDS:
            table[field.name] = times
        elif field.name in (schema.JOB_SEEKER_ID, schema.JOB_ID):
            table[field.name] = list(vectors)
        else:
            value = fingerprint if field.name == schema.CONTRACT else constant[field.type]
            table[field.name] = [value] * len(vectors)
    store.write_part(view, fingerprint, pa.table(table, schema=columns))
