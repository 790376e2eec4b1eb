"""Commands around the online store, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.contract import text_hash
from girl_features.errors import CheckpointError, ConfigError, StoreError
from girl_features.lookup import open_queue
from girl_features.lookup.bundle import write_bundle
from girl_features.lookup.generation_queue import MissedCV
from tests.input_tables import day
from tests.served_market import CONTRACT, ServedMarket, bundle, served_market
from tests.store_rows import Row, write_rows


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> ServedMarket:
    market = served_market(tmp_path_factory.mktemp("cli"))
    rows = [Row("made", day(1), day(1), [1.0] * 8)]
    write_rows(market.store, CONTRACT, [Row("known", day(1), day(1), [1.0] * 8)], generated=rows)
    market.publish()
    return with_config(market)


def with_config(market: ServedMarket) -> ServedMarket:
    """`market` with a girl.yaml beside its workspace."""
    tables = market.config.tables.model_dump(exclude_none=True)
    path = market.config.workspace.parent / "girl.yaml"
    path.write_text(yaml.safe_dump({"workspace": "workspace", "tables": tables}))
    return market


def girl(market: ServedMarket, *words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--config", str(market.config.workspace.parent / "girl.yaml")])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_lookup_names_the_tier_of_each_seeker_and_queues_nothing(market: ServedMarket) -> None:
    rows = json.loads(girl(market, "lookup", "made", "known", "nobody", "--json", "-"))
    assert [(row["tier"], row["has_generated_jd"]) for row in rows] == [
        ("generated", True),
        ("prior", False),
        ("prior", False),
    ]
    assert rows[0]["generated_jd_vector"] == [1.0] * 8
    assert rows[0]["age_seconds"] > 0
    assert rows[1]["age_seconds"] is None
    assert not market.config.queue_path.exists()
    write_bundle(market.config.students_dir / CONTRACT.fingerprint, bundle(), {})
    assert "known  student" in girl(market, "lookup", "known"), "the workspace's bundle is used"


def test_erase_empties_the_queue_too(market: ServedMarket) -> None:
    queue = open_queue(market.config)
    queue.add([MissedCV(CONTRACT.fingerprint, name, text_hash("cv"), "cv") for name in ("gone", "stays")])
    assert json.loads(girl(market, "erase", "gone", "--json", "-"))["n_queued"] == 1
    assert [one.missed.job_seeker_id for one in queue.take(CONTRACT.fingerprint, 9)] == ["stays"]


def test_erase_empties_the_queue_where_the_online_store_cannot_delete(tmp_path: Path) -> None:
    market = with_config(served_market(tmp_path, online={"type": "sqlite", "path": "data/stock.db"}))
    queue = open_queue(market.config)
    queue.add([MissedCV(CONTRACT.fingerprint, "gone", text_hash("cv"), "a canary who sings")])
    with pytest.raises(StoreError, match="cannot delete one entity"):
        girl(market, "erase", "gone")
    assert queue.lengths() == {}
    assert queue.add([MissedCV(CONTRACT.fingerprint, "gone", text_hash("cv"), "a canary who sings")]) == 0


def test_an_id_that_nobody_has_is_named_and_an_erasure_undone(market: ServedMarket) -> None:
    def said(*words: str) -> tuple[str, str]:
        path = market.config.workspace.parent / "girl.yaml"
        result = CliRunner().invoke(app, ["erase", *words, "--config", str(path)])
        assert result.exit_code == 0, result.output
        return result.stdout, result.stderr

    write_rows(market.store, CONTRACT, [Row("ann", day(1), day(1), [1.0] * 8)])
    assert "nothing was found under the id 'anne'" in said("anne")[1]
    assert market.store.is_erased("anne")
    assert "nothing was found" not in said("ann")[1]
    assert "nothing was found" not in said("ann")[1], "erased before, which is why there is nothing"
    assert "is generated for again from now on" in said("anne", "--undo")[0]
    assert not market.store.is_erased("anne")
    assert "was not erased" in said("anne", "--undo")[0]
    assert json.loads(said("ann", "--undo", "--json", "-")[0]) == {"was_erased": True}


def test_what_is_missing_is_said(market: ServedMarket) -> None:
    with pytest.raises(CheckpointError, match="girl train sft"):
        girl(market, "serve-worker", "--once", "--set", "encoder.dtype=float32")
    with pytest.raises(ConfigError, match="both contracts are"):
        girl(market, "map", "--from", CONTRACT.fingerprint[:4], "--to", CONTRACT.fingerprint)
