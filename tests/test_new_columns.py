"""Views whose newer files have columns that older files lack: online and offline give the same values."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from girl_features.errors import StoreError
from tests.feast_repos import (
    DAY,
    FEATURES,
    OUR_ENGINE,
    OUR_OFFLINE,
    OUR_SQLITE,
    feature_view,
    open_store,
    row,
    rows_table,
)

LATER = DAY + timedelta(days=30)


@pytest.mark.parametrize("column", FEATURES)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["old-first", "new-first"])
def test_a_column_that_only_newer_files_have_is_null_in_the_others(
    tmp_path: Path, column: str, order: tuple[int, int]
) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(rows_table([row("old", 0, 0, 1.0)]).drop_columns(column), folder / f"{order[0]}.parquet")
    pq.write_table(rows_table([row("new", 1, 1, 2.0)]), folder / f"{order[1]}.parquet")
    store = open_store(
        tmp_path / "repo", [feature_view(folder)], offline=OUR_OFFLINE, online=OUR_SQLITE, engine=OUR_ENGINE
    )
    refs = [f"facts:{name}" for name in FEATURES]
    asked = pd.DataFrame({"seeker": ["old", "new"], "event_timestamp": [LATER] * 2})
    history = store.get_historical_features(asked, refs).to_arrow().to_pydict()
    store.materialize(DAY - timedelta(days=1), LATER)
    online = store.get_online_features(refs, {"seeker": ["old", "new"]}).to_dict()
    for name in FEATURES:
        assert (history[name][0] is None) == (name == column)
        assert history[name][1] is not None
        assert (online[name][0] is None) == (name == column)
        assert online[name][1] is not None
    assert history["count"] == online["count"]
    assert history["title"] == online["title"]


@pytest.mark.parametrize("column", ["seeker", "event_timestamp"])
def test_ids_and_event_times_are_in_every_file(tmp_path: Path, column: str) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    pq.write_table(rows_table([row("old", 0, 0, 1.0)]).drop_columns(column), folder / "0.parquet")
    pq.write_table(rows_table([row("new", 1, 1, 2.0)]), folder / "1.parquet")
    store = open_store(tmp_path / "repo", [feature_view(folder)], offline=OUR_OFFLINE)
    asked = pd.DataFrame({"seeker": ["old", "new"], "event_timestamp": [LATER] * 2})
    with pytest.raises(StoreError, match=rf"0\.parquet has no column '{column}'"):
        store.get_historical_features(asked, ["facts:title"]).to_arrow()


def test_a_column_in_another_case_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    table = rows_table([row("a", 0, 0, 1.0)])
    names = ["Title" if name == "title" else name for name in table.column_names]
    pq.write_table(table.rename_columns(names), folder / "0.parquet")
    store = open_store(
        tmp_path / "repo", [feature_view(folder)], offline=OUR_OFFLINE, online=OUR_SQLITE, engine=OUR_ENGINE
    )
    asked = pd.DataFrame({"seeker": ["a"], "event_timestamp": [LATER]})
    history = store.get_historical_features(asked, ["facts:title"]).to_arrow().to_pydict()
    assert history["title"] == ["title 1"]
    try:
        store.materialize(DAY - timedelta(days=1), LATER)
    except StoreError as error:
        assert "the rows have 'Title'; spell the two names alike" in str(error)
    else:
        assert store.get_online_features(["facts:title"], {"seeker": ["a"]}).to_dict()["title"] == ["title 1"]
