"""Our offline store and Feast's own: one suite over both, an oracle, and the traps where Feast's own is wrong."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore, FileSource
from feast.data_format import DeltaFormat
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from girl_features.errors import InvalidVectorError, StoreError
from girl_features.store.offline import history
from girl_features.store.offline.offline_store import PartsDuckDBOfflineStore, parquet_location
from tests.feast_repos import (
    DAY,
    FEATURES,
    OUR_ENGINE,
    OUR_OFFLINE,
    OUR_SQLITE,
    SCHEMA,
    feature_view,
    open_store,
    row,
    rows_table,
    write_parts,
)

ROOT = Path(__file__).parents[1]
REFS = [f"facts:{name}" for name in FEATURES]
pytestmark = pytest.mark.filterwarnings("ignore:.*fetch_arrow_table.*:DeprecationWarning")


def entity_rows(*rows: tuple[str, float]) -> pd.DataFrame:
    """Entity rows with a column that is no key and a row number."""
    return pd.DataFrame(
        {
            "label": [f"label {i}" for i in range(len(rows))],
            "seeker": [seeker for seeker, _ in rows],
            "event_timestamp": pd.to_datetime([DAY + timedelta(days=day) for _, day in rows], utc=True),
            "nth": range(len(rows)),
        }
    )


def plain(value: Any) -> Any:
    """Arrow values in the form the oracle writes them."""
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def history_of(
    store: FeatureStore, entities: pd.DataFrame, cutoff: bool = False, refs: Sequence[str] = REFS
) -> list[dict[str, Any]]:
    job = store.get_historical_features(entities, list(refs), filter_by_created_timestamp=cutoff)
    return [{name: plain(value) for name, value in found.items()} for found in job.to_arrow().to_pylist()]


def by_oracle(
    rows: Sequence[dict[str, Any]], entities: pd.DataFrame, ttl: timedelta, cutoff: bool
) -> list[dict[str, Any]]:
    """The same by looking at every row for every entity row."""
    found = []
    for entity in entities.to_dict("records"):
        at = entity["event_timestamp"].to_pydatetime()
        seen = [
            r
            for r in rows
            if r["seeker"] == entity["seeker"]
            and r["event_timestamp"] <= at
            and (not ttl or r["event_timestamp"] + ttl >= at)
            and (not cutoff or (r["created_timestamp"] is not None and r["created_timestamp"] <= at))
        ]
        early = datetime.min.replace(tzinfo=UTC)
        best = max(seen, key=lambda r: (r["event_timestamp"], r["created_timestamp"] or early), default=None)
        features = {name: None if best is None else best[name] for name in FEATURES}
        found.append({**entity, "event_timestamp": at, **features})
    return found


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FeatureStore]:
    """Feast's own store and ours over one folder of parts, with and without a time to live."""
    folder = tmp_path_factory.mktemp("offline")
    write_parts(folder / "parts", [row("a", 0, 0, 1)])
    views = {"facts": timedelta(0), "facts_2d": timedelta(days=2)}
    return {
        name: open_store(
            folder / name, [feature_view(folder / "parts", ttl, view) for view, ttl in views.items()], offline=kind
        )
        for name, kind in (("stock", "duckdb"), ("ours", OUR_OFFLINE))
    }


def parts_of(stores: dict[str, FeatureStore]) -> Path:
    return Path(stores["ours"].get_feature_view("facts").batch_source.path)


BOTH = pytest.mark.parametrize("which", ["stock", "ours"])
ROWS = [row("a", 0, 0, 1), row("a", 2, 5, 2), row("a", 2, 4, 3), row("b", 1, 1, 4), row("b", 1, 9, 5)]


@BOTH
@pytest.mark.parametrize("cutoff", [False, True])
@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(days=2)])
def test_history_is_what_the_oracle_says(
    stores: dict[str, FeatureStore], which: str, cutoff: bool, ttl: timedelta
) -> None:
    write_parts(parts_of(stores), ROWS[:3], ROWS[3:])
    entities = entity_rows(*((s, d) for s in ("a", "b", "z") for d in (-1, 0, 1, 2, 3, 4, 4.5, 8, 10)))
    refs = [ref.replace("facts", "facts_2d") for ref in REFS] if ttl else REFS
    found = history_of(stores[which], entities, cutoff, refs)
    assert sorted(found, key=lambda r: r["nth"]) == by_oracle(ROWS, entities, ttl, cutoff)


moments = st.sampled_from([-1.0, 0.0, 1.0, 1.0 + 1e-6 / 86400, 2.0, 3.0])


@st.composite
def tables(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """Up to three parts; no two rows of an id equal in both times, as then Feast's own choice is chance."""
    times = st.tuples(st.sampled_from("abc"), moments, st.one_of(st.none(), moments))
    keys = draw(st.lists(times, min_size=1, max_size=14, unique=True))
    rows = []
    for i, (seeker, day, created) in enumerate(keys):
        made = row(seeker, day, created or 0.0, i + 1)
        if created is None:
            made["created_timestamp"] = None
        if draw(st.integers(0, 5)) == 0:
            made["vector"] = draw(st.sampled_from([None, [], [1.0], [1.0, 2.0, 3.0, 4.0, 5.0]]))
        if draw(st.integers(0, 5)) == 0:
            made["words"] = made["title"] = None
        rows.append(made)
    part_of = draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    return [[r for r, own in zip(rows, part_of, strict=True) if own == part] for part in range(3)]


asked = st.lists(st.tuples(st.sampled_from("abcz"), moments), min_size=1, max_size=10)


@settings(max_examples=80, deadline=None, phases=[Phase.reuse, Phase.generate, Phase.shrink])
@given(parts=tables(), asked=asked, cutoff=st.booleans(), ttl=st.sampled_from([0, 2]), few=st.sampled_from([0, 8]))
def test_any_history_is_what_the_oracle_says(
    stores: dict[str, FeatureStore],
    parts: list[list[dict[str, Any]]],
    asked: list[tuple[str, float]],
    cutoff: bool,
    ttl: int,
    few: int,
) -> None:
    write_parts(parts_of(stores), *parts)
    refs = [ref.replace("facts", "facts_2d") for ref in REFS] if ttl else REFS
    entities = entity_rows(*asked)
    before, history.FEW_VERSIONS = history.FEW_VERSIONS, few  # 0 takes the ASOF plan
    try:
        found = history_of(stores["ours"], entities, cutoff, refs)
    finally:
        history.FEW_VERSIONS = before
    assert found == by_oracle([r for part in parts for r in part], entities, timedelta(days=ttl), cutoff)


@BOTH
def test_pull_latest_and_pull_all(stores: dict[str, FeatureStore], which: str) -> None:
    write_parts(parts_of(stores), ROWS[:2], ROWS[2:])
    store = stores[which]
    source = store.get_feature_view("facts").batch_source
    names = (["seeker"], FEATURES, "event_timestamp", "created_timestamp")
    offline = store._get_provider().offline_store
    start, end = DAY + timedelta(days=1), DAY + timedelta(days=2)
    latest = offline.pull_latest_from_table_or_query(store.config, source, *names, start, end).to_arrow()
    assert latest.column_names == [*names[0], *names[1], *names[2:]]
    assert sorted(latest["count"].to_pylist()) == [2, 5]
    early = offline.pull_latest_from_table_or_query(store.config, source, *names, DAY, DAY).to_arrow()
    assert early["title"].to_pylist() == ["title 1"]
    everything = offline.pull_all_from_table_or_query(store.config, source, *names, start, end).to_arrow()
    assert sorted(everything["count"].to_pylist()) == [2, 3, 4, 5]
    unbounded = offline.pull_all_from_table_or_query(store.config, source, *names).to_arrow()
    assert sorted(unbounded["count"].to_pylist()) == [1, 2, 3, 4, 5]


@BOTH
def test_full_names_and_two_views_of_one_request(stores: dict[str, FeatureStore], which: str) -> None:
    write_parts(parts_of(stores), ROWS)
    job = stores[which].get_historical_features(
        entity_rows(("a", 3), ("b", 4)), ["facts:count", "facts_2d:title", "facts_2d:count"], full_feature_names=True
    )
    frame = job.to_df().sort_values("nth")
    assert list(frame.columns[4:]) == ["facts__count", "facts_2d__title", "facts_2d__count"]
    assert frame["facts__count"].tolist() == [2, 5]
    assert frame["facts_2d__title"].tolist()[0] == "title 2"
    assert frame["facts_2d__title"].isna().tolist() == [False, True]


@BOTH
def test_a_mapped_join_key(tmp_path: Path, which: str) -> None:
    renamed = rows_table(ROWS).rename_columns(["id", *SCHEMA.names[1:]])
    (tmp_path / "parts").mkdir()
    pq.write_table(renamed, tmp_path / "parts" / "0.parquet")
    view = feature_view(tmp_path / "parts", field_mapping={"id": "seeker"})
    store = open_store(tmp_path / "repo", [view], offline="duckdb" if which == "stock" else OUR_OFFLINE)
    assert history_of(store, entity_rows(("b", 3)))[0]["count"] == 5


def test_trap_2_history_keeps_the_entity_rows_order(stores: dict[str, FeatureStore]) -> None:
    write_parts(parts_of(stores), [row(f"s{i}", 0, 0, i + 1) for i in range(500)])
    asked = [(f"s{(i * 7919) % 700}", 1.0) for i in range(2000)]
    found = history_of(stores["ours"], entity_rows(*asked), refs=["facts:count"])
    assert [r["nth"] for r in found] == list(range(2000))
    assert [r["seeker"] for r in found] == [seeker for seeker, _ in asked]


def test_many_row_groups_and_batches(stores: dict[str, FeatureStore], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(f"s{i % 40}", i // 40, 0, i + 1) for i in range(200)]
    rows[17]["vector"] = [1.0]  # not picked by anybody: the others are still read as one array
    write_parts(parts_of(stores), [])
    for i in range(2):
        path = parts_of(stores) / f"{i:03d}.parquet"
        pq.write_table(rows_table(rows[i::2]), path, row_group_size=7)
    monkeypatch.setattr(history, "GATHER_ROWS", 3)
    entities = entity_rows(*((f"s{i % 40}", 4.0 - (i % 2)) for i in range(90) if i % 40 != 17))
    assert history_of(stores["ours"], entities) == by_oracle(rows, entities, timedelta(0), False)


def test_trap_3_the_created_cutoff_shuts_out_a_backfill_and_the_event_time_does_not(
    stores: dict[str, FeatureStore],
) -> None:
    write_parts(parts_of(stores), [row("a", 0, 300, 1)])
    asked = entity_rows(("a", 1.0))
    assert history_of(stores["ours"], asked)[0]["count"] == 1
    assert history_of(stores["ours"], asked, cutoff=True)[0]["count"] is None


def test_trap_8_a_wrong_dimension_is_refused_by_name(stores: dict[str, FeatureStore]) -> None:
    store = stores["ours"]
    for bad in ([1.0, 2.0], [float("nan")] * 4, [0.0] * 4, [float("inf"), 0, 0, 1]):
        table = rows_table([row("fine", 0, 0, 1), {**row("poor", 0, 0, 1), "vector": bad}])
        with pytest.raises(InvalidVectorError, match="'poor'"):
            PartsDuckDBOfflineStore.offline_write_batch(store.config, store.get_feature_view("facts"), table, None)


def test_trap_10_a_relative_path_counts_from_the_repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parts(tmp_path / "repo" / "parts", [row("a", 0, 0, 7)])
    store = open_store(tmp_path / "repo", [feature_view(tmp_path / "repo" / "parts")], offline=OUR_OFFLINE)
    view = store.get_feature_view("facts")
    view.batch_source = FileSource(name="here", path="parts", timestamp_field="event_timestamp")
    monkeypatch.chdir(tmp_path)
    assert parquet_location(store.config, view.batch_source) == tmp_path / "repo" / "parts"


def test_trap_11_a_delta_source_is_refused_rather_than_fetch_an_extension(stores: dict[str, FeatureStore]) -> None:
    source = FileSource(name="d", path="/nowhere", file_format=DeltaFormat(), timestamp_field="event_timestamp")
    with pytest.raises(StoreError, match="download an extension"):
        parquet_location(stores["ours"].config, source)


@pytest.mark.parametrize("kind", [("us", None), ("ns", None), ("ns", "UTC"), ("ms", None)])
def test_times_without_a_zone_or_in_nanoseconds(tmp_path: Path, kind: tuple[str, str | None]) -> None:
    """Feast's own engine stops at nanoseconds."""
    table = rows_table(ROWS)
    for name in ("event_timestamp", "created_timestamp"):
        own = table[name].cast(pa.timestamp(*kind))
        table = table.set_column(table.column_names.index(name), name, own)
    (tmp_path / "parts").mkdir()
    pq.write_table(table, tmp_path / "parts" / "0.parquet")
    store = open_store(
        tmp_path / "repo", [feature_view(tmp_path / "parts")], offline=OUR_OFFLINE, online=OUR_SQLITE, engine=OUR_ENGINE
    )
    entities = entity_rows(*((seeker, day) for seeker in "ab" for day in (0, 1, 2, 3)))
    fine = entities.assign(event_timestamp=entities["event_timestamp"].astype("datetime64[ns, UTC]"))
    for asked in (entities, fine):
        found = [r["count"] for r in history_of(store, asked)]
        assert found == [r["count"] for r in by_oracle(ROWS, entities, timedelta(0), False)]
    store.materialize(DAY - timedelta(days=1), DAY + timedelta(days=9))
    assert store.get_online_features(["facts:count"], {"seeker": ["a", "b"]}).to_dict()["count"] == [2, 5]


def test_the_memory_of_a_join_follows_its_result(tmp_path: Path) -> None:
    """Every row beside every version it may see would be 2 GB; the result is 41 MB."""
    code = """
import sys, numpy as np, pyarrow as pa, pyarrow.parquet as pq, pandas as pd
from datetime import timedelta
from pathlib import Path
from tests.feast_repos import DAY, OUR_OFFLINE, feature_view, open_store
folder, d = Path(sys.argv[1]), 512
who, day = np.tile(np.arange(100), 100), np.repeat(np.arange(100), 100)
times = pa.array([DAY + timedelta(days=int(i)) for i in day], pa.timestamp("us", "UTC"))
values = np.random.default_rng(0).random(10_000 * d, np.float32)
vectors = pa.ListArray.from_arrays(np.arange(10_001, dtype=np.int32) * d, values)
(folder / "parts").mkdir()
pq.write_table(pa.table({"seeker": [f"s{i}" for i in who], "event_timestamp": times, "created_timestamp": times,
                         "vector": vectors}), folder / "parts" / "0.parquet")
store = open_store(folder / "repo", [feature_view(folder / "parts")], offline=OUR_OFFLINE)
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
def join(n):
    at = DAY + pd.to_timedelta(np.arange(n) % 100, unit="D")
    entities = pd.DataFrame({"seeker": [f"s{i % 97}" for i in range(n)], "event_timestamp": at})
    return store.get_historical_features(entities, ["facts:vector"]).to_arrow()
join(10)
before = peak()
assert join(20_000)["vector"].null_count == 0
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 300


def test_append_is_one_new_file_and_feast_reads_it(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", ROWS[:2])
    ours = open_store(tmp_path / "repo", [feature_view(tmp_path / "parts")], offline=OUR_OFFLINE)
    before = {path.name: path.read_bytes() for path in (tmp_path / "parts").glob("*.parquet")}
    ours.write_to_offline_store("facts", rows_table(ROWS[2:]).to_pandas())
    after = {path.name: path.read_bytes() for path in (tmp_path / "parts").glob("*.parquet")}
    assert len(after) == 2
    assert before.items() <= after.items()
    stock = open_store(tmp_path / "stock", [feature_view(tmp_path / "parts")])
    asked = entity_rows(("a", 3), ("b", 3))
    assert sorted(history_of(stock, asked), key=lambda r: r["nth"]) == history_of(ours, asked)
    assert [r["count"] for r in history_of(ours, asked)] == [2, 5]


def test_a_source_that_is_one_file_grows_in_place(tmp_path: Path) -> None:
    path = tmp_path / "facts.parquet"
    pq.write_table(rows_table(ROWS[:2]), path)
    store = open_store(tmp_path / "repo", [feature_view(path)], offline=OUR_OFFLINE)
    store.write_to_offline_store("facts", rows_table(ROWS[2:]).to_pandas())
    assert pq.read_table(path)["count"].to_pylist() == [1, 2, 3, 4, 5]
    assert history_of(store, entity_rows(("b", 3)))[0]["count"] == 5


def test_rows_that_do_not_fit_are_refused(stores: dict[str, FeatureStore]) -> None:
    store, view = stores["ours"], stores["ours"].get_feature_view("facts")
    write_parts(parts_of(stores), ROWS)
    with pytest.raises(StoreError, match="send just those"):
        PartsDuckDBOfflineStore.offline_write_batch(store.config, view, rows_table(ROWS).drop_columns(["title"]), None)
    words = rows_table(ROWS)
    words = words.set_column(4, "count", pa.array(["many"] * len(ROWS)))
    with pytest.raises(StoreError, match="column 'count': it holds string, but the view declares Int64"):
        PartsDuckDBOfflineStore.offline_write_batch(store.config, view, words, None)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_part_is_set_aside_and_named(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    parts = tmp_path / "parts"
    write_parts(parts, ROWS[:2])
    store = open_store(tmp_path / "repo", [feature_view(parts)], offline=OUR_OFFLINE)
    store.write_to_offline_store("facts", rows_table(ROWS[2:]).to_pandas())
    [part] = parts.glob("part-*.parquet")
    data = bytearray(part.read_bytes())
    data[len(data) // 3] ^= 1
    part.write_bytes({"cut": bytes(data[:-9]), "flip": bytes(data), "empty": b""}[damage])
    with caplog.at_level(logging.ERROR):
        found = history_of(store, entity_rows(("a", 3), ("b", 3)))
    assert [r["count"] for r in found] == [2, None]
    assert part.name in caplog.text
    assert [path.name for path in (parts / ".quarantine").iterdir()] == [f"{part.name}.damaged"]


def test_a_folder_without_parts_says_so(tmp_path: Path) -> None:
    write_parts(tmp_path / "parts", ROWS)
    store = open_store(tmp_path / "repo", [feature_view(tmp_path / "parts")], offline=OUR_OFFLINE)
    (tmp_path / "parts" / "000.parquet").unlink()
    with pytest.raises(StoreError, match="no Parquet part in"):
        history_of(store, entity_rows(("a", 3)))
