"""Data of the serving benchmark: long CVs, and vectors of made-up seekers in our, Feast's and bare stores."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import yaml
from measuring import FIRST_DAY, made_up_contract, quiet, random_unit_vectors, write_rows
from raw_stores import RawStore, open_raw
from store_data import StoreKind, online_settings

from girl_features import schema
from girl_features.config import GirlConfig
from girl_features.contract import EncoderContract, FeatureContract
from girl_features.generator.opening import load_encoder
from girl_features.init_repo import write_repo
from girl_features.lookup.bundle import Bundle, write_bundle
from girl_features.lookup.encoder_export import export_encoder
from girl_features.lookup.host_encoder import HostEncoder
from girl_features.lookup.vector_map import VectorMap
from girl_features.sample.tables import write_sample
from girl_features.store.online.publishing import publish
from girl_features.store.parts import PartsStore
from girl_features.store.parts.rows import CV_VECTORS, GENERATED_JDS, JD_VECTORS
from girl_features.store.repo import apply_repo

SEED = 0
CHANGED_AT = FIRST_DAY + timedelta(days=30)  # when the CV of a stale seeker changed
HIDDEN_SIZE = 256  # the default of `girl train student`
CV_WORDS = 1000
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
    jd_vectors = list(random_unit_vectors(rng, n_jobs, d))
    times = [CHANGED_AT if name in stale else FIRST_DAY for name in cv]
    cv_rows = {schema.JOB_SEEKER_ID: list(cv), schema.CV_VECTOR: list(cv.values())}
    cv_rows |= {schema.EVENT_TIMESTAMP: times, schema.CREATED_TIMESTAMP: times}
    write_rows(store, contract, CV_VECTORS, cv_rows)
    generated_rows = {schema.JOB_SEEKER_ID: list(generated), schema.GENERATED_JD_VECTOR: list(generated.values())}
    write_rows(store, contract, GENERATED_JDS, generated_rows)
    write_rows(store, contract, JD_VECTORS, {schema.JOB_ID: jobs, schema.JD_VECTOR: jd_vectors})
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


def long_cvs(root: Path, n: int) -> list[str]:
    """Return n texts of CV_WORDS words each, made of CVs of the sample market in random order."""
    write_sample(root / "sample", n_seekers=200, seed=SEED)
    pieces = pl.read_parquet(root / "sample" / "job_seekers.parquet")["cv"].to_list()
    rng = np.random.default_rng(SEED)
    texts = []
    for _ in range(n):
        words = " ".join(pieces[i] for i in rng.permutation(len(pieces))).split()
        texts.append(" ".join(words[:CV_WORDS]))
    return texts


def hosted_encoder(config: GirlConfig, folder: Path, texts: list[str]) -> HostEncoder:
    """Return the config's encoder without torch, as `girl train student` puts it into a bundle for services."""
    folder.mkdir()
    encoder = load_encoder(config)
    print(f"encoder on the host: {export_encoder(encoder, config.encoder.name, texts, folder)}", file=sys.stderr)
    return HostEncoder(folder, encoder.contract)
