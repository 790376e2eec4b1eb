"""Tuning the sentence encoder on matched pairs: what is learned, what is recorded, and what must not leak."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from girl_features.cli import app
from girl_features.config import EncoderTuningConfig, load_config
from girl_features.encoder import ENCODER_RECORD, SentenceTransformerEncoder, encoder_hash, read_encoder_record
from girl_features.errors import CheckpointError, ShapeError
from girl_features.generator.checkpoint import GeneratorRecord
from girl_features.generator.opening import make_contract
from girl_features.input.splits import cut_windows
from girl_features.input.tables import open_tables
from girl_features.sample.tables import write_sample
from girl_features.trainers.text_encoder import no_negatives, tune_encoder
from tests.encoder_folders import FOLDERS, WORDS

MINILM = "all-MiniLM-L6-v2"
UNTIL = datetime(2024, 1, 1, tzinfo=UTC)


def girl(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("market")
    write_sample(folder / "tables", n_seekers=160, seed=0)
    config = {
        "workspace": "work",
        "tables": {name: {"path": f"tables/{name}.parquet"} for name in ("job_seekers", "jobs", "interactions")},
        "encoder_tuning": {"learning_rate": 1e-4, "max_tokens": 48, "holdout": 0.2},
    }
    (folder / "girl.yaml").write_text(yaml.safe_dump(config))
    return folder / "girl.yaml"


@pytest.fixture(scope="module")
def trained(market: Path) -> Result:
    return girl("train", "encoder", "--config", market, "--json", market.parent / "out.json")


def test_a_tuned_encoder_brings_matched_texts_together(tmp_path: Path) -> None:
    # each trade has a word on CVs and another in JDs: nothing but the pairs says that they belong together
    words = {"alpha": "zebra", "beta": "yacht", "gamma": "xenon", "delta": "wagon"}
    cvs, jds = [f"works on {w}" for w in words] * 8, [f"wanted for {w}" for w in words.values()] * 8
    settings = EncoderTuningConfig(epochs=3, batch_size=8, learning_rate=2e-4)
    folder = tune_encoder(MINILM, cvs, jds, tmp_path, UNTIL, settings)
    assert tune_encoder(MINILM, cvs, jds, tmp_path, UNTIL, settings) == folder, "known pairs are not tuned twice"

    def own_less_others(name: str) -> float:
        encoder = SentenceTransformerEncoder(name)
        similar = encoder.encode(cvs[:4]).vectors @ encoder.encode(jds[:4]).vectors.T
        return float(np.diag(similar).mean() - similar[~np.eye(4, dtype=bool)].mean())

    assert own_less_others(str(folder)) > own_less_others(MINILM) + 0.2
    tuned, untuned = SentenceTransformerEncoder(str(folder)).contract, SentenceTransformerEncoder(MINILM).contract
    assert tuned.max_tokens == untuned.max_tokens, "it reads its full length again"
    assert tuned.trained_until == UNTIL
    other = settings.model_copy(update={"holdout": 0.3})
    assert tune_encoder(MINILM, cvs, jds, tmp_path, UNTIL, other) == folder, "nobody is held out here"
    assert tune_encoder(str(folder), cvs, jds, tmp_path, UNTIL, settings) == folder, "tuned once is enough"
    record = read_encoder_record(folder)
    assert record is not None
    later = record.model_copy(update={"created_at": UNTIL})
    (folder / ENCODER_RECORD).write_text(later.model_dump_json())
    assert SentenceTransformerEncoder(str(folder)).contract == tuned, "the same weights are the same contract"
    with pytest.raises(ShapeError, match=r"5 matched pairs before the ranking windows are too few .* 20 will do"):
        tune_encoder(MINILM, cvs[:5], jds[:5], tmp_path, UNTIL, settings)


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_kind_of_encoder_can_be_tuned(tmp_path: Path, kind: str) -> None:
    base = tmp_path / "base"
    FOLDERS[kind](base)
    before = encoder_hash(base)
    texts = [f"{word} ships {WORDS[i % 7]}" for i, word in enumerate(WORDS[:20] * 2)][:20]
    settings = EncoderTuningConfig(learning_rate=1e-2)
    tuned = tune_encoder(str(base), texts, texts[::-1], tmp_path / "out", UNTIL, settings)
    assert encoder_hash(base) == before != encoder_hash(tuned)
    assert SentenceTransformerEncoder(str(tuned)).encode(["cook"]).vectors.shape[0] == 1
    config = base / "1_Pooling" / "config.json"
    if config.is_file():
        config.write_text(config.read_text().replace("mean", "cls"))
        other = tune_encoder(str(base), texts, texts[::-1], tmp_path / "out", UNTIL, settings)
        assert other != tuned, "another pooling is another encoder"


def test_equal_texts_are_no_negatives() -> None:
    # pairs 0 and 2 share their JD, 0 and 3 their CV; 2 and 3 share neither
    found = no_negatives(["a", "a\0", "c", "a"], ["x", "y", "x", "z"])
    wanted = np.zeros((4, 4), bool)
    wanted[[0, 2, 0, 3], [2, 0, 3, 0]] = True
    np.testing.assert_array_equal(found, wanted)


def test_one_command_tunes_measures_and_records(market: Path, trained: Result) -> None:
    assert trained.exit_code == 0, (trained.output, trained.exception)
    result = json.loads((market.parent / "out.json").read_text())
    folder = Path(result["folder"])
    config = load_config(market)
    with open_tables(config) as tables:
        windows = cut_windows(tables, config.windows)
    record = read_encoder_record(folder)
    assert record is not None and record.trained_until == windows.rl_end and record.base == MINILM
    assert folder.parent == config.encoders_dir and record.n_pairs > 20
    assert (config.workspace / ".gitignore").is_file(), "weights that learned from CVs stay out of git"
    assert record.metrics["heldout_auc"] > record.metrics["heldout_auc_before"], "the market's pairs can be learned"
    before = (folder / ENCODER_RECORD).stat().st_mtime_ns
    again = girl("train", "encoder", "--config", market)
    assert again.exit_code == 0 and (folder / ENCODER_RECORD).stat().st_mtime_ns == before, "not tuned twice"
    assert f"--set encoder.name={folder}" in again.stdout.replace("\n", "")
    tuned_again = girl("train", "encoder", "--config", market, "--set", f"encoder.name={folder}")
    assert isinstance(tuned_again.exception, CheckpointError) and "is a tuned encoder already" in str(
        tuned_again.exception
    )


def test_its_training_counts_for_the_contract(market: Path, trained: Result, tmp_path: Path) -> None:
    folder = json.loads((market.parent / "out.json").read_text())["folder"]
    config = load_config(market, [f"encoder.name={folder}"])
    tuned, untuned = SentenceTransformerEncoder(folder), SentenceTransformerEncoder(MINILM)
    record = read_encoder_record(Path(folder))
    assert record is not None and tuned.contract.trained_until == record.trained_until
    assert untuned.contract.trained_until is None and "trained_until" not in untuned.contract.model_dump()
    for until in (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)):
        generator = GeneratorRecord.model_validate({**GENERATOR, "trained_until": until})
        assert make_contract(config, generator, tuned).trained_until == max(until, record.trained_until)
        assert make_contract(config, generator, untuned).trained_until == until
    broken = tmp_path / "broken"
    broken.mkdir()
    naive = record.model_dump_json().replace("Z", "").replace("+00:00", "")
    for text in ("{", naive):
        (broken / ENCODER_RECORD).write_text(text)
        with pytest.raises(CheckpointError, match="delete the folder"):
            read_encoder_record(broken)
    (broken / ENCODER_RECORD).write_text("{")
    with pytest.raises(CheckpointError, match="delete the folder and run `girl train encoder` again"):
        read_encoder_record(broken)


GENERATOR = {
    "stage": "sft",
    "base": "tiny",
    "prompt_version": "tiny-1",
    "max_cv_tokens": 64,
    "n_pairs": 1,
    "inputs_sha256": "0" * 64,
    "weights_sha256": "0" * 64,
    "adapter_sha256": None,
    "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    "settings": {},
    "metrics": {},
    "versions": {},
}
