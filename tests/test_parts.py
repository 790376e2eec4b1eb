"""PartsStore: what may enter, what a crash leaves, who may write."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features import schema
from girl_features.contract import FeatureContract
from girl_features.errors import (
    AmbiguousContractError,
    InvalidVectorError,
    StoreError,
    StoreLockedError,
    UnknownContractError,
)
from girl_features.store.parts import PartsStore
from girl_features.store.parts.part_files import quarantined
from girl_features.store.parts.rows import check_vectors
from tests.fakes import feature_contract
from tests.store_rows import Row, cv_table, generated_table, jd_table

NOW = datetime(2024, 5, 1, tzinfo=UTC)
CONTRACT = feature_contract(dimension=2)
ENCODER = CONTRACT.encoder.fingerprint
ROWS = [Row("s1", NOW, NOW, [1.0, 0.0]), Row("s2", NOW, NOW, [0.5, 2.0])]


@pytest.fixture
def store(tmp_path: Path) -> PartsStore:
    store = PartsStore(tmp_path / "store")
    store.save_contract(CONTRACT)
    return store


def test_rows_come_back_as_written(store: PartsStore) -> None:
    path = store.write_part("generated_jds", CONTRACT.fingerprint, generated_table(CONTRACT, ROWS))
    assert path.parent == store.root / "generated_jds" / CONTRACT.fingerprint
    assert store.part_paths("generated_jds", CONTRACT.fingerprint) == [path]
    back = pq.read_table(path)
    assert back.select(schema.GENERATED_SCHEMA.names).equals(generated_table(CONTRACT, ROWS))
    assert back[schema.GENERATED_JD_KNOWN_AT].equals(back[schema.EVENT_TIMESTAMP])


def test_scan_sees_all_parts_and_nothing_else(store: PartsStore) -> None:
    assert store.scan("cv_vectors", ENCODER) is None
    for row in ROWS:
        store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, [row]))
    (store.view_dir("cv_vectors", ENCODER) / ".tmp-0123").write_bytes(b"half a file")
    ids = duckdb.sql(f"SELECT job_seeker_id FROM {store.scan('cv_vectors', ENCODER)} ORDER BY ALL").fetchall()
    assert ids == [("s1",), ("s2",)]


def test_a_part_cut_or_flipped_anywhere_is_set_aside(store: PartsStore, caplog: pytest.LogCaptureFixture) -> None:
    good = store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, ROWS))
    poor = store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, ROWS))
    whole = poor.read_bytes()
    for at in range(0, len(whole), 64):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            poor.write_bytes(data)
            assert str(good) in str(store.scan("cv_vectors", ENCODER))
            assert store.sound_parts("cv_vectors", ENCODER) == [good]
            [damaged] = quarantined(good.parent)
            assert damaged.read_bytes() == data
            assert poor.name in caplog.text
            damaged.unlink()
            caplog.clear()


def test_an_fsync_that_fails_commits_nothing(store: PartsStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StoreError, match="Input/output error"):
        store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, ROWS))
    assert store.part_paths("cv_vectors", ENCODER) == []
    assert not list(store.root.rglob(".tmp-*"))


def test_a_path_with_a_quote_can_be_scanned(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "o'brien" / "store")
    store.save_contract(CONTRACT)
    store.write_part("jd_vectors", ENCODER, jd_table(CONTRACT, ROWS))
    assert duckdb.sql(f"SELECT count(*) FROM {store.scan('jd_vectors', ENCODER)}").fetchall() == [(2,)]


def test_a_path_that_is_a_pattern_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="pattern"):
        PartsStore(tmp_path / "runs[1]")


def test_polars_tables_are_taken(store: PartsStore) -> None:
    table = pl.DataFrame(cv_table(CONTRACT, ROWS)).to_arrow()
    assert table.schema.field(schema.CV_VECTOR).type == pa.large_list(pa.float32())
    path = store.write_part("cv_vectors", ENCODER, table.select(table.column_names[::-1]))
    assert pq.read_table(path).select(schema.CV_VECTORS_SCHEMA.names).equals(cv_table(CONTRACT, ROWS))


@pytest.mark.parametrize("name", ["../cv_vectors", "cv_vectors/..", "", "/etc", "CV_VECTORS", "cv_vectors\0"])
def test_other_view_names_are_refused(store: PartsStore, name: str) -> None:
    with pytest.raises(StoreError, match="no view"):
        store.view_dir(name, ENCODER)


@pytest.mark.parametrize("name", ["..", "", "../../../etc", "A" * 12, "0" * 11, "0" * 13, "0" * 12 + "\n", "*" * 12])
def test_other_fingerprints_are_refused(store: PartsStore, name: str) -> None:
    with pytest.raises(StoreError, match="not a fingerprint"):
        store.write_part("cv_vectors", name, cv_table(CONTRACT, ROWS))


def _without(name: str) -> pa.Table:
    return cv_table(CONTRACT, ROWS).drop_columns([name])


def _with(name: str, values: pa.Array) -> pa.Table:
    table = cv_table(CONTRACT, ROWS)
    return table.set_column(table.column_names.index(name), name, values)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (_without(schema.CV_HASH), "needs the columns"),
        (_with(schema.EVENT_TIMESTAMP, pa.array([NOW, NOW], pa.timestamp("us"))), "should be timestamp"),
        (_with(schema.EVENT_TIMESTAMP, pa.array([NOW, NOW], pa.timestamp("ns", "UTC"))), "should be timestamp"),
        (_with(schema.JOB_SEEKER_ID, pa.array([1, 2])), "should be string, found int64"),
        (_with(schema.JOB_SEEKER_ID, pa.array(["s1", None])), "'job_seeker_id' has 1 nulls"),
        (_with(schema.CONTRACT, pa.array([ENCODER, "0" * 12])), "rows of contract"),
        (_with(schema.JOB_SEEKER_ID, pa.array(["s1", "s1"])), "which is newer: 's1'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(store: PartsStore, table: pa.Table, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        store.write_part("cv_vectors", ENCODER, table)
    assert store.part_paths("cv_vectors", ENCODER) == []


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ([float("nan"), 1.0], "NaN, infinite or all zero: 's2'"),
        ([float("inf"), 1.0], "NaN, infinite or all zero: 's2'"),
        ([1e300, 1.0], "NaN, infinite or all zero: 's2'"),  # too large for a float32
        ([0.0, 0.0], "NaN, infinite or all zero: 's2'"),
        ([1.0, 2.0, 3.0], "dimension 3, wanted 2: 's2'"),
        ([], "dimension 0, wanted 2: 's2'"),
    ],
)
def test_bad_vectors_are_refused_by_name(store: PartsStore, vector: list[float], message: str) -> None:
    with np.errstate(over="ignore"):
        vectors = pa.array([np.array(ROWS[0].vector, "f4"), np.array(vector).astype("f4")], schema.VECTOR)
    with pytest.raises(InvalidVectorError, match=message):
        store.write_part("cv_vectors", ENCODER, _with(schema.CV_VECTOR, vectors))
    assert store.part_paths("cv_vectors", ENCODER) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0.0, -0.0, 1.5, float("nan"), float("-inf"), None]), max_size=4), min_size=1))
def test_check_vectors_agrees_with_a_plain_loop(vectors: list[list[float | None]]) -> None:
    def good(vector: list[float | None]) -> bool:
        return (
            len(vector) == 2 and all(x is not None and np.isfinite(x) for x in vector) and any(x != 0 for x in vector)
        )

    column = pa.chunked_array([pa.array(vectors, schema.VECTOR)])
    ids = pa.chunked_array([pa.array([str(i) for i in range(len(vectors))])])
    if all(map(good, vectors)):
        check_vectors(column, 2, ids, "v")
    else:
        with pytest.raises(InvalidVectorError):
            check_vectors(column, 2, ids, "v")


def test_a_full_disk_leaves_the_old_parts_and_nothing_else(store: PartsStore) -> None:
    old = store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, ROWS))
    rng = np.random.default_rng(0)
    many = [Row(f"s{i}", NOW, NOW, rng.normal(size=2).tolist()) for i in range(2000)]
    before = set(old.parent.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(StoreError, match=rf"cannot write {old.parent}/part-.*bytes wanted"):
            store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, many))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert set(old.parent.iterdir()) == before
    assert pq.read_table(old).num_rows == 2


def test_stale_temporaries_are_counted_and_removed(store: PartsStore) -> None:
    part = store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, ROWS))
    for folder in (store.root, part.parent, store.root / "contracts"):
        (folder / ".tmp-killed").write_bytes(b"half")
    assert store.clean_temporaries() == 3
    assert store.clean_temporaries() == 0
    assert part.exists()


def test_rows_need_a_saved_contract(tmp_path: Path) -> None:
    with pytest.raises(UnknownContractError, match="holds no contract yet"):
        PartsStore(tmp_path / "store").write_part("cv_vectors", ENCODER, cv_table(CONTRACT, ROWS))


def _contracts(n: int) -> list[FeatureContract]:
    return [feature_contract(seed=seed) for seed in range(n)]


def test_contracts_come_back_oldest_first(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    with pytest.raises(UnknownContractError):
        store.newest_contract()
    saved = _contracts(5)
    for contract in saved:
        store.save_contract(contract)
    store.save_contract(saved[0])  # a second time changes nothing
    assert list(store.contracts().values()) == saved
    assert store.newest_contract() == saved[-1]


def test_a_contract_is_found_by_its_first_digits(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    saved = _contracts(17)  # more than there are first digits, so that two share one
    for contract in saved:
        store.save_contract(contract)
    for contract in saved:
        assert store.contract(contract.fingerprint) == contract
    first_digits = [contract.fingerprint[0] for contract in saved]
    shared = next(digit for digit in first_digits if first_digits.count(digit) > 1)
    with pytest.raises(AmbiguousContractError, match="give more digits"):
        store.contract(shared)
    for absent in ("", "z", "../contracts"):
        with pytest.raises(UnknownContractError, match="girl materialize"):
            store.contract(absent)


def test_an_altered_contract_file_is_refused(store: PartsStore) -> None:
    path = store.root / "contracts" / f"{CONTRACT.fingerprint}.json"
    envelope = json.loads(path.read_text())
    envelope["contract"]["prompt_version"] = "another"
    path.write_text(json.dumps(envelope))
    with pytest.raises(StoreError, match="renamed or altered"):
        store.contracts()
    path.write_text(path.read_text()[:40])
    with pytest.raises(StoreError, match="is not a contract"):
        store.contracts()


def test_a_removed_contract_can_be_saved_again_and_has_its_rows(store: PartsStore) -> None:
    store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, ROWS))
    store.remove_contract(CONTRACT.fingerprint[:5])
    assert store.contracts() == {}
    store.save_contract(CONTRACT)
    assert len(store.part_paths("cv_vectors", ENCODER)) == 1


def test_a_second_holder_is_told_who_holds_the_lock(store: PartsStore) -> None:
    with store.lock(), pytest.raises(StoreLockedError, match=r"process \d+ on .+ since 2"), store.lock(0):
        pass
    with store.lock():  # let go at the end of the block
        pass


def test_a_second_holder_waits_its_time_and_is_told_for_whom(
    store: PartsStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("girl_features.store.files.WARN_AFTER_S", 0.1)
    held, order = threading.Event(), []

    def hold() -> None:
        with store.lock():
            held.set()
            time.sleep(0.4)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with store.lock():
        order.append("second")
    thread.join()
    assert order == ["first", "second"]
    [told] = caplog.messages
    assert "waiting" in told and f"process {os.getpid()} on" in told


def test_the_lock_of_a_killed_holder_is_taken_over(store: PartsStore) -> None:
    code = (
        "import sys, time; from pathlib import Path; from girl_features.store.files import exclusive_lock\n"
        "with exclusive_lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store.root / ".lock")], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreLockedError, match=f"process {holder.pid} "), store.lock(0):
            pass
        holder.kill()
        holder.wait()
        with store.lock():
            assert json.loads((store.root / ".lock").read_text())["pid"] != holder.pid


def test_parts_written_later_sort_later(store: PartsStore) -> None:
    written = [
        store.write_part("cv_vectors", ENCODER, cv_table(CONTRACT, [row._replace(known_at=NOW + timedelta(days=i))]))
        for i, row in enumerate(ROWS * 3)
    ]
    assert store.part_paths("cv_vectors", ENCODER) == written
