"""From tables to a served ranker: `girl train ranker`, `girl serve`, erased and unknown seekers, the way it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from girl_features.batch.publish import publish_contract
from girl_features.cli import app
from girl_features.config import GirlConfig, load_config
from girl_features.errors import CheckpointError, ConfigError, ContractMismatchError
from girl_features.input.splits import cut_windows
from girl_features.input.tables import open_tables
from girl_features.integrations.join_table import join_table
from girl_features.integrations.online_pairs import online_columns
from girl_features.integrations.plain_columns import PlainReduction
from girl_features.integrations.rankers.training import train_ranker
from girl_features.lookup import FeatureClient
from girl_features.lookup.bundle import Bundle, write_bundle
from girl_features.lookup.vector_map import VectorMap
from girl_features.sample.tables import SAMPLE_END, write_sample
from girl_features.store.parts import PartsStore
from tests.fakes import HashingEncoder, TemplateGenerator, feature_contract
from tests.http_server import Caller
from tests.local_batch import materialize
from tests.store_rows import Row, write_rows

DIMENSION = 16


class Market(NamedTuple):
    config: GirlConfig
    path: str  # of girl.yaml
    contract: Any


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    """A small market, materialized by fakes and published."""
    folder = tmp_path_factory.mktemp("market")
    write_sample(folder / "tables", n_seekers=150, seed=0)
    tables = {name: {"path": f"tables/{name}.parquet"} for name in ("job_seekers", "jobs", "interactions")}
    (folder / "girl.yaml").write_text(yaml.safe_dump({"tables": tables, "ranker": {"tier_dropout": 0.3}}))
    config = load_config(folder / "girl.yaml")
    store = PartsStore(config.store_dir)
    with open_tables(config) as opened:
        contract = feature_contract(cut_windows(opened, config.windows).rl_end.isoformat(), dimension=DIMENSION)
        encoder = HashingEncoder(DIMENSION)
        materialize(
            opened, TemplateGenerator(), encoder, contract, store, chunk_size=500, run="test-run", engine="template"
        )
    gone = Row("leaver", SAMPLE_END, SAMPLE_END, [1.0] * DIMENSION)
    write_rows(store, contract, cvs=[gone], generated=[gone])
    publish_contract(config, store, contract)
    return Market(config, str(folder / "girl.yaml"), contract)


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def ranker(market: Market) -> Path:
    result = run("train", "ranker", "--config", market.path, "--json", "-")
    assert result.exit_code == 0, result.output
    trained = json.loads(result.stdout)
    assert trained["contract"] == market.contract.fingerprint
    assert [tier["tier"] for tier in trained["tiers"]] == ["as_joined", "prior"]
    assert all(0 < tier["auc"] < 1 and tier["logloss"] > 0 and tier["n"] > 0 for tier in trained["tiers"])
    return Path(trained["folder"])


@contextmanager
def served(market: Market, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    code = "from girl_features.cli import main; main()"
    options = ["--ranker", str(folder), "--config", market.path, "--port", "0", "--deadline", "60000"]
    command = [sys.executable, "-c", code, "serve", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "FEAST_USAGE": "False"}) as it:
        try:
            assert it.stderr is not None
            lines = iter(it.stderr.readline, "")
            port = next(found[1] for line in lines if (found := re.search(r"on http://127\.0\.0\.1:(\d+)$", line)))
            yield it, int(port)
        finally:
            it.kill()


def test_a_trained_ranker_is_served_and_ends_when_asked(market: Market, ranker: Path) -> None:
    seekers = pl.read_parquet(market.config.tables.job_seekers.path)["job_seeker_id"].unique(maintain_order=True)
    jobs = pl.read_parquet(market.config.tables.jobs.path)["job_id"].to_list()
    asked = [*jobs[:20], "no-such-job"]
    with served(market, ranker) as (process, port):
        caller = Caller(port)
        found = caller.post("/rank", {"job_seeker_id": seekers[-1], "job_ids": asked}).json
        assert (found["tier"], found["contract"]) == ("generated", market.contract.fingerprint)
        scores = [job["score"] for job in found["jobs"]]
        assert scores[-1] is None and scores[:-1] == sorted(scores[:-1], reverse=True) and len(set(scores)) > 2
        assert sorted(job["job_id"] for job in found["jobs"]) == sorted(asked)
        unknown = caller.post("/rank", {"job_seeker_id": "nobody", "cv": "a nurse", "job_ids": asked}).json
        assert (unknown["tier"], unknown["has_cv"]) == ("prior", False)
        assert "girl_generation_queue_length" in caller.get("/metrics").text
        leaver = {"job_seeker_id": "leaver", "job_ids": asked}
        assert caller.post("/rank", leaver).json["tier"] == "generated"
        assert run("erase", "leaver", "--config", market.path).exit_code == 0
        erased = caller.post("/rank", leaver)
        assert (erased.status, erased.json["tier"]) == (200, "prior")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM


def test_a_ranker_of_a_contract_the_store_does_not_hold_is_refused(
    market: Market, ranker: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ranker, other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "contract": "ba9876543210"}))
    refused = run("serve", "--ranker", str(other), "--config", market.path)
    assert isinstance(refused.exception, ContractMismatchError)
    assert f"{market.contract.fingerprint!r}, but this ranker was trained on 'ba9876543210'" in str(refused.exception)
    nowhere = run("serve", "--ranker", str(tmp_path / "nowhere"), "--config", market.path)
    assert isinstance(nowhere.exception, CheckpointError)


def test_an_address_that_cannot_be_bound_is_named(market: Market, ranker: Path) -> None:
    refused = run("serve", "--ranker", str(ranker), "--config", market.path, "--host", "192.0.2.1")
    assert isinstance(refused.exception, ConfigError)
    assert "192.0.2.1" in str(refused.exception) and "--port" in str(refused.exception)


def test_a_folder_that_holds_something_else_is_not_replaced(market: Market, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear")
    with pytest.raises(CheckpointError, match=r"no manifest.json.*thesis.txt"):
        train_ranker(market.config, market.contract, "lightgbm", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_with_a_bundle_every_tier_is_measured(market: Market, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cvs = rng.normal(size=(40, DIMENSION)).astype(np.float32)
    cvs /= np.linalg.norm(cvs, axis=1, keepdims=True)
    mean = np.full(DIMENSION, 0.1, np.float32)
    student = VectorMap.linear(np.eye(DIMENSION, dtype=np.float32), mean, 1.0)
    folder = write_bundle(tmp_path / "bundle", Bundle(market.contract, mean, mean, student, cvs, cvs), {})
    lookup = market.config.lookup.model_copy(update={"bundle": folder})
    config = market.config.model_copy(update={"lookup": lookup})
    trained = train_ranker(config, market.contract, "lightgbm", tmp_path / "ranker")
    assert [tier.tier for tier in trained.tiers] == ["as_joined", "student", "neighbours", "prior"]
    again = train_ranker(config, market.contract, "lightgbm", tmp_path / "ranker")  # in place of the first
    assert again == trained
    without = config.model_copy(update={"ranker": config.ranker.model_copy(update={"tier_dropout": 0.0})})
    assert train_ranker(without, market.contract, "lightgbm", tmp_path / "ranker").tiers != trained.tiers


def test_online_columns_are_those_of_the_training_table(market: Market, tmp_path: Path) -> None:
    decisions = pl.read_parquet(market.config.tables.interactions.path).sort("decided_at").tail(150)
    decisions.write_parquet(tmp_path / "pairs.parquet")
    out, reduction = tmp_path / "joined.parquet", tmp_path / "reduction"
    repo = market.config.feast_repo
    join_table(tmp_path / "pairs.parquet", out, repo=repo, contract=market.contract, reduction=reduction, fit=True)
    offline = pl.read_parquet(out).select("job_seeker_id", "job_id", pl.col("^girl_.*$"))
    last = offline.filter(pl.col("girl_tier") == 0).row(-1, named=True)
    client = FeatureClient(repo, market.contract.fingerprint, deadline_ms=60_000)
    online = online_columns(client, PlainReduction.load(reduction), last["job_seeker_id"], ["nowhere", last["job_id"]])
    assert online.columns == offline.columns[2:] and dict(online.schema).items() <= dict(offline.schema).items()
    assert set(online.row(0)) == {None}
    # the seeker's newest decision was made with the newest CV
    assert list(online.row(1)) == pytest.approx([last[name] for name in online.columns], abs=1e-5)
    nobody = online_columns(client, PlainReduction.load(reduction), "nobody", [last["job_id"]])
    assert set(nobody.row(0)) == {None}


def test_the_readmes_lightgbm_example_runs(market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    [example] = [code for code in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "online_columns" in code]
    decisions = pl.read_parquet(market.config.tables.interactions.path).sort("decided_at").tail(150)
    own = {"salary": pl.int_range(pl.len()), "distance_km": pl.int_range(pl.len()) / 10}
    decisions.with_columns(**own).write_parquet(tmp_path / "pairs.parquet")
    fingerprint, repo = market.contract.fingerprint, market.config.feast_repo
    reduction = tmp_path / "market" / ".girl" / "reductions" / fingerprint
    joined = tmp_path / "with_girl.parquet"
    join_table(tmp_path / "pairs.parquet", joined, repo=repo, contract=market.contract, reduction=reduction, fit=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    code = example.replace("0123456789ab", fingerprint).replace('Path("market")', f"Path({str(repo)!r})")
    exec(code.replace("job-7", decisions["job_id"][0]), names)
    assert names["scores"].shape == (2,) and ((names["scores"] > 0) & (names["scores"] < 1)).all()
    assert names["booster"].num_feature() == 2 + len(names["girl"][0])
