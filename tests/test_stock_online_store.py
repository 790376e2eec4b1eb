"""Look-ups in Feast's own SQLite store: it keeps whole seconds, and takes integer ids in other forms than ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from feast import ValueType

from girl_features.errors import StoreError
from girl_features.init_repo import write_repo
from girl_features.lookup import FeatureClient
from girl_features.schema import Tier
from girl_features.store.erasing import erase
from girl_features.store.online.publishing import publish
from girl_features.store.parts import PartsStore
from girl_features.store.repo import apply_repo, open_repo
from tests.fakes import feature_contract
from tests.store_rows import Row, write_rows

DAY = datetime(2022, 3, 4, 5, 6, 7, 891011, tzinfo=UTC)
TRAINED = DAY - timedelta(microseconds=11)
CONTRACT = feature_contract(trained_until=TRAINED.isoformat(), dimension=2)
AS_INTEGERS = """
from feast import Entity, ValueType
from girl_features.store.feast_views import girl_feature_views

seeker = Entity(name="job_seeker", join_keys=["job_seeker_id"], value_type=ValueType.INT64)
globals().update(girl_feature_views("{store}", job_seeker=seeker))
"""


def _client(folder: Path, definitions: str | None, *rows: Row) -> FeatureClient:
    store = PartsStore(folder / "store")
    store.save_contract(CONTRACT)
    write_rows(store, CONTRACT, list(rows), [Row("j", DAY, DAY, [1.0, 1.0])], list(rows))
    write_repo(folder / "repo", store.root, "girl")
    settings = folder / "repo" / "feature_store.yaml"
    text = settings.read_text()
    settings.write_text(re.sub(r"online_store:\n(?:  .*\n)+", "online_store:\n  type: sqlite\n  path: o.db\n", text))
    if definitions is not None:
        (folder / "repo" / "girl_definitions.py").write_text(definitions.format(store=store.root))
    apply_repo(folder / "repo")
    publish(folder / "repo", store, CONTRACT)
    return FeatureClient(folder / "repo", CONTRACT.fingerprint, deadline_ms=60_000)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureClient]:
    rows = [Row(name, DAY, DAY, [1.0, 1.0]) for name in ("a", "late")]
    with _client(tmp_path_factory.mktemp("texts"), None, *rows) as client:
        yield client


@pytest.fixture(scope="module")
def integers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureClient]:
    rows = [Row(name, DAY, DAY, [float(name), 1.0]) for name in ("100", "-7", "9223372036854775807")]
    with _client(tmp_path_factory.mktemp("integers"), AS_INTEGERS, *rows) as client:
        yield client


def test_a_vector_is_not_stale_because_the_store_cuts_its_time_to_seconds(texts: FeatureClient) -> None:
    found = texts.job_seekers(["a", "late", "nobody"])
    assert found.problem is None
    assert found.is_stale.tolist() == [False, False, False]
    assert found.tiers.tolist() == [Tier.GENERATED, Tier.GENERATED, Tier.PRIOR]


def test_a_vector_older_than_the_newest_cv_is_stale_there_too(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    with _client(tmp_path, None, Row("a", DAY, DAY, [1.0, 1.0])) as client:
        newer = DAY + timedelta(days=1)
        write_rows(store, CONTRACT, [Row("a", newer, newer, [2.0, 1.0])])
        publish(tmp_path / "repo", store, CONTRACT)
        assert client.job_seekers(["a"]).is_stale.tolist() == [True]


def test_text_that_is_no_integer_names_no_row(integers: FeatureClient) -> None:
    ids = ["100", "0100", "100.0", "+100", " 100", "1e2", "-7", "--7", "x", "", "9223372036854775807", "9" * 19]
    found = integers.job_seekers(ids)
    assert found.problem is None
    known = ["100", "-7", "9223372036854775807"]
    assert [name for name, has in zip(ids, found.has_generated_jd, strict=True) if has] == known
    assert found.vectors[0].tolist() == [100.0, 1.0]


def test_ids_that_no_row_can_have_do_not_close_the_store_to_others(integers: FeatureClient) -> None:
    for _ in range(20):
        assert integers.job_seekers(["x", "0100"]).problem is None
    assert integers.store_state == "closed"
    assert integers.job_seekers(["100", "x"]).has_generated_jd.tolist() == [True, False]


def test_a_job_id_is_still_text(integers: FeatureClient) -> None:
    assert integers.jobs(["j", "100"]).has_jd.tolist() == [True, False]


def test_the_fixture_has_the_type_it_is_about(tmp_path: Path) -> None:
    with _client(tmp_path, AS_INTEGERS, Row("1", DAY, DAY, [1.0, 1.0])):
        entities = {entity.name: entity.value_type for entity in open_repo(tmp_path / "repo").list_entities()}
    assert entities["job_seeker"] == ValueType.INT64


def test_the_advice_of_erasing_keeps_other_views_and_works(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    _client(tmp_path, None, Row("a", DAY, DAY, [1.0, 1.0]), Row("b", DAY, DAY, [2.0, 1.0])).close()
    with pytest.raises(StoreError, match=r"'a' was removed from the parts \(\d rows\)") as refusal:
        erase(tmp_path / "repo", store, "a")
    with pytest.raises(StoreError, match="no row of 'aa', so check the id for typing errors"):
        erase(tmp_path / "repo", store, "aa")
    [advised] = re.findall(r"set `(online_store: .*?)` in feature_store.yaml", str(refusal.value))
    settings = tmp_path / "repo" / "feature_store.yaml"
    text = settings.read_text()
    settings.write_text(re.sub(r"online_store:\n(?:  .*\n)+", advised + "\n", text))
    apply_repo(tmp_path / "repo")
    publish(tmp_path / "repo", store, CONTRACT)
    with FeatureClient(tmp_path / "repo", CONTRACT.fingerprint, deadline_ms=60_000) as client:
        assert client.job_seekers(["a", "b"]).has_generated_jd.tolist() == [False, True]
    assert erase(tmp_path / "repo", store, "b").n_online > 0
