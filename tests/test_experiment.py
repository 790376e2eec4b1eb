"""The experiment runner: what is run once, what again, and what the page says. Windows are made up; fits are fakes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
import yaml

from girl_features.errors import ConfigError, InterruptedRunError, ShapeError, UndefinedMetricError
from girl_features.integrations.rankers.registry import make_ranker
from girl_features.lab.baselines.registry import make_baseline
from girl_features.lab.experiment.code_version import code_hash, imported_sources
from girl_features.lab.experiment.config import Cell, Claim, ExperimentConfig, load_experiment
from girl_features.lab.experiment.fewer_labels import fewer_labels
from girl_features.lab.experiment.fits import FitId, parts_hash, read_fit, write_fit
from girl_features.lab.experiment.report import to_json, write_experiment
from girl_features.lab.experiment.results import ExperimentResults, judge_claim
from girl_features.lab.experiment.run import fitting_modules, run_experiment
from girl_features.lab.experiment.summary import summary_section, verdict_line
from girl_features.lab.text_vectors import TextVectors
from girl_features.ranker import PairColumns
from tests.experiment_world import CONFIG, config_for, prepared_for, steps_for
from tests.fakes import HashingEncoder

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, log: Path | None = None, **changes: object) -> ExperimentResults:
    config = config_for(folder, **changes)
    return run_experiment(config, steps_for(log), lambda name: prepared_for(folder, name))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ExperimentResults:
    return run(tmp_path_factory.mktemp("experiment"))


def claim(results: ExperimentResults, name: str, slice_name: str = "all"):  # type: ignore[no-untyped-def]
    (found,) = [c for c in results.data[0].claims if (c.claim, c.slice) == (name, slice_name)]
    return found


def test_each_claim_gets_the_verdict_that_was_planted(results: ExperimentResults) -> None:
    assert claim(results, "better").verdict == "better"
    assert claim(results, "worse").verdict == "worse"
    same = claim(results, "same")
    assert same.verdict == "not shown" and same.auc_gain == 0
    assert claim(results, "better").logloss_verdict == "better", "a lower loss is a better one"
    assert "**better** (AUC +" in verdict_line(claim(results, "better"))


def test_a_slice_without_both_classes_has_no_verdict() -> None:
    claim = Claim(name="c", subject="a/x", over="a/y")
    result = judge_claim("d", claim, "cold", {Cell("a", "x"): None, Cell("a", "y"): None}, 3, False)
    assert result.verdict is None and result.auc is None and result.n == 3
    assert (
        verdict_line(result)
        == "d, c, cold-start seekers: nothing can be said (too few test seekers, or one class alone)"
    )


def test_slices_are_by_decisions_in_the_training_window(results: ExperimentResults) -> None:
    sizes = {row.slice: row.n for row in results.data[0].rows}
    assert sizes["all"] == sizes["0 decisions"] + sizes["1-4 decisions"]
    assert sizes["cold"] == sizes["0 decisions"], "a cold seeker is one without a decision there"


def test_a_second_run_fits_nothing(tmp_path: Path) -> None:
    first = run(tmp_path, tmp_path / "first.log")
    second = run(tmp_path, tmp_path / "second.log")
    n = len((tmp_path / "first.log").read_text().splitlines())
    assert (first.n_fits, first.n_kept) == (n, 0) and n > 10
    assert (second.n_fits, second.n_kept) == (0, n)
    assert not (tmp_path / "second.log").exists()
    assert to_json(second)["rows"] == to_json(first)["rows"]


def test_another_seed_or_row_adds_only_itself(tmp_path: Path) -> None:
    run(tmp_path)
    run(tmp_path, tmp_path / "more.log", seeds=(0, 1, 2))
    assert all(line.endswith(" 2") for line in (tmp_path / "more.log").read_text().splitlines())


def test_other_code_runs_all_again(tmp_path: Path) -> None:
    source = tmp_path / "ranker.py"
    source.write_text("a = 1")
    before = code_hash([source])
    source.write_text("a = 2")
    assert code_hash([source]) != before


def test_the_hashed_sources_are_those_that_fitting_imports() -> None:
    steps = steps_for()._replace(make_ranker=make_ranker, make_baseline=make_baseline)
    sources = {str(path.relative_to(ROOT / "girl_features")) for path in imported_sources(fitting_modules(steps))}
    imported = {
        "ranker.py",
        "lab/experiment/several_jds.py",
        "integrations/rankers/two_tower_networks.py",  # imported inside a function
        "lab/baselines/language_model.py",
        "generator/transformers_engine.py",  # imported by what a baseline imports
    }
    assert imported <= sources
    assert not {"lab/experiment/report.py", "cli.py", "batch/run.py", "trainers/ppo.py"} & sources


def test_any_change_of_what_a_ranker_is_given_changes_its_name(tmp_path: Path) -> None:
    parts = prepared_for(tmp_path, "market").generators["girl"].parts
    hashes = {parts_hash(parts)}
    for field in ("cv", "jd", "generated_jd", "tier"):
        array = getattr(parts.valid.features, field).copy()
        array.reshape(-1)[0] += 1
        changed = parts.valid._replace(features=parts.valid.features._replace(**{field: array}))
        hashes.add(parts_hash(parts._replace(valid=changed)))
    hashes.add(parts_hash(parts._replace(train=parts.train._replace(labels=~parts.train.labels))))
    other = parts.test._replace(features=parts.test.features._replace(contract="ffffffffffff"))
    hashes.add(parts_hash(parts._replace(test=other)))
    for names, value in ((("a",), 0), (("b",), 0), (("b",), 1)):
        column = PairColumns(names, np.full((len(parts.train.labels), 1), value, np.float32))
        given = parts.train._replace(features=parts.train.features._replace(columns=column))
        hashes.add(parts_hash(parts._replace(train=given)))
    assert len(hashes) == 10


def test_a_damaged_cell_is_made_again(tmp_path: Path) -> None:
    run(tmp_path)
    cells = sorted((tmp_path / "out" / "trial" / "market" / "cells").glob("cell-*.parquet"))
    raw = bytearray(cells[0].read_bytes())
    raw[len(raw) // 3] ^= 0xFF
    cells[0].write_bytes(bytes(raw))
    cells[1].write_bytes(cells[1].read_bytes()[:100])
    assert run(tmp_path).n_fits in (1, 2)  # the flipped byte may lie where nothing is read; what is cut never is
    assert read_fit(cells[1], prepared_for(tmp_path, "market").data.decisions["test"].height) is not None


def test_a_cell_of_other_length_is_none(tmp_path: Path) -> None:
    write_fit(tmp_path / "c", FitId("d", "p", "r", 0), np.full(5, 0.5), 1.5)
    found = read_fit(tmp_path / "c", 5)
    assert found is not None and found[1] == 1.5
    assert read_fit(tmp_path / "c", 6) is None


def test_kill_9_loses_nothing_that_was_done(tmp_path: Path) -> None:
    """Killed once in mid-run, and at any other moment by luck; the end is that of a run left alone."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.experiment_world", str(tmp_path), str(log)]
    for n_before_kill in (3, 7):
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "SLOW_FIT": "0.05"})
        deadline = time.monotonic() + 500
        while time.monotonic() < deadline and process.poll() is None:
            if log.exists() and len(log.read_text().splitlines()) >= n_before_kill:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.01)
        assert process.wait() == -signal.SIGKILL
    finished = run(tmp_path, log)
    lines = log.read_text().splitlines()
    assert finished.n_kept >= 5, "all but what was under way at the two kills"
    assert len(lines) - len(set(lines)) <= 2, "at most the fit under way is made twice"
    alone = run(tmp_path / "alone")
    assert to_json(finished)["rows"] == to_json(alone)["rows"]


def test_a_stop_keeps_what_is_done(tmp_path: Path) -> None:
    asked = iter([False] * 4 + [True] * 100)
    config = config_for(tmp_path)
    with pytest.raises(InterruptedRunError, match="the same command goes on"):
        run_experiment(config, steps_for(), lambda n: prepared_for(tmp_path, n), should_stop=lambda: next(asked))
    assert run(tmp_path).n_kept == 4


def test_workers_find_what_one_process_finds(tmp_path: Path, results: ExperimentResults) -> None:
    config = config_for(tmp_path)
    many = run_experiment(config, steps_for(), lambda name: prepared_for(tmp_path, name), n_workers=2)
    assert to_json(many)["rows"] == to_json(results)["rows"]


def test_bad_scores_name_their_fit(tmp_path: Path) -> None:
    grids = [{"rows": ["base", "girl"], "predictors": ["nan"]}]
    with pytest.raises(UndefinedMetricError, match=r"ranker 'nan', row 'base', seed 0 returned scores that are not"):
        run(tmp_path, grids=grids, claims=[], baselines=[])
    grids = [{"rows": ["base", "girl"], "predictors": ["short"]}]
    with pytest.raises(ShapeError, match=r"ranker 'short'"):
        run(tmp_path, grids=grids, claims=[], baselines=[])


def test_the_page_warns_of_an_author(results: ExperimentResults) -> None:
    data = results.data[0]
    [one] = [row for row in data.rows if (row.predictor, row.row, row.slice) == ("column", "base", "all")]
    style = replace(one, predictor="alone", row="base+style", auc=0.81)
    words = replace(style, row="base+lexical")
    assert "ranks the test pairs with an AUC of 0.81" in summary_section(data._replace(rows=[*data.rows, style]), ())
    for silent in (words, replace(style, auc=0.6), replace(style, predictor="mlp")):
        assert "Warning" not in summary_section(data._replace(rows=[*data.rows, silent]), ())


def test_the_page_and_the_tables_hold_the_numbers(tmp_path: Path, results: ExperimentResults) -> None:
    page = tmp_path / "evidence.md"
    config = results.config.model_copy(update={"workspace": tmp_path / "out"})
    again = ExperimentResults(config, results.data, results.n_fits, results.n_kept)
    write_experiment(
        again, page, command="girl experiment run x.yaml", machine="a <b>machine</b>", date=date(2026, 1, 1)
    )
    text = page.read_text()
    assert "(simulation)" in text and "Best with a generated JD: `column`, `girl`" in text
    assert "Fewer than 5 seeds" in text
    assert "<b>" not in text, "nothing from outside is markup"
    for file in ("market-lift.png", "market-calibration.png", "market-decisions.png", "market-k.png"):
        assert (tmp_path / "evidence" / file).stat().st_size > 1000 and f"(evidence/{file})" in text
    folder = tmp_path / "out" / "trial"
    assert (folder / "results.parquet").is_file()
    own = pl.DataFrame({"row": ["mine"]})
    own.write_parquet(folder / "claims.parquet")
    (folder / "calibration.parquet").write_text("no table")
    write_experiment(again, page, command="girl experiment run x.yaml", machine="a", date=date(2026, 1, 1))
    kept = sorted(path for path in folder.iterdir() if ".bak-" in path.name)
    assert [path.name.partition(".bak-")[0] for path in kept] == ["calibration.parquet", "claims.parquet"]
    assert (kept[0].read_text(), pl.read_parquet(kept[1]).equals(own)) == ("no table", True)
    best = duckdb.sql(
        f"SELECT row, max(auc) AS auc FROM '{folder}/results.parquet' "
        "WHERE slice = 'all' AND predictor = 'column' GROUP BY 1 ORDER BY 2 DESC"
    ).fetchone()
    assert best is not None and best[0] == "girl"
    assert pl.read_parquet(folder / "claims.parquet")["verdict"].to_list().count("better") >= 1
    assert "| windows | column/girl over column/base |" in text, "a claim that looks for a cause"
    assert "| girl | " in text and "test pairs with a JD" in text
    assert "k generated JDs a CV" in text and "baselines of the journal version" in text


def test_nothing_personal_lies_in_the_cells(tmp_path: Path) -> None:
    run(tmp_path)
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or b"seeker-" not in path.read_bytes(), path


def test_texts_are_encoded_once_and_damage_costs_only_itself(tmp_path: Path) -> None:
    class Counting(HashingEncoder):
        n = 0

        def encode(self, texts):  # type: ignore[no-untyped-def]
            Counting.n += len(texts)
            return super().encode(texts)

    texts = ["welder", "nurse", "welder", ""]
    table = TextVectors(Counting(), tmp_path).table(texts)
    np.testing.assert_allclose(table.of(texts), HashingEncoder().encode(texts).vectors)
    assert Counting.n == 3
    again = TextVectors(Counting(), tmp_path).table([*texts, "cook"])
    assert Counting.n == 4 and again.of(["nurse"])[0] == pytest.approx(table.of(["nurse"])[0])
    (first, *_) = sorted(tmp_path.rglob("part-*.parquet"), key=lambda p: p.stat().st_size, reverse=True)
    first.write_bytes(first.read_bytes()[:50])
    np.testing.assert_allclose(TextVectors(Counting(), tmp_path).table(texts).of(texts), table.of(texts))


# -- the YAML ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grids": [{"rows": ["gril"], "predictors": ["mlp"]}]}, "no row 'gril'; known are: base, girl"),
        ({"samples": None}, "row 'mean-1' needs `samples`"),
        ({"samples": "else"}, "`samples` is 'else'; `generators` has girl"),
        ({"reference": "else"}, "`reference` is 'else'"),
        ({"baselines": ["bpr"]}, "no baseline 'bpr'; known are: ncf"),
        ({"seeds": [1, 1]}, "distinct numbers"),
        ({"claims": [{"name": "x", "subject": "mlp/girl", "over": "column/base"}]}, "speaks of 'mlp/girl', which no"),
        ({"claims": [{"name": "x", "subject": "mlp", "over": "column/base"}]}, "should be predictor/row"),
        ({"generators": {"shuffled": {}}, "samples": None}, "cannot be called 'shuffled'"),
        ({"generators": {"../x": {}}}, "generators"),
        ({"data": {"../x": {"config": "x"}}}, "data"),
        ({"seed": 3}, "seed: did you mean seeds?"),
    ],
)
def test_a_wrong_experiment_says_where(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **change}))
    with pytest.raises(ConfigError) as raised:
        load_experiment(path)
    assert message in str(raised.value)


def test_a_girl_yaml_is_an_experiment_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "girl.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "workspace": "ws", "tables": {}}))
    config = load_experiment(path)
    assert config.data["mine"].config == path.resolve()
    assert config.workspace == (tmp_path / "ws" / "experiments").resolve()
    assert Cell("mlp", "girl") in config.cells and len(config.seeds) == 5
    names = {claim.name for claim in config.all_claims}
    assert {"girl over base, mlp", "girl-sft over cv-twice, dot", "girl over shuffled, dot"} <= names
    assert "girl-sft over shuffled, dot" not in names, "the shuffled JDs are those of girl"


def test_no_claim_is_made_up_where_a_data_set_leaves_all_of_them_out(tmp_path: Path) -> None:
    source = {"config": "girl.yaml", "without": ["girl-sft"]}
    generators = {"girl-sft": {"stages": ["sft"]}, "girl": {"stages": ["sft"]}}
    claims = [{"name": "c", "subject": "column/girl-sft", "over": "column/base"}]
    grids = [{"rows": ["base", "girl", "girl-sft"], "predictors": ["column"]}]
    changes = {"generators": generators, "claims": claims, "grids": grids, "samples": None, "reference": "girl"}
    config = config_for(tmp_path, data={"market": source}, **changes)
    assert len(config.all_claims) == 1 and config.on("market").all_claims == []


def test_shipped_experiments_load() -> None:
    config = load_experiment(ROOT / "benchmarks" / "evidence.yaml")
    assert set(config.data) == {"careers", "rjdb", "sample"} and len(config.seeds) >= 5
    assert config.data["sample"].simulation and not config.data["careers"].simulation
    assert all(isinstance(config, ExperimentConfig) and source.config.is_file() for source in config.data.values())


def test_fewer_labels_are_whole_seekers_and_grow(tmp_path: Path) -> None:
    parts = prepared_for(tmp_path, "market").base
    some, more = (fewer_labels(parts, n, seed=3) for n in (40, 60))
    assert 40 <= len(some.train.labels) < 43, "the last seeker comes with all three decisions"
    assert set(np.unique(some.train.seeker_ids, return_counts=True)[1]) == {3}
    assert set(some.train.seeker_ids) < set(more.train.seeker_ids), "more labels only add seekers"
    assert set(some.train.seeker_ids) != set(fewer_labels(parts, 40, seed=4).train.seeker_ids)
    assert 40 <= len(some.valid.labels) < 46 and some.test is parts.test
    kept = np.isin(parts.train.seeker_ids, some.train.seeker_ids)
    np.testing.assert_array_equal(some.train.features.cv, parts.train.features.cv[kept])
    np.testing.assert_array_equal(some.train.labels, parts.train.labels[kept])
    np.testing.assert_array_equal(fewer_labels(parts, 200, seed=0).train.labels, parts.train.labels)


def test_few_labels_hold_both_classes(tmp_path: Path) -> None:
    parts = prepared_for(tmp_path, "market").base
    last_seeker = parts.train.seeker_ids == parts.train.seeker_ids[-1]
    rare = parts._replace(train=parts.train._replace(labels=last_seeker))  # one seeker holds all matches
    for seed in range(5):
        labels = fewer_labels(rare, 40, seed).train.labels
        assert labels.any() and not labels.all()


def test_rows_by_the_number_of_labels(tmp_path: Path) -> None:
    grids = [{"rows": ["base", "girl"], "predictors": ["column", "cosine"], "labels": [40, 60, 90]}]
    log = tmp_path / "log"
    results = run(tmp_path, log, grids=grids, baselines=[], claims=None)
    cells = {(row.predictor, row.row) for row in results.data[0].rows}
    assert ("column", "girl@40") in cells and ("cosine", "base@40") not in cells, "an untrained ranker needs no labels"
    sizes = {int(line.split()[3]) for line in log.read_text().splitlines()}
    assert sizes == {90, 42, 60}
    assert ("column", "girl@90") not in cells, "the window has no more than 90"
    of_all = {(row.predictor, row.row): row for row in results.data[0].rows if row.slice == "all"}
    gain, base = of_all["column", "girl@40"], of_all["column", "base@40"]
    assert gain.auc_gain == pytest.approx((gain.auc or 0) - (base.auc or 0)) and base.auc_gain is None
    page = tmp_path / "page.md"
    write_experiment(results, page, command="c", machine="m", date=date(2026, 1, 1))
    text = page.read_text()
    assert "by the number of labelled decisions" in text and "| column | girl | 40 |" in text
    assert "| column | girl@40 |" not in text, "the tables of all labels stay short"
    assert (tmp_path / "page" / "market-labels.png").is_file()
    for rows, labels in ((["base", "base-windows"], [40]), (["base"], [39]), (["girl"], [40])):
        grids = [{"rows": rows, "predictors": ["column"], "labels": labels}]
        with pytest.raises(
            ValueError, match=r"trains on the generator's windows too|greater than or equal to 40|needs the row 'base'"
        ):
            config_for(tmp_path, grids=grids, claims=[])
