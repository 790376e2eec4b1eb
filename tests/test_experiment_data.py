"""What an experiment reads: the CV versions it needs, nobody who was erased, the generator it trained."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from girl_features.errors import GirlError
from girl_features.input.splits import Windows
from girl_features.lab.experiment import report as experiment_report
from girl_features.lab.experiment.data import keep_ranked_cvs, load_data
from girl_features.lab.experiment.report import make_extras
from girl_features.lab.experiment.results import DataResults
from girl_features.store.parts import PartsStore
from girl_features.store.parts.tombstones import Tombstones, copy_tombstones, id_hash, lift_tombstone, raise_tombstone
from tests.experiment_world import config_for, prepared_for, steps_for
from tests.input_tables import GOOD, day, load, rows_of, write_tables

WINDOWS = Windows(day(2), day(3), day(4), day(14), day(24))
VERSIONS = [("s1", f"version {i}", day(i)) for i in (0, 3, 6, 20, 30)] + [("s2", "another", day(0))]
DECISIONS = [
    *((seeker, job, job == "j1", day(at)) for seeker in ("s1", "s2") for job in ("j1", "j2") for at in (1, 5, 15, 25)),
    ("s1", "j1", True, day(20)),
]


def test_only_cvs_that_rankers_meet_are_kept(tmp_path: Path) -> None:
    rows = {"job_seekers": VERSIONS, "interactions": DECISIONS, "jobs": [(j, t, day(0)) for j, t, _ in GOOD["jobs"]]}
    with load(write_tables(tmp_path, rows)) as tables:
        whole = load_data("d", tables, WINDOWS)
        keep_ranked_cvs(tables, WINDOWS)
        # day 5 reads version 3, days 15 and 20 version 6 (20 is not before day 20), day 25 version 20
        kept = [(row[0], row[1]) for row in rows_of(tables, "job_seekers")]
        assert kept == [("s1", "version 20"), ("s1", "version 3"), ("s1", "version 6"), ("s2", "another")]
        narrowed = load_data("d", tables, WINDOWS)
    for part, frame in whole.decisions.items():
        assert frame.equals(narrowed.decisions[part]), "the ranking windows read what they read before"


def test_an_experiment_is_without_those_who_were_erased(tmp_path: Path) -> None:
    rows = {"job_seekers": VERSIONS, "interactions": DECISIONS, "jobs": [(j, t, day(0)) for j, t, _ in GOOD["jobs"]]}
    with load(write_tables(tmp_path, rows)) as tables:
        tables.erased = Tombstones({"job_seeker_id": frozenset([id_hash("s2")])})
        data = load_data("d", tables, WINDOWS)
    assert set(pl.concat(list(data.decisions.values()))["job_seeker_id"]) == {"s1"}
    assert set(data.history.job_seeker_ids.tolist()) == {"s1"}


def test_tombstones_are_taken_over(tmp_path: Path) -> None:
    raise_tombstone(tmp_path / "own", "job_seeker_id", "s2")
    (tmp_path / "own" / ".tombstones" / "notes.json").write_text("{}")
    for _ in range(2):
        copy_tombstones(tmp_path / "own", tmp_path / "experiment")
        assert PartsStore(tmp_path / "experiment").is_erased("s2")
    assert len(list((tmp_path / "experiment" / ".tombstones").iterdir())) == 1
    assert lift_tombstone(tmp_path / "experiment", "job_seeker_id", "s2")
    copy_tombstones(tmp_path / "nowhere", tmp_path / "experiment")
    assert not PartsStore(tmp_path / "experiment").is_erased("s2")


def test_an_extra_that_fails_says_so_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise GirlError("the endpoint is down; start it and run again")

    monkeypatch.setattr(experiment_report, "measure_run", fails)
    config = config_for(tmp_path, ground_queries=5)
    results = DataResults(config, prepared_for(tmp_path, "market"), [], [], {}, {})
    found = make_extras(results, steps_for(None))
    assert "**Not made:** the endpoint is down; start it and run again" in "\n".join(found.blocks)
    assert found.values == {"not_made": "the endpoint is down; start it and run again"}
