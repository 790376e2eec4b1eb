"""Entities with integer ids: in the user's own views, and beside or in the place of our entities with text ids."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.data_format import ParquetFormat
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.type_map import python_values_to_proto_values
from feast.types import Int32, Int64, String

from girl_features.batch.publish import publish_contract
from girl_features.config import GirlConfig
from girl_features.errors import DataError, StoreError
from girl_features.init_repo import write_repo
from girl_features.store.erasing import erase
from girl_features.store.online.packed import single_keys
from girl_features.store.online.publishing import publish
from girl_features.store.parts import PartsStore
from girl_features.store.repo import ViewNames, apply_repo, open_repo
from girl_features.store.verify import verify
from tests.fakes import feature_contract
from tests.feast_repos import (
    DAY,
    OUR_ENGINE,
    OUR_OFFLINE,
    OUR_REDIS,
    OUR_SQLITE,
    needs_redis,
    open_store,
    redis_server,
)
from tests.store_rows import Row, write_rows

pytestmark = pytest.mark.filterwarnings("ignore:.*fetch_arrow_table.*:DeprecationWarning")

rng = random.Random(16)
WIDTHS = {ValueType.INT64: (64, Int64, pa.int64()), ValueType.INT32: (32, Int32, pa.int32())}
BEFORE, AFTER = DAY - timedelta(days=1), DAY + timedelta(days=1)


def integers(bits: int, n: int) -> list[int]:
    """Return n different integers: the extremes, small ones, and any others."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    found = {low, high, -1, 0, 5, 255, 256, *(rng.randint(low, high) for _ in range(2 * n))}
    return rng.sample(sorted(found), n)


@pytest.mark.parametrize("value_type", WIDTHS)
def test_keys_are_those_of_feast_and_never_those_of_texts(value_type: ValueType) -> None:
    ids = integers(WIDTHS[value_type][0], 1_000)
    keys = single_keys("seeker", ids, value_type, 3)
    protos = python_values_to_proto_values(ids, value_type)
    assert keys == [serialize_entity_key(EntityKey(join_keys=["seeker"], entity_values=[proto])) for proto in protos]
    texts = single_keys("seeker", list(map(str, ids)), ValueType.STRING, 3)
    assert texts is not None
    assert len({*keys, *texts}) == 2_000


def view_of(folder: Path, value_type: ValueType, source_file: str = "") -> FeatureView:
    dtype = WIDTHS[value_type][1]
    return FeatureView(
        name="facts",
        entities=[entity_of(value_type)],
        schema=[Field(name="seeker", dtype=dtype), Field(name="count", dtype=Int64)],
        source=FileSource(
            name="facts_source",
            path=str(folder / source_file),
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
        ),
        ttl=timedelta(0),
    )


def entity_of(value_type: ValueType) -> Entity:
    return Entity(name="person", join_keys=["seeker"], value_type=value_type)


def table_of(ids: list[int], value_type: ValueType) -> pa.Table:
    times = pa.array([DAY] * len(ids), pa.timestamp("us", "UTC"))
    return pa.table(
        {"seeker": pa.array(ids, WIDTHS[value_type][2]), "event_timestamp": times, "count": range(len(ids))}
    )


IDS = {value_type: integers(bits, 300) for value_type, (bits, _, _) in WIDTHS.items()}


@pytest.fixture(scope="module", params=[(t, k) for t in WIDTHS for k in ("sqlite", "redis")], ids=str)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FeatureStore, ValueType]]:
    """A repo with one view of integer ids, half of them appended, materialized; and an on-demand view over it."""
    value_type, kind = request.param
    if kind == "redis" and (reason := needs_redis()):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp(kind)
    (folder / "parts").mkdir()
    table = table_of(IDS[value_type], value_type)
    pq.write_table(table.slice(0, 150), folder / "parts" / "lake.parquet")
    view = view_of(folder / "parts", value_type)

    @on_demand_feature_view(
        sources=[view[["count"]], RequestSource(name="ask", schema=[Field(name="plus", dtype=Int64)])],
        schema=[Field(name="total", dtype=Int64)],
        mode="python",
    )
    def summed(inputs: dict[str, Any]) -> dict[str, Any]:
        return {"total": [(c or 0) + p for c, p in zip(inputs["count"], inputs["plus"], strict=True)]}

    def ready(online: Any) -> FeatureStore:
        store = open_store(
            folder / "repo",
            [entity_of(value_type), view, summed],
            offline=OUR_OFFLINE,
            online=online,
            engine=OUR_ENGINE,
        )
        store._get_provider().offline_store.offline_write_batch(store.config, view, table.slice(150), None)
        store.materialize(BEFORE, AFTER, ["facts"])
        return store

    if kind == "sqlite":
        yield ready(OUR_SQLITE), value_type
        return
    with redis_server(folder) as port:
        online = {"type": OUR_REDIS, "connection_string": f"127.0.0.1:{port}", "read_deadline_ms": 5000}
        yield ready(online), value_type


def test_every_id_has_its_own_features(opened: tuple[FeatureStore, ValueType]) -> None:
    store, value_type = opened
    ids = IDS[value_type]
    online = store.get_online_features(["facts:count"], {"seeker": [*ids, 12345]}).to_dict()
    assert online == {"seeker": [*ids, 12345], "count": [*range(300), None]}
    asked = pd.DataFrame({"seeker": [*ids, 12345], "event_timestamp": [DAY] * 301})
    history = store.get_historical_features(asked, ["facts:count"]).to_arrow()
    assert history["count"].to_pylist() == [*range(300), None]
    assert history["seeker"].to_pylist() == [*ids, 12345]
    both = store.get_online_features(
        ["summed:total", "facts:count"], [{"seeker": name, "plus": 1000} for name in ids]
    ).to_dict()
    assert both["total"] == list(range(1000, 1300))


EQUALS: list[Any] = ["5", 5.0, np.int64(5), np.int16(5), np.float32(5), Decimal(5), np.uint64(5), np.str_("5")]
WRONG: list[Any] = [True, np.True_, None, "05", "5.0", " 5", "+5", "٥", "x", "", 5.5, float("nan"), float("inf")]
WRONG += [2**63, -(2**63) - 1, "9223372036854775808", 2.0**53, b"5", Decimal("5.5"), pd.NA, [5]]


def test_a_request_may_name_the_id_in_another_type(opened: tuple[FeatureStore, ValueType]) -> None:
    store, value_type = opened
    expected = IDS[value_type].index(5) if 5 in IDS[value_type] else None
    for value in EQUALS:
        found = store.get_online_features(["facts:count"], [{"seeker": value}]).to_dict()
        assert found == {"seeker": [5], "count": [expected]}
        total = store.get_online_features(["summed:total"], [{"seeker": value, "plus": 1}]).to_dict()
        assert total["total"] == [(expected or 0) + 1]
    found = store.get_online_features(["facts:count"], {"seeker": EQUALS}).to_dict()
    assert found["count"] == [expected] * len(EQUALS)


@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_request_for_no_integer_is_refused_by_name(opened: tuple[FeatureStore, ValueType], value: Any) -> None:
    store, _ = opened
    with pytest.raises(DataError, match=r"row 1: the id .* of 'seeker'"):
        store.get_online_features(["facts:count"], [{"seeker": 5}, {"seeker": value}])
    with pytest.raises(DataError, match=r"row 1: the id .* of 'seeker'"):
        store.get_online_features(["facts:count"], {"seeker": [5, value]})
    with pytest.raises(DataError, match=r"row 0: the id .* of 'seeker'"):
        store.get_online_features(["summed:total"], [{"seeker": value, "plus": 1}])


@pytest.mark.parametrize("ids", [[None], [2**63 - 1, 2**31], [True], [0.5], ["x"]], ids=repr)
def test_a_source_with_other_ids_is_refused_by_name(tmp_path: Path, ids: list[Any]) -> None:
    store = open_store(tmp_path, [], offline=OUR_OFFLINE, online=OUR_SQLITE)
    view = view_of(tmp_path, ValueType.INT32)
    table = pa.table({"seeker": ids, "event_timestamp": [DAY] * len(ids), "count": [1] * len(ids)})
    online: Any = store._get_provider().online_store
    with pytest.raises(DataError, match=r"row 0: the id .* of 'seeker' of the view 'facts'"):
        online.write_arrow(store.config, view, table.to_batches()[0], "event_timestamp", None)


def test_feasts_own_store_has_the_same_keys(tmp_path: Path) -> None:
    ids = IDS[ValueType.INT64]
    (tmp_path / "parts").mkdir()
    pq.write_table(table_of(ids, ValueType.INT64), tmp_path / "parts" / "lake.parquet")
    found = {}
    for kind in ("sqlite", OUR_SQLITE):
        views = [entity_of(ValueType.INT64), view_of(tmp_path / "parts", ValueType.INT64)]
        store = open_store(tmp_path / kind, views, offline=OUR_OFFLINE, online=kind, engine=OUR_ENGINE)
        store.materialize(BEFORE, AFTER)
        found[kind] = store.get_online_features(["facts:count"], {"seeker": ids}).to_dict()
    assert found["sqlite"] == found[OUR_SQLITE]
    with sqlite3.connect(tmp_path / "sqlite" / "online.db") as connection:
        feast_keys = {key for (key,) in connection.execute("SELECT entity_key FROM shop_facts")}
    with sqlite3.connect(tmp_path / OUR_SQLITE / "online.db") as connection:
        our_keys = {key for (key,) in connection.execute("SELECT entity_key FROM packed_shop_facts")}
    assert our_keys == feast_keys
    assert {deserialize_entity_key(key).entity_values[0].int64_val for key in our_keys} == set(ids)


# beside our own views

THEIRS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Int64

{name} = Entity(name="{name}", join_keys=["job_seeker_id"], value_type=ValueType.INT64)
mine = FeatureView(
    name="mine",
    entities=[{name}],
    schema=[Field(name="job_seeker_id", dtype=Int64), Field(name="n", dtype=Int64)],
    source=FileSource(name="s", path="{folder}", file_format=ParquetFormat(), timestamp_field="event_timestamp"),
    ttl=timedelta(0),
)
"""
WITH_THEIRS = """
from my_views import {name}
from girl_features.store.feast_views import girl_feature_views

globals().update(girl_feature_views("{store}", job_seeker={name}))
"""
CONTRACT = feature_contract(seed=1)
KNOWN = datetime(2024, 5, 1, tzinfo=UTC)


def their_repo(folder: Path, ids: list[str], name: str, *, hand_over: bool) -> tuple[Path, PartsStore]:
    """Return a repo with a view of integer ids beside ours, and our store with rows of the text `ids`."""
    store = PartsStore(folder / "store")
    store.save_contract(CONTRACT)
    rows = [Row(own, KNOWN, KNOWN, [float(i + 1)] * CONTRACT.encoder.dimension) for i, own in enumerate(ids)]
    write_rows(store, CONTRACT, rows, [Row("j", KNOWN, KNOWN, [1.0] * CONTRACT.encoder.dimension)], rows)
    (folder / "theirs").mkdir()
    table = pa.table({"job_seeker_id": range(5), "event_timestamp": [KNOWN] * 5, "n": range(10, 15)})
    pq.write_table(table, folder / "theirs" / "a.parquet")
    write_repo(folder / "repo", store.root, "shop")
    (folder / "repo" / "my_views.py").write_text(THEIRS.format(name=name, folder=folder / "theirs"))
    if hand_over:
        (folder / "repo" / "girl_definitions.py").write_text(WITH_THEIRS.format(name=name, store=store.root))
    return folder / "repo", store


NAMES = ViewNames.of(CONTRACT)
REFS = ["mine:n", f"{NAMES.cv}:cv_vector", f"{NAMES.generated}:generated_jd_vector"]


def test_our_views_join_on_an_entity_with_integer_ids(tmp_path: Path) -> None:
    repo, store = their_repo(tmp_path, ["0", "1", "2"], "job_seeker", hand_over=True)
    apply_repo(repo)
    assert publish(repo, store, CONTRACT).total == 10
    feast_store = open_repo(repo)
    assert {e.name: e.value_type for e in feast_store.list_entities()}["job_seeker"] == ValueType.INT64
    feast_store.materialize(KNOWN - timedelta(days=1), KNOWN + timedelta(days=1))
    for ids in ([2, 0, 7], ["2", "0", "7"], [2.0, 0.0, 7.0]):
        found = feast_store.get_online_features(REFS, {"job_seeker_id": ids}).to_dict()
        assert found["job_seeker_id"] == [2, 0, 7]
        assert found["n"] == [12, 10, None]
        assert [vector and vector[0] for vector in found["cv_vector"]] == [3.0, 1.0, None]
        assert [vector and vector[0] for vector in found["generated_jd_vector"]] == [3.0, 1.0, None]
    asked = pd.DataFrame({"job_seeker_id": [2, 0, 7], "event_timestamp": [KNOWN] * 3})
    history = feast_store.get_historical_features(asked, REFS).to_arrow().to_pydict()
    assert (history["job_seeker_id"], history["n"]) == ([2, 0, 7], [12, 10, None])
    assert [vector and vector[0] for vector in history["cv_vector"]] == [3.0, 1.0, None]
    for ids in ([2.0, 0.0, 7.0], [Decimal("2.0"), Decimal(0), Decimal(7)], pd.Categorical([2, 0, 7]), [2, 0, None]):
        history = feast_store.get_historical_features(asked.assign(job_seeker_id=ids), REFS[1:2]).to_arrow()
        assert [vector and vector[0] for vector in history["cv_vector"].to_pylist()] == [3.0, 1.0, None]
    for wrong in (0.5, 2.0**53, Decimal("0.5")):
        with pytest.raises(DataError, match="'job_seeker_id' of the entity rows is"):
            feast_store.get_historical_features(asked.assign(job_seeker_id=[wrong] * 3), REFS[1:2]).to_arrow()
    assert verify(repo, store).agrees
    assert publish(repo, store, CONTRACT).total == 0
    assert erase(repo, store, "2")[1] == 3
    assert erase(repo, store, "not a number")[1] == 0
    found = feast_store.get_online_features(REFS[1:2], {"job_seeker_id": [2, 0]}).to_dict()
    assert found["cv_vector"][0] is None
    assert found["cv_vector"][1] is not None
    assert verify(repo, store).agrees


@pytest.mark.parametrize("odd", ["007", "5.0", "x", "9223372036854775808"])
def test_a_stored_id_that_is_no_integer_is_not_published_as_one(tmp_path: Path, odd: str) -> None:
    repo, store = their_repo(tmp_path, ["0", odd], "job_seeker", hand_over=True)
    apply_repo(repo)
    with pytest.raises(DataError, match=rf"row \d: the id '{odd}' .*of 'job_seeker_id' of the view 'cv_vectors_"):
        publish(repo, store, CONTRACT)


WITHOUT_THEIRS = """
from girl_features.store.feast_views import girl_feature_views
globals().update(girl_feature_views("{store}"))
"""
HAND_OVER = r"girl_feature_views\(STORE_DIR, job_seeker=job_seeker\)"


def feasts_own(repo: Path) -> None:
    """Take our stores and our engine out of the settings of a Feast repo."""
    path = repo / "feature_store.yaml"
    lines = path.read_text().replace(OUR_SQLITE, "sqlite").replace(OUR_OFFLINE, "duckdb").replace(OUR_ENGINE, "local")
    path.write_text(lines)


def config_of(folder: Path, repo: Path) -> GirlConfig:
    """Return a config whose workspace is `folder` and whose Feast repo is `repo`."""
    tables = {name: {"path": f"{name}.parquet"} for name in ("job_seekers", "jobs", "interactions")}
    return GirlConfig.model_validate({"tables": tables, "workspace": folder, "feast": {"repo": repo}})


@pytest.mark.parametrize("stores", ["ours", "feast's"])
@pytest.mark.parametrize("place", ["the same file", "another file"])
def test_an_entity_that_is_registered_is_not_replaced(tmp_path: Path, stores: str, place: str) -> None:
    repo, store = their_repo(tmp_path, ["0"], "job_seeker", hand_over=False)
    ours = repo / "girl_definitions.py"
    definitions = ours.read_text()
    ours.unlink()
    if stores == "feast's":
        feasts_own(repo)
    apply_repo(repo)
    if place == "another file":
        ours.write_text(definitions)
    else:
        with (repo / "my_views.py").open("a") as file:
            file.write(WITHOUT_THEIRS.format(store=store.root))
    with pytest.raises(StoreError, match=rf"INT64 ids in 'job_seeker_id', and `feast apply` would .*{HAND_OVER}"):
        apply_repo(repo)
    assert [(e.name, e.value_type) for e in open_repo(repo).list_entities()] == [("job_seeker", ValueType.INT64)]


def test_two_entities_of_one_name_are_refused_with_the_way_out(tmp_path: Path) -> None:
    repo, _ = their_repo(tmp_path, ["0"], "job_seeker", hand_over=False)
    with pytest.raises(StoreError, match=rf"two definitions of the entity 'job_seeker' have .*{HAND_OVER}"):
        apply_repo(repo)


@pytest.mark.parametrize("stores", ["ours", "feast's"])
def test_an_entity_that_ours_hides_in_the_same_file_is_refused(tmp_path: Path, stores: str) -> None:
    repo, store = their_repo(tmp_path, ["0"], "job_seeker", hand_over=False)
    (repo / "girl_definitions.py").unlink()
    with (repo / "my_views.py").open("a") as file:
        file.write(WITHOUT_THEIRS.format(store=store.root))
    config = config_of(tmp_path, repo)
    message = rf"the view 'mine' joins on the entity 'job_seeker' with Int64 ids in 'job_seeker_id', but .*{HAND_OVER}"
    if stores == "feast's":
        feasts_own(repo)
        apply_repo(repo)
        with pytest.raises(StoreError, match=message):
            publish_contract(config, store, CONTRACT)
    else:
        with pytest.raises(StoreError, match=message):
            apply_repo(repo)


def test_another_join_key_is_refused_too(tmp_path: Path) -> None:
    repo, _ = their_repo(tmp_path, ["0"], "job_seeker", hand_over=False)
    views = repo / "my_views.py"
    views.write_text(
        views.read_text().replace("job_seeker_id", "uid").replace("INT64", "STRING").replace("Int64", "String")
    )
    with pytest.raises(StoreError, match=rf"STRING ids in 'uid'.*{HAND_OVER}"):
        apply_repo(repo)


@pytest.mark.parametrize("name", ["job_seeker", "candidate"])
def test_the_printed_lines_work_in_a_repo_of_the_users(tmp_path: Path, name: str) -> None:
    repo, store = their_repo(tmp_path, ["0", "1"], name, hand_over=False)
    (repo / "girl_definitions.py").unlink()
    apply_repo(repo)
    config = config_of(tmp_path, repo)
    with pytest.raises(StoreError, match="does not know contract") as raised:
        publish_contract(config, store, CONTRACT)
    lines = [line for line in str(raised.value).splitlines() if line.startswith(("from ", "globals()"))]
    assert len(lines) == 2
    with (repo / "my_views.py").open("a") as file:
        file.write("\n" + "\n".join(lines) + "\n")
    apply_repo(repo)
    publish_contract(config, store, CONTRACT)
    found = open_repo(repo).get_online_features(REFS[1:2], {"job_seeker_id": [1, 7]}).to_dict()
    assert [vector and vector[0] for vector in found["cv_vector"]] == [2.0, None]
    types = {entity.name: entity.value_type for entity in open_repo(repo).list_entities()}
    assert types[name] == ValueType.INT64


def test_an_entity_of_another_name_and_type_joins_on_the_same_ids(tmp_path: Path) -> None:
    repo, store = their_repo(tmp_path, ["0", "1"], "candidate", hand_over=False)
    apply_repo(repo)
    publish(repo, store, CONTRACT)
    feast_store = open_repo(repo)
    feast_store.materialize(KNOWN - timedelta(days=1), KNOWN + timedelta(days=1), ["mine"])
    for ids in ([1, 3], ["1", "3"]):
        found = feast_store.get_online_features(REFS, {"job_seeker_id": ids}).to_dict()
        assert found["n"] == [11, 13]
        assert [vector and vector[0] for vector in found["cv_vector"]] == [2.0, None]
    assert verify(repo, store).agrees
    asked = pd.DataFrame({"job_seeker_id": [1], "event_timestamp": [KNOWN]})
    with pytest.raises(DataError, match="ids of different kinds are not compared"):
        feast_store.get_historical_features(asked, REFS).to_arrow()


def test_text_ids_of_a_source_with_integers(tmp_path: Path) -> None:
    """An entity of strings over a column of integers: the text of their digits, online and in requests."""
    store = open_store(tmp_path, [], offline=OUR_OFFLINE, online=OUR_SQLITE)
    view = view_of(tmp_path, ValueType.INT64)
    view.entity_columns = [Field(name="seeker", dtype=String)]
    online: Any = store._get_provider().online_store
    online.update(store.config, [], [view], [], [], True)
    batch = table_of([5], ValueType.INT64).to_batches()[0]
    online.write_arrow(store.config, view, batch, "event_timestamp", None)
    assert list(online.keys(store.config, view)) == single_keys("seeker", ["5"], ValueType.STRING, 3)
