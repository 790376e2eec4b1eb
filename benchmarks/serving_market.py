"""Data of the serving benchmark: vectors of made-up seekers in this project's, Feast's and bare stores."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import yaml
from measuring import made_up_contract, quiet, random_unit_vectors
from raw_stores import RawStore, open_raw
from store_data import StoreKind, online_settings

from girl_features import schema
from girl_features.contract import EncoderContract, FeatureContract
from girl_features.init_repo import write_repo
from girl_features.lookup.bundle import Bundle, write_bundle
from girl_features.lookup.vector_map import VectorMap
from girl_features.store.online.publishing import publish
from girl_features.store.parts import PartsStore
from girl_features.store.repo import apply_repo

SEED = 0
GENERATED_AT = datetime(2024, 1, 1, tzinfo=UTC)
CHANGED_AT = GENERATED_AT + timedelta(days=30)  # when the CV of a stale seeker changed
HIDDEN_SIZE = 256  # the default of `girl train student`
RAW_TABLES = ("generated", "cv")  # of a bare store


class Market(NamedTuple):
    """n seekers with both vectors, n / 20 whose CV has changed since, and n / 20 with a CV vector alone."""

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
    """Write the parts and the bundle of a market with n seekers who have both vectors."""
    contract = made_up_contract("tiny-1", encoder, max_cv_tokens=320)
    store = PartsStore(root / "store")
    store.save_contract(contract)
    rng = np.random.default_rng(SEED)
    d, n_others = encoder.dimension, n // 20
    hits = [f"seeker-{i}" for i in range(n)]
    stale, cv_alone = ([f"{kind}-{i}" for i in range(n_others)] for kind in ("stale", "cv-alone"))
    jobs = [f"job-{i}" for i in range(n_jobs)]
    cv = dict(zip([*hits, *stale, *cv_alone], random_unit_vectors(rng, n + 2 * n_others, d), strict=True))
    generated = dict(zip([*hits, *stale], random_unit_vectors(rng, n + n_others, d), strict=True))
    jd = dict(zip(jobs, random_unit_vectors(rng, n_jobs, d), strict=True))
    _write(store, contract, "cv_vectors", schema.CV_VECTORS_SCHEMA, cv, dict.fromkeys(stale, CHANGED_AT))
    _write(store, contract, "generated_jds", schema.GENERATED_SCHEMA, generated, {})
    _write(store, contract, "jd_vectors", schema.JD_VECTORS_SCHEMA, jd, {})
    bundle = write_bundle(root / "bundle", _bundle(rng, contract), {})
    return Market(contract, store, hits, stale, cv_alone, jobs, cv, generated, bundle)


def publish_market(market: Market, root: Path, kind: StoreKind, redis: str | None) -> Path:
    """Make a Feast repo with the market's rows online, in the packed store or in Feast's own; return its folder."""
    write_repo(root, market.store.root, "girl")
    path = root / "feature_store.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["registry"]["cache_ttl_seconds"] = 3600
    settings["online_store"] = online_settings(kind, redis, "data/online.db", deadline_ms=60_000)
    if kind == "stock":
        settings["offline_store"] = {"type": "duckdb"}
        del settings["batch_engine"]
    path.write_text(yaml.safe_dump(settings))
    with quiet():
        apply_repo(root)
        publish(root, market.store, market.contract)
    return root


def raw_market(market: Market, path: Path, redis: str | None) -> RawStore:
    """Return a bare store with the market's vectors in RAW_TABLES."""
    raw = open_raw(path, redis, market.contract.encoder.dimension)
    for table, vectors in zip(RAW_TABLES, (market.generated, market.cv), strict=True):
        raw.write(table, ((name, vector.tobytes()) for name, vector in vectors.items()))
    return raw


def _bundle(rng: np.random.Generator, contract: FeatureContract) -> Bundle:
    """Return a bundle with an untrained student of the usual size, which takes as long as a trained one."""
    d = contract.encoder.dimension

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) / d**0.5).astype(np.float32)

    h = HIDDEN_SIZE
    student = VectorMap(weights(d, d), weights(d), weights(d, h), weights(h), weights(h, d), weights())
    return Bundle(contract, weights(d), weights(d), student, None, None)


def _write(
    store: PartsStore,
    contract: FeatureContract,
    view: str,
    columns: pa.Schema,
    vectors: dict[str, np.ndarray],
    changed_at: dict[str, datetime],
) -> None:
    """Write one part with these vectors; columns without a vector or a time get a constant."""
    fingerprint = contract.fingerprint if view == "generated_jds" else contract.encoder.fingerprint
    times = [changed_at.get(name, GENERATED_AT) for name in vectors]
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
