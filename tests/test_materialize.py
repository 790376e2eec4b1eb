"""The batch job with fakes: what is planned, what is written, and what a second run does."""

from __future__ import annotations

import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features.batch.chunk import pool_samples
from girl_features.contract import FeatureContract
from girl_features.errors import ContractMismatchError, StoreLockedError
from girl_features.store.parts import PartsStore
from tests.fakes import HashingEncoder, TemplateGenerator, feature_contract
from tests.input_tables import day, load, write_tables
from tests.local_batch import materialize

CREATED = datetime(2024, 1, 1, tzinfo=UTC)
TRAINED_UNTIL = day(10)
CONTRACT = feature_contract(TRAINED_UNTIL.isoformat())


def _run(
    folder, store, seekers, *, contract=CONTRACT, generator=None, chunk_size=2, stop=lambda: False, lock_wait_s=0.0
):  # type: ignore[no-untyped-def]
    # every seeker needs a decision only for the third table to be readable; none is used here
    rows = {"job_seekers": seekers, "interactions": []}
    with load(write_tables(folder, rows)) as tables:
        return materialize(
            tables,
            generator or TemplateGenerator(),
            HashingEncoder(),
            contract,
            store,
            chunk_size=chunk_size,
            run="test-run",
            engine="template",
            now=lambda: CREATED,
            should_stop=stop,
            lock_wait_s=lock_wait_s,
        )


def _rows(store: PartsStore, view: str, columns: str, contract: FeatureContract = CONTRACT) -> list[tuple]:  # type: ignore[type-arg]
    fingerprint = contract.encoder.fingerprint if view.endswith("vectors") else contract.fingerprint
    relation = store.scan(view, fingerprint)
    if relation is None:
        return []
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone='UTC'")
        rows = connection.execute(f"SELECT {columns} FROM {relation} ORDER BY ALL").fetchall()
    return [tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in row) for row in rows]


def test_versions_superseded_before_training_ended_get_no_row(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    seekers = [
        ("old", "first", day(1)),
        ("old", "second", day(9)),  # the newest when training ended
        ("both", "before", day(3)),
        ("both", "after", day(20)),
        ("new", "late", day(30)),
        ("new", "at the end", day(10)),
    ]
    report = _run(tmp_path, store, seekers)
    assert _rows(store, "generated_jds", "job_seeker_id, updated_at, event_timestamp, created_timestamp") == [
        ("both", day(3), day(10), CREATED),  # known only once the generator was
        ("both", day(20), day(20), CREATED),
        ("new", day(10), day(10), CREATED),
        ("new", day(30), day(30), CREATED),
        ("old", day(9), day(10), CREATED),
    ]
    assert (report.n_planned, report.n_generated, report.n_failed) == (5, 5, 0)
    assert _rows(store, "cv_vectors", "count(*)") == [(5,)]
    assert _rows(store, "jd_vectors", "count(*)") == [(2,)]


def test_a_second_run_generates_nothing_and_a_changed_cv_only_itself(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    seekers = [("a", "cook", day(11)), ("b", "nurse", day(12)), ("c", "  ", day(13))]
    first = _run(tmp_path, store, seekers)
    assert (first.n_generated, first.n_no_cv, first.n_failed) == (2, 1, 0)
    assert _rows(store, "failures", "job_seeker_id, status") == [("c", "no_cv")]
    assert first.n_cv_vectors == 3, "a blank CV has a vector, so its decisions can be scored"

    generator = TemplateGenerator()
    again = _run(tmp_path, store, seekers, generator=generator)
    assert generator.calls == []
    assert (again.n_planned, again.n_cv_vectors, again.n_jd_vectors) == (0, 0, 0)

    changed = [*seekers, ("a", "head cook", day(14))]
    third = _run(tmp_path, store, changed, generator=generator)
    assert [cv for cv, _ in generator.calls] == ["head cook"]
    assert third.n_generated == 1


def test_whoever_was_erased_is_not_generated_for_again(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    _run(tmp_path, store, [("gone", "cook", day(11)), ("stays", "nurse", day(12))])
    store.erase("gone")
    n_parts = len(list(store.root.rglob("part-*.parquet")))
    generator = TemplateGenerator()
    again = _run(tmp_path, store, [("gone", "head cook", day(13)), ("stays", "nurse", day(12))], generator=generator)
    assert generator.calls == []
    assert (again.n_planned, again.n_generated, again.n_cv_vectors) == (0, 0, 0)
    assert len(list(store.root.rglob("part-*.parquet"))) == n_parts, "no empty part either"
    store.lift("gone")
    assert _run(tmp_path, store, [("gone", "head cook", day(13))], generator=generator).n_generated == 1


def test_a_text_mended_in_place_is_generated_again(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    _run(tmp_path, store, [("a", "coook", day(11))])
    _run(tmp_path, store, [("a", "cook", day(11))])
    assert _rows(store, "generated_jds", "job_seeker_id, event_timestamp") == [("a", day(11)), ("a", day(11))]


def test_two_seekers_with_one_text_both_get_rows_and_the_same_jd(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    _run(tmp_path, store, [("a", "cook", day(11)), ("b", "cook", day(12))])
    (first, jd_first), (second, jd_second) = _rows(store, "generated_jds", "job_seeker_id, generated_jds")
    assert (first, second) == ("a", "b")
    assert jd_first == jd_second, "the seed follows the text, not the seeker"


def test_a_stop_finishes_the_chunk_and_the_next_run_does_the_rest(tmp_path: Path) -> None:
    store, generator = PartsStore(tmp_path / "store"), TemplateGenerator()
    seekers = [(f"s{i}", f"cv number {i}", day(11)) for i in range(7)]
    report = _run(tmp_path, store, seekers, generator=generator, stop=lambda: len(generator.calls) >= 3)
    assert report.stopped
    n = len(generator.calls)
    assert n in (4, 6), "the second chunk, and the third where it had begun"
    assert _rows(store, "generated_jds", "count(*)") == [(n,)], "nothing that was generated is thrown away"
    rest = _run(tmp_path, store, seekers, generator=generator)
    assert (rest.n_generated, len(generator.calls)) == (7 - n, 7)
    assert _rows(store, "generated_jds", "count(*), count(DISTINCT job_seeker_id)") == [(7, 7)]
    assert _rows(store, "cv_vectors", "count(*), count(DISTINCT job_seeker_id)") == [(7, 7)]


def test_samples_are_stored_each_and_pooled_by_mean(tmp_path: Path) -> None:
    contract = feature_contract(TRAINED_UNTIL.isoformat(), n=3)
    store = PartsStore(tmp_path / "store")
    _run(tmp_path, store, [("a", "cook", day(11))], contract=contract)
    ((texts, vector, n),) = _rows(store, "generated_jds", "generated_jds, generated_jd_vector, n_generated", contract)
    assert n == len(texts) == len(set(texts)) == 3
    np.testing.assert_allclose(vector, HashingEncoder().encode(texts).vectors.mean(0), atol=1e-6)


def test_pooling_by_hand() -> None:
    vectors = np.array([[1, 0], [3, 2], [5, 5]], np.float32)
    pooled = pool_samples(vectors, [2, 1])
    # the first CV has two vectors: ((1 + 3) / 2, (0 + 2) / 2); the second has one
    np.testing.assert_array_equal(pooled.means, [[2, 1], [5, 5]])
    # from (2, 1) the first two are (-1, -1) and (1, 1) away: (2 + 2) / 2; one vector is its own mean
    np.testing.assert_array_equal(pooled.dispersions, [2, 0])


def test_another_encoder_than_the_contracts_is_refused(tmp_path: Path) -> None:
    with load(write_tables(tmp_path)) as tables, pytest.raises(ContractMismatchError):
        materialize(
            tables,
            TemplateGenerator(),
            HashingEncoder(16),
            CONTRACT,
            PartsStore(tmp_path / "store"),
            chunk_size=2,
            run="test-run",
            engine="template",
        )


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    with store.lock(), pytest.raises(StoreLockedError):
        _run(tmp_path, store, [("a", "cook", day(11))])


def test_a_run_waits_for_a_short_holder(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    held = threading.Event()

    def hold() -> None:
        with store.lock():
            held.set()
            time.sleep(0.5)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    assert _run(tmp_path, store, [("a", "cook", day(11))], lock_wait_s=60).n_generated == 1
    thread.join()


@settings(max_examples=15, deadline=None)
@given(
    versions=st.sets(st.tuples(st.sampled_from("abc"), st.integers(0, 20)), max_size=10),
    trained_day=st.integers(0, 20),
)
def test_every_feature_a_label_may_use_is_there_and_is_the_newest(versions, trained_day) -> None:  # type: ignore[no-untyped-def]
    """Joined on event time, a decision after training finds the newest CV before it: as the plain definition does."""
    contract = feature_contract(day(trained_day).isoformat())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = PartsStore(folder / "store")
        _run(folder, store, [(s, f"cv of day {d}", day(d)) for s, d in sorted(versions)], contract=contract)
        rows = _rows(store, "generated_jds", "job_seeker_id, event_timestamp, updated_at", contract)
        cv_rows = _rows(store, "cv_vectors", "job_seeker_id, event_timestamp", contract)
    assert len(rows) == len({row[:2] for row in rows}), "no two rows of a seeker share an event time"
    for seeker in "abc":
        for decided in range(trained_day, 22):
            before = [day(d) for s, d in versions if s == seeker and d < decided]  # decided at that very instant
            cvs = [row[1] for row in cv_rows if row[0] == seeker and row[1] < day(decided)]
            assert max(cvs, default=None) == max(before, default=None)
            instant = day(decided) + timedelta(hours=1)
            known = [day(d) for s, d in versions if s == seeker and day(d) < instant]
            found = [row for row in rows if row[0] == seeker and row[1] < instant]
            assert (max(found, key=lambda r: r[1])[2] if found else None) == (max(known) if known else None)
