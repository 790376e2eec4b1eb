"""Commands around the online store, as they are typed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.contract import text_hash
from girl_features.errors import CheckpointError, ConfigError, DataError, StoreError
from girl_features.input.cv_file import read_cv_file
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


NO_CV = {
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", "looks like a PDF file"),
    "plain pdf": (b"%PDF-1.4 only ASCII here", "looks like a PDF file"),
    "docx": (b"PK\x03\x04\x14\x00\x06\x00", "looks like a ZIP archive or Office file"),
    "latin-1": ("Jérôme, Zürich".encode("latin-1"), "not UTF-8 text"),
    "utf-16": ("Nurse in Zürich".encode("utf-16"), "not UTF-8 text"),
    "zeros": (b"\x00\x01\x02" * 100, "control characters"),
    "surrogate": (b"a \xed\xa0\x80 b", "not UTF-8 text"),
    "cut": ("Zürich".encode()[:2], "not UTF-8 text"),
}


@pytest.mark.parametrize("name", NO_CV)
def test_a_file_that_is_no_text_is_refused_as_a_cv(market: ServedMarket, tmp_path: Path, name: str) -> None:
    data, said = NO_CV[name]
    (tmp_path / "cv.bin").write_bytes(data)
    with pytest.raises(DataError, match=rf"cv\.bin is no CV \(.*{re.escape(said)}.*\); name a file of plain text"):
        girl(market, "lookup", "made", "--cv", str(tmp_path / "cv.bin"))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xef\xbb\xbfNurse\n", "Nurse"),
        (b"Nurse\r\n", "Nurse"),
        (b"Nurse\n\n", "Nurse\n"),
        (b"Nurse\r", "Nurse\r"),
        (b"a\r\nb\tc", "a\r\nb\tc"),
        ("看護師 🏥\n".encode(), "看護師 🏥"),
        (b"\n", ""),
        (b"", ""),
        (b"form\x0cfeed\x00", "form\x0cfeed\x00"),
    ],
)
def test_a_cv_file_is_its_text_without_mark_and_last_line_end(tmp_path: Path, data: bytes, text: str) -> None:
    (tmp_path / "cv.txt").write_bytes(data)
    assert read_cv_file(tmp_path / "cv.txt") == text
