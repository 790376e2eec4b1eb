"""The steps as functions of a config: which generator is used, and that nothing leaks into ranking labels."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from girl_features.batch.plan import fill_wanted_cvs
from girl_features.config import GirlConfig, TinyConfig
from girl_features.errors import CheckpointError, LeakageError
from girl_features.generator.checkpoint import GeneratorRecord, weights_hash, write_record
from girl_features.generator.opening import find_generator, make_contract
from girl_features.generator.tuning import sft_settings
from girl_features.input.splits import Windows, check_no_leakage
from girl_features.input.tables import open_tables
from girl_features.store.parts import PartsStore
from girl_features.trainers.tiny import new_decoder, train_tokenizer
from tests.fakes import HashingEncoder
from tests.input_tables import day, write_tables

WINDOWS = Windows(day(10), day(20), day(30), day(40), day(50))


def _config(workspace: Path, **generator: object) -> GirlConfig:
    tables = {name: {"path": "unused"} for name in ("job_seekers", "jobs", "interactions")}
    return GirlConfig.model_validate({"workspace": workspace, "tables": tables, "generator": generator})


def _generator(folder: Path, seed: int = 0, stage: str = "sft", trained_until: datetime = WINDOWS.sft_end) -> Path:
    tokenizer = train_tokenizer(["some text"], 300)
    shape = TinyConfig(vocab_size=300, hidden_size=16, n_layers=1, n_heads=2)
    new_decoder(tokenizer, shape, 32, seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_record(
        folder,
        GeneratorRecord(
            stage=stage,
            base="tiny",
            prompt_version="tiny-1",
            max_cv_tokens=8,
            trained_until=trained_until,
            n_pairs=1,
            inputs_sha256="0",
            weights_sha256=weights_hash(folder),
            adapter_sha256=None,
            created_at=datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=seed),
            settings=sft_settings(_config(folder), 0),
            metrics={},
            versions={},
        ),
    )
    return folder


def _record(trained_until: datetime, folder: Path) -> GeneratorRecord:
    return find_generator(_config(folder, checkpoint=_generator(folder / "g", trained_until=trained_until)))[1]


def test_the_newest_generator_is_used_unless_one_is_named(tmp_path: Path) -> None:
    old = _generator(tmp_path / "generators" / "sft-old", seed=1)
    new = _generator(tmp_path / "generators" / "sft-new", seed=2)
    _generator(tmp_path / "generators" / ".sft-unfinished", seed=3)
    assert find_generator(_config(tmp_path))[0] == new
    assert find_generator(_config(tmp_path, checkpoint=old))[0] == old


def test_a_generator_trained_with_other_settings_is_not_taken_for_this_one(tmp_path: Path) -> None:
    _generator(tmp_path / "generators" / "sft-old")
    other = _config(tmp_path, tiny={"n_layers": 2})
    with pytest.raises(CheckpointError, match=r"none of the generators .*sft-old.* was trained with these settings"):
        find_generator(other)
    base = _generator(tmp_path / "base")
    (base / "girl_generator.json").unlink()
    folder, _ = find_generator(_config(tmp_path, base=str(base), trained_until="2020-06-01"))
    assert folder == base, "another base, named in the config, goes before what was trained from `tiny`"


def test_an_untuned_base_needs_a_knowledge_cutoff(tmp_path: Path) -> None:
    base = _generator(tmp_path / "base")
    (base / "girl_generator.json").unlink()
    with pytest.raises(CheckpointError, match=r"set `generator\.trained_until`"):
        find_generator(_config(tmp_path, base=str(base)))
    folder, record = find_generator(_config(tmp_path, base=str(base), trained_until="2020-06-01"))
    assert folder == base
    assert (record.stage, record.trained_until) == ("untuned", datetime(2020, 6, 1, tzinfo=UTC))


def test_a_generator_that_saw_ranking_labels_is_refused(tmp_path: Path) -> None:
    check_no_leakage(WINDOWS, _record(WINDOWS.rl_end, tmp_path).trained_until)
    late = _record(WINDOWS.rl_end + timedelta(microseconds=1), tmp_path)
    with pytest.raises(LeakageError, match="ranking labels begin at"):
        check_no_leakage(WINDOWS, late.trained_until)


def test_opened_tables_know_whom_the_store_has_forgotten(tmp_path: Path) -> None:
    config = GirlConfig(workspace=tmp_path / "workspace", tables=write_tables(tmp_path))
    for gone in (False, True):
        with open_tables(config) as tables:
            assert fill_wanted_cvs(tables.connection, "wanted", day(0), tables.erased) == (0 if gone else 2)
        PartsStore(config.store_dir).erase("s1")


def test_two_trainings_are_two_contracts(tmp_path: Path) -> None:
    config, encoder = _config(tmp_path), HashingEncoder()
    records = [
        find_generator(_config(tmp_path, checkpoint=_generator(tmp_path / name, seed=seed)))[1]
        for name, seed in (("a", 1), ("b", 2), ("c", 1))
    ]
    prints = [make_contract(config, record, encoder).fingerprint for record in records]
    assert prints[0] != prints[1]
    assert prints[0] == prints[2], "the same weights from the same windows make the same features"
