"""Experiment, grounding and judge by command, on a very small simulated market with a real generator."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner, Result

from girl_features.cli import app
from girl_features.encoder import ENCODER_RECORD, EncoderRecord, find_encoder_folder
from girl_features.errors import ConfigError, DataError, GeneratorFailedError, LeakageError
from girl_features.lab.experiment.config import load_experiment
from girl_features.lab.experiment.prepare import generator_config, write_sample_market

CONFIG = {
    "name": "small",
    "workspace": "own",
    "tables": {name: {"path": f"tables/{name}.parquet"} for name in ("job_seekers", "jobs", "interactions")},
    "windows": {"sft_share": 0.35, "reward_share": 0.1, "rl_share": 0.05, "train_share": 0.3, "valid_share": 0.08},
    "generator": {
        "engine": "transformers",
        "max_cv_tokens": 48,
        "tiny": {"vocab_size": 600, "hidden_size": 32, "n_layers": 1, "n_heads": 2, "pretrain_epochs": 1},
    },
    "sft": {"epochs": 2, "max_jd_tokens": 32},
    "sampling": {"max_new_tokens": 24},
}
EXPERIMENT = {
    "name": "trial",
    "workspace": "out",
    "data": {"market": {"config": "girl.yaml", "simulation": True, "sample_seekers": 120}},
    "generators": {"girl-sft": {"stages": ["sft"], "set": ["generator.stage=sft", "sampling.n=2"]}},
    "samples": "girl-sft",
    "grids": [
        {"rows": ["base", "girl-sft", "regression", "max-2"], "predictors": ["dot"]},
        {"rows": ["base"], "predictors": ["cosine"]},
    ],
    "baselines": ["ncf", "bigrec"],
    "seeds": [0],
    "n_bootstrap": 100,
    "ground_queries": 10,
}


def girl(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    (folder / "girl.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "trial.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    return folder


@pytest.fixture(scope="module")
def first(folder: Path) -> Result:
    page = folder / "page.md"
    return girl(
        "experiment", "run", folder / "trial.yaml", "--jobs", 1, "--markdown", page, "--json", folder / "o.json"
    )


def test_one_command_goes_from_tables_to_a_page(folder: Path, first: Result) -> None:
    assert first.exit_code == 0, (first.output, first.exception)
    assert "Simulation: market, girl-sft over base, dot, all test pairs:" in first.stdout
    page = (folder / "page.md").read_text()
    assert "market (simulation), from generated JD to real jobs: girl-sft" in page and "| chance |" in page
    result = json.loads((folder / "o.json").read_text())
    assert {row["row"] for row in result["rows"]} == {"base", "girl-sft", "regression", "max-2", "baseline"}
    assert result["fits"] == {"made": 7, "kept": 0}
    assert not (folder / "own").exists(), "the user's own workspace is left alone"


def test_a_second_time_nothing_is_fitted(folder: Path, first: Result) -> None:
    again = girl("experiment", "run", folder / "trial.yaml", "--jobs", 1, "--json", "-")
    assert json.loads(again.stdout)["fits"] == {"made": 0, "kept": 7}


def test_the_plan_counts_the_fits(folder: Path, first: Result) -> None:
    plan = girl("experiment", "run", folder / "trial.yaml", "--dry-run")
    assert plan.exit_code == 0, plan.output
    assert "7 cells" in plan.stdout and "market (simulation): 7 fits on" in plan.stdout


def own_config(folder: Path) -> list[str]:
    """Options that point at the experiment's workspace and generator."""
    config = load_experiment(folder / "trial.yaml")
    workspace = generator_config(
        config.data["market"].config, config.folder_of("market"), config.generators["girl-sft"].set
    ).workspace
    return ["--config", str(folder / "girl.yaml"), "--set", f"workspace={workspace}", "--set", "sampling.n=2"]


def test_jobs_for_one_seeker(folder: Path, first: Result) -> None:
    newest = (
        pl.read_parquet(folder / "tables" / "job_seekers.parquet").group_by("job_seeker_id").agg(pl.max("updated_at"))
    )
    written = pl.read_parquet(folder / "out" / "trial" / "market" / "work" / "store" / "generated_jds" / "*" / "part-*")
    last = newest.join(written, on=["job_seeker_id", "updated_at"])["job_seeker_id"].min()
    found = girl("ground", last, *own_config(folder), "--method", "distance", "--k", 3, "--json", "-")
    assert found.exit_code == 0, (found.output, found.exception)
    jobs = json.loads(found.stdout)
    assert [job["rank"] for job in jobs] == [1, 2, 3]
    assert jobs[0]["score"] >= jobs[1]["score"] >= jobs[2]["score"]
    assert isinstance(girl("ground", "nobody", *own_config(folder), "--method", "distance").exception, DataError)
    assert isinstance(girl("ground", *own_config(folder), "--method", "luck").exception, ConfigError)


def test_a_judge_wants_two_generators(folder: Path, first: Result) -> None:
    missing = girl("judge", *own_config(folder))
    assert isinstance(missing.exception, ConfigError)
    assert "no materialized generator 'girl'; the store has girl-sft" in str(missing.exception)


def test_a_generator_that_cannot_be_trained_is_named(folder: Path, first: Result) -> None:
    broken = {**EXPERIMENT, "name": "broken", "generators": {"girl": {"stages": ["ppo"]}}, "samples": None}
    broken |= {"grids": [{"rows": ["base", "girl"], "predictors": ["dot"]}]}
    (folder / "broken.yaml").write_text(yaml.safe_dump(broken))
    failed = girl("experiment", "run", folder / "broken.yaml", "--jobs", 1)
    assert isinstance(failed.exception, GeneratorFailedError)
    assert "stage ppo of generator 'girl' on 'market'" in str(failed.exception)


def test_a_sample_market_never_replaces_other_tables(tmp_path: Path) -> None:
    (tmp_path / "girl.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "jobs.parquet").write_bytes(b"mine")
    with pytest.raises(DataError):
        write_sample_market(load_experiment(tmp_path / "trial.yaml").data["market"])
    assert (tmp_path / "tables" / "jobs.parquet").read_bytes() == b"mine"


def test_a_generator_can_be_left_out_on_one_data_set(tmp_path: Path) -> None:
    data = {"market": {"config": "girl.yaml"}, "other": {"config": "girl.yaml", "without": ["girl"]}}
    generators = {"girl-sft": {}, "girl": {"stages": ["sft", "reward", "ppo"]}}
    claims = [{"name": "x", "subject": "dot/girl", "over": "dot/base"}]
    grids = [{"rows": ["base", "girl-sft", "girl"], "predictors": ["dot"]}]
    raw = {"data": data, "generators": generators, "grids": grids, "claims": claims, "reference": "girl"}
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(raw))
    config = load_experiment(path)
    other = config.on("other")
    assert [cell.row for cell in other.cells] == ["base", "girl-sft"]
    assert other.reference_generator == "girl-sft" and other.claims == () and config.on("market") is config
    path.write_text(yaml.safe_dump({**raw, "data": {"market": {"config": "x", "without": ["girl", "girl-sft"]}}}))
    with pytest.raises(ConfigError, match=r"data\.market\.without"):
        load_experiment(path)


def test_some_of_the_data_sets(tmp_path: Path) -> None:
    both = {**EXPERIMENT, "data": {"one": {"config": "girl.yaml"}, "two": {"config": "girl.yaml"}}}
    path = tmp_path / "experiment.yaml"
    path.write_text(yaml.safe_dump(both), encoding="utf-8")
    config = load_experiment(path)
    assert list(config.only(["two"]).data) == ["two"]
    assert config.only(None) == config == config.only([])
    with pytest.raises(ConfigError, match="no data set 'three' in this experiment; it has one, two"):
        config.only(["two", "three"])


def test_an_evaluation_over_the_controls(folder: Path, first: Result) -> None:
    chosen = ["--set", "evaluate.predictors=[dot, dot-plain]", "--set", "evaluate.seeds=[0]"]
    quick = ["--set", "evaluate.n_bootstrap=100"]
    command = ["evaluate", *own_config(folder), *chosen, *quick]
    plain = json.loads(girl(*command, "--json", "-").stdout)
    assert "controls" not in plain["meta"]
    page = folder / "controls.md"
    result = girl(*command, "--controls", "--json", folder / "controls.json", "--markdown", page)
    assert result.exit_code == 0, (result.output, result.exception)
    told = json.loads((folder / "controls.json").read_text())
    assert [row["name"] for row in told["meta"]["controls"]] == ["lexical", "style", "popularity", "tuned"]
    assert {row["predictor"] for row in told["rows"]} == {"cosine", "dot"}, "plain forms read no columns"

    def auc_of(comparison: dict[str, Any]) -> float:
        [found] = [
            row["auc"]
            for row in comparison["rows"]
            if (row["predictor"], row["row"], row["slice"]) == ("dot", "base", "all")
        ]
        return float(found)

    assert auc_of(told) != auc_of(plain), "base reads the controls too"
    assert "Every trained row, base included, also reads the controls" in page.read_text()
    plain_alone = ["--set", "evaluate.predictors=[dot-plain]", "--set", "evaluate.controls=[style]"]
    refused = girl("evaluate", *own_config(folder), *quick, *plain_alone)
    assert isinstance(refused.exception, ConfigError) and "read the vectors alone" in str(refused.exception)
    some = girl(*command, "--set", "evaluate.controls=[style]")
    assert some.exit_code == 0, (some.output, some.exception)
    assert "AUC of each control alone on the test pairs: style 0." in " ".join(some.stdout.split())


def test_an_experiment_without_a_generator(folder: Path, first: Result) -> None:
    tables = {
        "name": "controls",
        "workspace": "out",
        "data": EXPERIMENT["data"],
        "seeds": [0],
        "n_bootstrap": 100,
        "grids": [
            {"rows": ["base", "base+controls", "regression+controls", "contrastive"], "predictors": ["dot"]},
            {"rows": ["base+lexical", "base+style"], "predictors": ["alone"]},
        ],
    }
    (folder / "controls.yaml").write_text(yaml.safe_dump(tables))
    result = girl("experiment", "run", folder / "controls.yaml", "--jobs", 1, "--json", folder / "c.json")
    assert result.exit_code == 0, (result.output, result.exception)
    written = json.loads((folder / "c.json").read_text())
    aucs = {(row["predictor"], row["row"]): row["auc"] for row in written["rows"] if row["slice"] == "all"}
    assert set(aucs) == {
        *(("dot", row) for row in ("base", "base+controls", "regression+controls", "contrastive")),
        *(("alone", row) for row in ("base+lexical", "base+style")),
    }
    assert len(set(aucs.values())) == 6
    assert [claim["claim"] for claim in written["claims"] if claim["slice"] == "all"] == [
        "regression+controls over base+controls, dot"
    ]
    assert "No generator" in (folder / "out" / "controls" / "evidence.md").read_text()
    plan = girl("experiment", "run", folder / "controls.yaml", "--dry-run")
    assert plan.exit_code == 0 and "generators: none" in plan.stdout


def test_the_fit_by_the_generator_is_a_row(folder: Path, first: Result) -> None:
    tables = {key: value for key, value in EXPERIMENT.items() if key not in ("baselines", "ground_queries")}
    tables["grids"] = [{"rows": ["base", "base+fit", "base+style+fit"], "predictors": ["lightgbm"]}]
    (folder / "fit.yaml").write_text(yaml.safe_dump(tables))
    result = girl("experiment", "run", folder / "fit.yaml", "--jobs", 1, "--json", folder / "fit.json")
    assert result.exit_code == 0, (result.output, result.exception)
    rows = json.loads((folder / "fit.json").read_text())["rows"]
    aucs = {row["row"]: row["auc"] for row in rows if row["slice"] == "all"}
    assert len(set(aucs.values())) == 3, aucs
    kept = list((folder / "out" / "trial" / "market" / "fits").glob("*/part-*.parquet"))
    assert kept and pl.read_parquet(kept)["fit"].list.len().unique().to_list() == [9]


def test_a_tuned_encoder_that_knows_the_ranking_windows_is_refused(folder: Path, first: Result) -> None:
    encoder = folder / "knowing"
    shutil.copytree(find_encoder_folder("all-MiniLM-L6-v2"), encoder)
    record = EncoderRecord(
        base="x",
        base_sha256="0",
        trained_until=datetime(2100, 1, 1, tzinfo=UTC),
        n_pairs=20,
        inputs_sha256="0",
        settings={},
        metrics={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        versions={},
    )
    (encoder / ENCODER_RECORD).write_text(record.model_dump_json())
    (folder / "knowing.yaml").write_text(yaml.safe_dump({**CONFIG, "encoder": {"name": "knowing"}}))
    tables = {"name": "leak", "workspace": "out", "data": {"market": {"config": "knowing.yaml"}}}
    tables["grids"] = [{"rows": ["base"], "predictors": ["dot"]}]
    (folder / "leak.yaml").write_text(yaml.safe_dump(tables))
    refused = girl("experiment", "run", folder / "leak.yaml", "--jobs", 1)
    assert isinstance(refused.exception, LeakageError), refused.output
    assert "the generator or its encoder has seen data until 2100" in str(refused.exception)


@pytest.mark.parametrize(
    ("rows", "predictor", "message"),
    [
        (
            ["base+words"],
            "dot",
            "row 'base+words' adds 'words'; known are: lexical, style, popularity, tuned, fit, controls",
        ),
        (["base+style+style"], "dot", "adds a column twice"),
        (["base-windows+style"], "dot", "are learned from the windows"),
        (["shuffled"], "dot", "needs a generator"),
        (["base+fit"], "dot", "needs a generator"),
        (["base+controls"], "alone", "it reads one column, as base+lexical"),
        (["base+style"], "mlp-plain", "it reads no further columns"),
        (["base@300"], "dot", "give the numbers of decisions in the grid's `labels`"),
        (["base@abc"], "dot", "should be a name, and may add columns"),
        (["base+"], "dot", "should be a name, and may add columns"),
    ],
)
def test_rows_with_columns_are_checked(rows: list[str], predictor: str, message: str, tmp_path: Path) -> None:
    tables = {"data": EXPERIMENT["data"], "grids": [{"rows": rows, "predictors": [predictor]}]}
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(tables))
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_experiment(tmp_path / "e.yaml")
