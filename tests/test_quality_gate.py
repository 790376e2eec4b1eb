"""The quality gate of a generator: good ones pass, each kind of bad one is refused by the measure that sees it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from girl_features.batch import local, worker
from girl_features.batch.local import materialize
from girl_features.batch.quality import judge, last_verdict, stored_verdict
from girl_features.batch.quality.measures import measure
from girl_features.batch.quality.sample import GateSample, answer, take_sample
from girl_features.batch.quality.tokenizer_scripts import (
    read_tokenizer,
    spelled_shares,
    unknown_scripts,
)
from girl_features.batch.quality.unigram import Unigram
from girl_features.batch.quality.verdict import checked, note_anyway
from girl_features.batch.quality.words import KnownWords, units
from girl_features.batch.run_log import RunLog
from girl_features.batch.worker import open_worker
from girl_features.cli import app
from girl_features.config import GirlConfig, load_config
from girl_features.errors import GateError
from girl_features.generator.checkpoint import read_record
from girl_features.generator.opening import LoadedModels
from girl_features.sample.tables import write_sample
from girl_features.store.parts import PartsStore
from girl_features.trainers.tiny import train_tokenizer
from tests.gate_market import Market, write_training_record
from tests.input_tables import day, load, write_tables

N = 1000  # generated JDs of each generator
GOOD = ("the matched JD", "the CV in a template")
BAD = {  # generator -> the measures that it fails
    "shuffled words of the matched JD": {"word_order"},
    "words of any JD in any order": {"word_order", "own_cv"},
    "one JD for all": {"own_cv"},
    "another seeker's JD": {"own_cv"},
    "ASCII pseudo-words": {"real_words", "word_order", "own_cv"},
    "the matched JD in another script": {"real_words", "word_order", "own_cv", "same_script"},
    "nothing": {"usable"},
    "a loop": {"usable"},
    "a JD without an end": {"usable"},
}
SCRIPTS = {  # script -> first and last letter of a block
    "Han": ("\u4e00", "\u5e00"),
    "Cyrillic": ("а", "я"),
    "Greek": ("α", "ω"),
    "Arabic": ("\u0628", "\u063a"),
    "Hebrew": ("א", "ת"),
    "Devanagari": ("\u0915", "\u0939"),
    "Thai": ("\u0e01", "\u0e2e"),
    "Hangul": ("\uac00", "\ub000"),
    "Kana": ("\u3042", "\u3093"),
    "Armenian": ("\u0561", "\u0586"),
}


class World(NamedTuple):
    """A market, its sample, and a folder with a tokenizer that was trained on it."""

    market: Market
    sample: GateSample
    folder: Path
    config: GirlConfig


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder, market = tmp_path_factory.mktemp("gate"), Market(N)
    tables = write_tables(folder, market.rows())
    with load(tables) as opened:
        sample = take_sample(opened, day(10), 64, N)
    generator = write_training_record(folder / "generator", 0.5, 1.0)
    train_tokenizer(market.jds, 600).save_pretrained(generator)
    config = {"workspace": folder / "workspace", "tables": tables.model_dump(), "feast": {"online": False}}
    return World(market, sample, generator, GirlConfig.model_validate(config))


def _failed(world: World, models: LoadedModels, workspace: Path) -> set[str]:
    config = world.config.model_copy(update={"workspace": workspace})
    config = config.model_copy(update={"gate": config.gate.model_copy(update={"sample": N})})
    return {m.name for m in judge(config, models).failed}


@pytest.mark.parametrize("writer", GOOD)
def test_good_generators_pass(world: World, writer: str, tmp_path: Path) -> None:
    assert len(world.sample.versions) == N
    assert _failed(world, world.market.models(writer, world.folder), tmp_path) == set()


@pytest.mark.parametrize("writer", BAD)
def test_each_kind_of_bad_generator_fails_by_its_measures(world: World, writer: str, tmp_path: Path) -> None:
    assert _failed(world, world.market.models(writer, world.folder), tmp_path) == BAD[writer]


@pytest.mark.parametrize(("bits", "failed"), [(0.1, False), (0.899, False), (0.901, True), (1.05, True), (1.9, True)])
def test_a_generator_must_beat_a_model_that_knows_no_order(
    world: World, bits: float, failed: bool, tmp_path: Path
) -> None:
    folder = write_training_record(tmp_path / "generator", bits, 1.0)
    models = world.market.models(GOOD[0], folder)
    sample = world.sample._replace(versions=world.sample.versions[:20])
    values = measure(sample, answer(models, sample))
    assert values["held_out_bits"].value == pytest.approx(bits)
    assert (values["held_out_bits"].value > world.config.gate.max_held_out_bits) == failed  # type: ignore[operator]


def test_what_cannot_be_measured_says_why_and_does_not_fail(tmp_path: Path) -> None:
    market = Market(5)
    config = {"workspace": tmp_path / "w", "tables": write_tables(tmp_path, market.rows()).model_dump()}
    verdict = judge(GirlConfig.model_validate(config), market.models(GOOD[0]))
    results = {m.name: m.result for m in verdict.measures}
    assert verdict.failed == []
    assert set(results.values()) == {"pass", "not measured"}
    assert all(m.note for m in verdict.measures)
    assert "wanted 8" in next(m.note for m in verdict.measures if m.name == "own_cv")


@pytest.mark.parametrize("n", [0, 5, 12])
def test_measures_of_too_few_rows_are_taken_again(world: World, n: int, tmp_path: Path) -> None:
    market = Market(n)
    config = {"workspace": tmp_path / "w", "tables": write_tables(tmp_path, market.rows()).model_dump()}
    few = GirlConfig.model_validate(config)
    models = market.models(GOOD[0])
    verdict = judge(few, models)
    assert checked(few, verdict).startswith("passed; not measured: " if n else "not measured")
    assert verdict.to_json()["passed"] == bool(n)
    assert stored_verdict(few, models.contract) is None
    assert last_verdict(few, models.contract.fingerprint) == verdict
    assert note_anyway(few, models.contract) == checked(few, verdict)
    grown = few.model_copy(update={"tables": world.config.tables})
    bad = world.market.models("another seeker's JD")._replace(contract=models.contract)
    assert "own_cv" in {m.name for m in judge(grown, bad).failed}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measure_that_is_no_number_fails_each_time(world: World, value: float, tmp_path: Path) -> None:
    config = world.config.model_copy(update={"workspace": tmp_path})
    models = world.market.models(GOOD[0], write_training_record(tmp_path / "generator", value, 1.0))
    for _ in range(2):
        assert {m.name for m in judge(config, models).failed} == {"held_out_bits"}


def test_an_untuned_base_is_not_held_to_the_words_of_a_small_market(world: World) -> None:
    sample = world.sample._replace(versions=world.sample.versions[:20])
    values = measure(sample, answer(world.market.models("ASCII pseudo-words"), sample))
    assert values["real_words"].value is None
    assert "has not learned from them" in values["real_words"].note


def _text_in(script: str, rng: random.Random, n_words: int = 12) -> str:
    first, last = SCRIPTS[script]
    letters = [chr(code) for code in range(ord(first), ord(last) + 1)]
    return " ".join("".join(rng.choices(letters, k=rng.randint(2, 6))) for _ in range(n_words))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_that_the_tokenizer_does_not_know_is_named_with_its_seekers(script: str, tmp_path: Path) -> None:
    rng = random.Random(script)
    english, other = Market(100).cvs, [_text_in(script, rng) for _ in range(100)]
    train_tokenizer(english, 600).save_pretrained(tmp_path / "english")
    train_tokenizer([*english, *other, *other], 4000).save_pretrained(tmp_path / "both")
    one, both = read_tokenizer(tmp_path / "english"), read_tokenizer(tmp_path / "both")
    assert unknown_scripts(one, [*english, *other[:30]]) == {script: 30}
    assert unknown_scripts(one, english) == {}
    assert unknown_scripts(both, [*english, *other]) == {}
    assert spelled_shares(one, english) == {"Latin": 0.0}


def test_seekers_whose_script_the_tokenizer_does_not_know_fail_the_gate(world: World, tmp_path: Path) -> None:
    rng = random.Random(0)
    sample = world.sample._replace(cvs=[*world.sample.cvs[:60], *(_text_in("Han", rng) for _ in range(6))])
    value = measure(sample, answer(world.market.models(GOOD[0], world.folder), sample))["unknown_script"]
    assert value.value == pytest.approx(6 / 66)
    assert "does not know Han (6 seekers)" in value.note


def test_the_verdict_is_kept_and_follows_the_thresholds(world: World, tmp_path: Path) -> None:
    config = world.config.model_copy(update={"workspace": tmp_path})
    models: Any = world.market.models("one JD for all", world.folder)
    assert stored_verdict(config, models.contract) is None
    verdict = judge(config, models)
    n_written = models.generator.n_written
    assert judge(config, models) == verdict == stored_verdict(config, models.contract)
    assert models.generator.n_written == n_written == config.gate.sample
    looser = config.model_copy(update={"gate": config.gate.model_copy(update={"min_own_cv": 0.2})})
    assert [m.name for m in verdict.failed] == ["own_cv"]
    assert judge(looser, models).failed == []
    wider = config.model_copy(update={"gate": config.gate.model_copy(update={"sample": 80})})
    judge(wider, models)
    assert models.generator.n_written == n_written + 80
    text = next(tmp_path.glob("gates/*.json")).read_text()
    assert not any(cv in text for cv in world.market.cvs), "no text of a job seeker is kept"


def test_materialize_and_worker_refuse_before_anything_is_stored(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config.model_copy(update={"workspace": tmp_path})
    models: Any = world.market.models("another seeker's JD", world.folder)
    for module in (local, worker):
        monkeypatch.setattr(module, "load_models", lambda config: models)
    for attempt in (materialize, open_worker, materialize):
        with pytest.raises(GateError, match=r"own_cv 0\.\d\d \(min 0\.5; AUC .*--anyway"):
            attempt(config)
        assert models.generator.n_written == config.gate.sample, "asked once"
    assert RunLog(config.runs_dir).records() == []
    assert not config.store_dir.exists()
    assert open_worker(config, anyway=True).contract == models.contract

    report = materialize(config, anyway=True)
    assert report.n_generated == N
    (record,) = RunLog(config.runs_dir).records()
    assert record.gate == report.gate
    assert report.gate.startswith("--anyway: below the gate by own_cv 0.")
    models_that_pass = world.market.models(GOOD[0], world.folder)
    monkeypatch.setattr(local, "load_models", lambda config: models_that_pass)
    fresh = config.model_copy(update={"workspace": tmp_path / "fresh"})
    assert materialize(fresh).gate == "passed"


def test_anyway_measures_nothing(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = world.config.model_copy(update={"workspace": tmp_path})
    models: Any = world.market.models("nothing", world.folder)
    monkeypatch.setattr(local, "load_models", lambda config: models)
    assert materialize(config, anyway=True).gate == "--anyway: not measured"
    assert models.generator.n_written == 2 * N, "each empty JD is drawn twice, and no sample before"


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@settings(max_examples=1000, deadline=None)
@given(TEXTS)
def test_the_unigram_model_reads_any_text_whole(text: str) -> None:
    bits = Unigram.of(["Wanted: a cook. 手机 कख"]).bits(text)
    assert math.isfinite(bits)
    assert bits > 0
    assert Unigram.of([text]).bits(text) <= Unigram.of([text[::-1]]).bits(text) + 1e-9 or len(set(text.split())) < 2
    assert all(any(c.isalpha() for c in unit) for unit in units(text))


def test_unigram_by_hand() -> None:
    # pieces of "a a": `a`, ` a`, end: 3 counted, 3 distinct. P(a) = P( a) = P(end) = 1/6
    assert Unigram.of(["a a"]).bits("a a") == pytest.approx(3 * math.log2(6))
    # an unknown piece: 3/6 for being unknown, then spelled: `b` and end are 1 unit each of characters
    # characters of the pieces with their ends: a END, space a END, END END: a 2, space 1, END 4: 7, 3 distinct
    unknown = 1 + (math.log2(10 / 3) + 20) + math.log2(10 / 4)
    assert Unigram.of(["a a"]).bits("b") == pytest.approx(unknown + math.log2(6))


def test_words_of_every_script_are_told_from_noise() -> None:
    for script in SCRIPTS:
        rng = random.Random(script)
        real = [_text_in(script, rng) for _ in range(50)]
        known = KnownWords(real)
        assert known.share_real(real) == 1.0
        assert known.share_real([_text_in("Greek" if script != "Greek" else "Thai", rng)]) == 0.0
        assert known.order(real) > 0.3
        words = [unit for text in real for unit in units(text)]
        rng.shuffle(words)
        assert abs(known.order([" ".join(words)])) < 0.1
    assert math.isnan(known.order(["one"]))
    assert math.isnan(known.share_real(["12 34 ..."]))


@pytest.fixture(scope="module")
def salad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A girl.yaml over a small simulated market, with a `tiny` that is trained far too briefly."""
    folder = tmp_path_factory.mktemp("salad")
    write_sample(folder, n_seekers=60, seed=0)
    tiny = {"vocab_size": 600, "hidden_size": 32, "n_layers": 1, "n_heads": 2, "pretrain_epochs": 0.2}
    tiny |= {"embeddings_from": None}
    config = {
        "workspace": "w",
        "tables": {name: {"path": f"{name}.parquet"} for name in ("job_seekers", "jobs", "interactions")},
        "windows": {"sft_share": 0.34, "reward_share": 0.14, "rl_share": 0.10, "train_share": 0.24},
        "generator": {"engine": "transformers", "max_cv_tokens": 32, "tiny": tiny},
        "sft": {"epochs": 1, "max_jd_tokens": 24},
        "sampling": {"max_new_tokens": 48},
    }
    (folder / "girl.yaml").write_text(yaml.safe_dump(config))
    return folder / "girl.yaml"


def _girl(*words: str) -> Any:
    return CliRunner().invoke(app, [*words])


def test_word_salad_is_refused_and_published_anyway(salad: Path) -> None:
    result = salad.with_name("trained.json")
    trained = _girl("train", "sft", "-c", str(salad), "--json", str(result))
    assert trained.exit_code == 0, repr(trained.exception)
    assert "below the gate: `girl materialize` publishes nothing of this generator without --anyway" in trained.output
    again = json.loads(result.read_text())
    bits = again["gate"]["measures"]["held_out_bits"]
    assert (again["gate"]["passed"], bits["result"], bits["threshold"]) == (False, "FAIL", 0.9)
    metrics = read_record(Path(again["folder"])).metrics
    assert bits["value"] == pytest.approx(metrics["heldout_bits_per_character"] / metrics["unigram_bits_per_character"])

    config = load_config(salad)
    line = next(line for line in trained.output.splitlines() if "FAIL" in line)
    look = ("materialize", "-c", str(salad), "--dry-run", "--sample", "1")
    planned = _girl(*look)
    assert planned.exit_code == 0, repr(planned.exception)
    assert line in planned.output
    assert "publishes nothing of this generator without --anyway" in planned.output
    assert json.loads(_girl(*look, "--json", "-").stdout)["gate"] == again["gate"]
    of_others = _girl(*look, "--set", "gate.sample=7").output
    assert line in of_others
    assert "another `gate.sample`: `girl materialize` without --anyway takes them again" in of_others
    refused = _girl("materialize", "-c", str(salad))
    assert isinstance(refused.exception, GateError)
    assert "held_out_bits" in str(refused.exception)
    assert not config.store_dir.exists()
    published = _girl("materialize", "-c", str(salad), "--anyway", "--json", "-")
    assert published.exit_code in (0, 1), repr(published.exception)
    assert json.loads(published.stdout)["gate"].startswith("--anyway: below the gate by ")
    assert PartsStore(config.store_dir).newest_contract().fingerprint == again["gate"]["contract"]
    assert "--anyway: below the gate" in _girl("runs", "show", "last", "-c", str(salad)).output
    assert line in _girl("materialize", "-c", str(salad), "--anyway").output

    for file in config.gates_dir.iterdir():
        file.unlink()
    assert "Quality gate: not asked yet" in _girl(*look).output
    assert json.loads(_girl(*look, "--json", "-").stdout)["gate"] is None
