"""Point-in-time joins against a brute-force oracle, and the joins that are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from girl_features.errors import DataError, InvalidVectorError, LeakageError, StoreError, UnknownContractError
from girl_features.init_repo import write_repo
from girl_features.pairs import join_pairs
from girl_features.schema import Tier
from girl_features.store.parts import PartsStore
from girl_features.store.parts.part_files import commit_part
from girl_features.store.repo import apply_repo
from tests.fakes import feature_contract
from tests.store_rows import Row, write_rows

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
DAY = datetime(2022, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)
US = timedelta(microseconds=1)
CONTRACT = feature_contract(trained_until=LONG_AGO.isoformat(), dimension=3)
RIVAL = feature_contract(trained_until=LONG_AGO.isoformat(), dimension=3, seed=9)  # the same encoder
SEEKERS, JOBS = ("a", "b"), ("x", "y")


class Market(NamedTuple):
    repo: Path
    store: PartsStore

    def clear(self) -> None:
        for part in self.store.root.rglob("part-*.parquet"):
            part.unlink()


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    workspace = tmp_path_factory.mktemp("pairs")
    store = PartsStore(workspace / "store")
    store.save_contract(CONTRACT)
    store.save_contract(RIVAL)
    write_repo(workspace / "repo", store.root, "girl")
    apply_repo(workspace / "repo")
    return Market(workspace / "repo", store)


def decisions(*rows: tuple[str, str, datetime]) -> pl.DataFrame:
    return pl.DataFrame(
        rows,
        schema={
            "job_seeker_id": pl.String,
            "job_id": pl.String,
            "decided_at": pl.Datetime("us", "UTC"),
        },
        orient="row",
    )


def base_rows(ids: tuple[str, ...]) -> list[Row]:
    return [Row(name, LONG_AGO, LONG_AGO, [float(i + 1), 0.0, 0.0]) for i, name in enumerate(ids)]


# few distinct moments, a microsecond apart, so that ties and borders are common
moments = st.sampled_from([DAY - 2 * US, DAY - US, DAY, DAY + US, DAY + 2 * US])


@st.composite
def versions(draw: st.DrawFn, ids: tuple[str, ...], label: float) -> list[Row]:
    """Rows with distinct vectors, several for an id, no two of them equal in both times."""
    keys = draw(st.lists(st.tuples(st.sampled_from(ids), moments, moments), max_size=8, unique=True))
    return [Row(*key, [label, float(i + 1), 0.0]) for i, key in enumerate(keys)]


def newest_before(rows: list[Row], name: str, decided_at: datetime, as_served: bool) -> Row | None:
    """The slow, obvious answer: look at every row."""
    best: Row | None = None
    for row in rows:
        if row.id != name or row.known_at >= decided_at or (as_served and row.created_at >= decided_at):
            continue
        if best is None or (row.known_at, row.created_at) > (best.known_at, best.created_at):
            best = row
    return best


@settings(max_examples=25, deadline=None, phases=[Phase.reuse, Phase.generate])  # each example takes Feast a while
@given(
    cvs=versions(SEEKERS, 10.0),
    jds=versions(JOBS, 20.0),
    generated=versions(SEEKERS, 30.0),
    rival=versions(SEEKERS, 40.0),
    asked=st.lists(st.tuples(st.sampled_from(SEEKERS), st.sampled_from(JOBS), moments), min_size=1, max_size=12),
    n_parts=st.integers(1, 3),
)
def test_joins_agree_with_looking_at_every_row(
    market: Market,
    cvs: list[Row],
    jds: list[Row],
    generated: list[Row],
    rival: list[Row],
    asked: list[tuple[str, str, datetime]],
    n_parts: int,
) -> None:
    market.clear()
    write_rows(market.store, CONTRACT, base_rows(SEEKERS), base_rows(JOBS))
    for part in range(n_parts):
        own = slice(part, None, n_parts)
        write_rows(market.store, CONTRACT, cvs[own], jds[own], generated[own])
    write_rows(market.store, RIVAL, generated=rival)
    for as_served in (False, True):
        features = join_pairs(market.repo, CONTRACT, decisions(*asked), as_served=as_served)
        for i, (seeker, job, decided_at) in enumerate(asked):
            cv = newest_before(base_rows(SEEKERS) + cvs, seeker, decided_at, as_served)
            jd = newest_before(base_rows(JOBS) + jds, job, decided_at, as_served)
            own_generated = newest_before(generated, seeker, decided_at, as_served)
            assert cv is not None
            assert jd is not None
            assert features.cv[i].tolist() == cv.vector
            assert features.jd[i].tolist() == jd.vector
            if own_generated is not None and own_generated.known_at != max(cv.known_at, CONTRACT.trained_until):
                own_generated = None  # made from another version of the CV
            assert features.generated_jd[i].tolist() == (own_generated.vector if own_generated else [0.0, 0.0, 0.0])
            assert features.tier[i] == (Tier.PRIOR if own_generated is None else Tier.GENERATED)


@pytest.fixture
def small(market: Market) -> Market:
    """One CV, JD and generated JD for each id, known and created long ago."""
    market.clear()
    write_rows(market.store, CONTRACT, base_rows(SEEKERS), base_rows(JOBS), base_rows(SEEKERS))
    return market


def test_rows_keep_their_order_and_may_repeat(small: Market) -> None:
    rng = np.random.default_rng(5)
    rows = [(SEEKERS[i], JOBS[j], DAY + int(k) * US) for i, j, k in rng.integers(0, 2, (300, 3))]
    features = join_pairs(small.repo, CONTRACT, decisions(*rows))
    assert features.cv[:, 0].tolist() == [1.0 + SEEKERS.index(row[0]) for row in rows]
    assert features.jd[:, 0].tolist() == [1.0 + JOBS.index(row[1]) for row in rows]
    assert features.cv.dtype == features.jd.dtype == features.generated_jd.dtype == np.float32
    assert features.contract == CONTRACT.fingerprint


def test_a_newer_cv_without_a_generated_jd_does_not_keep_the_old_one(small: Market) -> None:
    write_rows(small.store, CONTRACT, [Row("a", DAY, DAY, [9.0, 0.0, 0.0])])
    features = join_pairs(small.repo, CONTRACT, decisions(("a", "x", DAY), ("a", "x", DAY + US)))
    assert features.tier.tolist() == [Tier.GENERATED, Tier.PRIOR]
    assert features.generated_jd[1].tolist() == [0.0, 0.0, 0.0]


def test_no_decisions_give_no_rows(small: Market) -> None:
    features = join_pairs(small.repo, CONTRACT, decisions())
    assert features.cv.shape == features.generated_jd.shape == (0, 3)
    assert features.n_pairs == 0


def test_before_the_first_generated_jd_all_are_prior(small: Market) -> None:
    features = join_pairs(small.repo, RIVAL, decisions(("a", "x", DAY)))
    assert features.tier.tolist() == [Tier.PRIOR]
    assert features.cv.tolist() == [[1.0, 0.0, 0.0]]


def test_decisions_the_generator_may_have_learned_from_are_refused(small: Market) -> None:
    later = feature_contract(trained_until=(DAY + US).isoformat(), dimension=3)
    rows = decisions(("a", "x", DAY + 2 * US), ("a", "x", DAY), ("b", "x", DAY - US), ("a", "y", DAY + US))
    with pytest.raises(LeakageError, match=r"2 of 4 decisions, the first of 2022-03-04 05:06.*train a generator"):
        join_pairs(small.repo, later, rows)


def _replace(part: Path, table: pa.Table) -> None:
    """Other rows in a part that is sound as a file."""
    part.unlink()
    commit_part(part.parent, table)


def test_an_offline_store_that_hands_over_later_rows_is_caught(small: Market) -> None:
    [part] = small.store.part_paths("generated_jds", CONTRACT.fingerprint)
    table = pq.read_table(part)
    late = pl.Series([DAY] * table.num_rows, dtype=pl.Datetime("us", "UTC")).to_arrow()
    name = "generated_jd_known_at"
    _replace(part, table.set_column(table.column_names.index(name), name, late))
    with pytest.raises(LeakageError, match=r"1 joined rows have a generated_jd_known_at .* 2022-03-04"):
        join_pairs(small.repo, CONTRACT, decisions(("a", "x", DAY)))


def test_missing_cvs_and_jobs_are_named(small: Market) -> None:
    rows = [("a", "x", DAY), *((f"new{i}", "x", DAY) for i in range(7))]
    with pytest.raises(StoreError, match=r"7 of 8 decisions have no cv_vector.*'new0'.*2 more ids.*girl materialize"):
        join_pairs(small.repo, CONTRACT, decisions(*rows))
    with pytest.raises(StoreError, match=r"1 of 1 decisions have no jd_vector.*'nowhere'"):
        join_pairs(small.repo, CONTRACT, decisions(("a", "nowhere", DAY)))


def test_a_backfill_is_usable_but_was_not_served(market: Market) -> None:
    market.clear()
    backfilled = [row._replace(created_at=DAY + timedelta(days=365)) for row in base_rows(SEEKERS)]
    write_rows(market.store, CONTRACT, base_rows(SEEKERS), base_rows(JOBS), backfilled)
    asked = decisions(("a", "x", DAY))
    assert join_pairs(market.repo, CONTRACT, asked).tier.tolist() == [Tier.GENERATED]
    assert join_pairs(market.repo, CONTRACT, asked, as_served=True).tier.tolist() == [Tier.PRIOR]


@pytest.mark.parametrize("bad", [[float("nan"), 1.0, 1.0], [1.0, 1.0], [0.0, 0.0, 0.0]])
def test_spoilt_vectors_are_caught(small: Market, bad: list[float]) -> None:
    [part] = small.store.part_paths("cv_vectors", CONTRACT.encoder.fingerprint)
    table = pq.read_table(part).to_pydict()
    table["cv_vector"][SEEKERS.index("b")] = bad
    _replace(part, pa.table(table, schema=pq.read_schema(part)))
    assert join_pairs(small.repo, CONTRACT, decisions(("a", "x", DAY))).n_pairs == 1
    with pytest.raises(InvalidVectorError, match=r"in the feature store.*'b'"):
        join_pairs(small.repo, CONTRACT, decisions(("a", "x", DAY), ("b", "x", DAY)))


def test_a_contract_the_repo_does_not_know(small: Market) -> None:
    unknown = feature_contract(trained_until=LONG_AGO.isoformat(), dimension=3, seed=77)
    with pytest.raises(UnknownContractError, match=CONTRACT.fingerprint):
        join_pairs(small.repo, unknown, decisions(("a", "x", DAY)))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (decisions(("a", "x", DAY)).drop("job_id"), "lack the columns"),
        (decisions(("a", "x", DAY)).with_columns(job_id=pl.lit(1)), "job_id should be strings"),
        (decisions(("a", "x", DAY)).with_columns(pl.col("decided_at").dt.replace_time_zone(None)), "with a zone"),
        (decisions(("a", "x", DAY)).with_columns(job_seeker_id=pl.lit(None, pl.String)), "job_seeker_id has 1 null"),
    ],
)
def test_decisions_of_another_form_are_refused(small: Market, table: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        join_pairs(small.repo, CONTRACT, table)


def test_times_of_another_zone_and_unit_are_the_same_moment(small: Market) -> None:
    write_rows(small.store, CONTRACT, cvs=[Row("a", DAY, DAY, [7.0, 0.0, 0.0])])
    asked = decisions(("a", "x", DAY), ("a", "x", DAY + US))
    tokyo = asked.with_columns(pl.col("decided_at").dt.convert_time_zone("Asia/Tokyo").dt.cast_time_unit("ns"))
    for table in (asked, tokyo):
        assert join_pairs(small.repo, CONTRACT, table).cv[:, 0].tolist() == [1.0, 7.0]


def test_there_is_no_repo_there(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="`girl materialize` makes one"):
        join_pairs(tmp_path, CONTRACT, decisions(("a", "x", DAY)))
