"""A workspace that an earlier release wrote is read as it is: same contracts, same vectors, nothing made again.

tests/fixtures/release_0_1 was written at /srv/girl by the code of commit 69a0e8c, with the fakes of tests/fakes.py:
five seekers (one with two CV versions, one whose JDs all loop, one blank CV), two jobs, one `run_batch`, published to
SQLite. `expected.json` holds what that code answered.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from girl_features.batch.lineage import history, rows_of_run
from girl_features.batch.local import local_chunks
from girl_features.batch.run import run_batch
from girl_features.batch.run_log import RunLog
from girl_features.config import GirlConfig, load_config
from girl_features.generator.opening import LoadedModels
from girl_features.lookup import FeatureClient
from girl_features.store.parts import PartsStore
from tests.fakes import HashingEncoder, TemplateGenerator, feature_contract
from tests.input_tables import day

FIXTURE = Path(__file__).parent / "fixtures" / "release_0_1"
EXPECTED: dict[str, Any] = json.loads((FIXTURE / "expected.json").read_text(encoding="utf-8"))
CONTRACT = feature_contract(day(10).isoformat(), n=2).model_copy(update={"pipeline_version": 3})


@pytest.fixture
def workspace(tmp_path: Path) -> GirlConfig:
    shutil.copytree(FIXTURE, tmp_path / "copy")
    definitions = tmp_path / "copy" / "workspace" / "feature_repo" / "girl_definitions.py"
    store = str(tmp_path / "copy" / "workspace" / "store")
    definitions.write_text(definitions.read_text().replace("/srv/girl/release_0_1/workspace/store", store))
    return load_config(tmp_path / "copy" / "girl.yaml")


def test_the_contract_has_the_fingerprint_of_the_earlier_release(workspace: GirlConfig) -> None:
    assert (CONTRACT.fingerprint, CONTRACT.encoder.fingerprint) == (
        EXPECTED["fingerprint"],
        EXPECTED["encoder_fingerprint"],
    )
    assert PartsStore(workspace.store_dir).contracts() == {EXPECTED["fingerprint"]: CONTRACT}


def test_the_online_store_answers_what_the_earlier_release_answered(workspace: GirlConfig) -> None:
    with FeatureClient(workspace.feast_repo, EXPECTED["fingerprint"], deadline_ms=60_000) as client:
        seekers = client.job_seekers(list(EXPECTED["vectors"]))
        jobs = client.jobs(list(EXPECTED["job_vectors"]))
    assert seekers.problem is None
    assert seekers.has_generated_jd.tolist() == list(EXPECTED["has_generated_jd"].values())
    assert seekers.vectors.tolist() == list(EXPECTED["vectors"].values())
    assert jobs.vectors.tolist() == list(EXPECTED["job_vectors"].values())


def test_runs_and_histories_are_read(workspace: GirlConfig) -> None:
    store = PartsStore(workspace.store_dir)
    (record,) = RunLog(workspace.runs_dir).records()
    assert (record.status, record.totals["n_generated"]) == ("finished", EXPECTED["report"]["n_generated"])
    rows = rows_of_run(store, record.contract, record.id)
    assert (rows.n_generated, rows.n_failed, rows.n_no_cv) == (4, 1, 1)
    assert [row["status"] for row in history(store, "s1")] == ["stored", "stored"]
    assert [row["status"] for row in history(store, "s3")] == ["looping"]


def test_a_second_run_makes_nothing_again_and_publishes(workspace: GirlConfig) -> None:
    models = LoadedModels(HashingEncoder(), TemplateGenerator(), CONTRACT)
    report = run_batch(workspace, CONTRACT, local_chunks(models))
    assert (report.n_planned, report.n_cv_vectors, report.n_jd_vectors, report.n_damaged_parts) == (0, 0, 0, 0)
    assert (report.n_unchanged, report.n_failed_before) == (EXPECTED["report"]["n_generated"], 1)
    with FeatureClient(workspace.feast_repo, CONTRACT.fingerprint, deadline_ms=60_000) as client:
        seekers = client.job_seekers(list(EXPECTED["vectors"]))
    assert seekers.vectors.tolist() == list(EXPECTED["vectors"].values())


def test_the_rules_of_this_release_make_features_anew_beside_the_earlier_ones(workspace: GirlConfig) -> None:
    contract = feature_contract(day(10).isoformat(), n=2)
    report = run_batch(workspace, contract, local_chunks(LoadedModels(HashingEncoder(), TemplateGenerator(), contract)))
    assert (report.n_planned, report.n_unchanged) == (6, 0)
    assert set(PartsStore(workspace.store_dir).contracts()) == {CONTRACT.fingerprint, contract.fingerprint}
    for fingerprint in (CONTRACT.fingerprint, contract.fingerprint):
        with FeatureClient(workspace.feast_repo, fingerprint, deadline_ms=60_000) as client:
            seekers = client.job_seekers(list(EXPECTED["vectors"]))
        assert seekers.problem is None
        if fingerprint == CONTRACT.fingerprint:
            assert seekers.vectors.tolist() == list(EXPECTED["vectors"].values())
