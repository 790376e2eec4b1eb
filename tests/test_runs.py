"""Records of runs, the plan and its estimate, and the ledger in the rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from typer.testing import CliRunner

from girl_features.batch.estimate import estimate, make_plan
from girl_features.batch.lineage import history, rows_of_run
from girl_features.batch.run import MaterializeReport
from girl_features.batch.run_log import RunLog
from girl_features.cli import app
from girl_features.contract import FeatureContract
from girl_features.errors import ConfigError, StoreLockedError
from girl_features.generator.gate import clean
from girl_features.generator.opening import LoadedModels
from girl_features.schema import CREATED_TIMESTAMP
from girl_features.store.parts import PartsStore
from girl_features.store.parts.compaction import erase_rows
from tests.fakes import HashingEncoder, TemplateGenerator, feature_contract
from tests.input_tables import day, load, write_tables
from tests.local_batch import materialize

CREATED = datetime(2024, 1, 1, tzinfo=UTC)
CONTRACT = feature_contract(day(10).isoformat())
SEEKERS = [
    ("ann", "welder", day(11)),
    ("ben", "in circles", day(12)),
    ("cid", " ", day(13)),
    ("dee", "cook", day(14)),
]
CONFIG = {"sampling": {"seed": 0, "n": 1}, "chunk_size": 4}


def _materialize(folder: Path, seekers: list[Any], generator: TemplateGenerator, **options: Any) -> MaterializeReport:
    contract: FeatureContract = options.pop("contract", CONTRACT)
    with load(write_tables(folder, {"job_seekers": seekers, "interactions": []})) as tables:
        return materialize(
            tables,
            generator,
            HashingEncoder(),
            contract,
            PartsStore(folder / "store"),
            chunk_size=2,
            engine="template",
            **({"run": "first", "now": lambda: CREATED} | options),
        )


def test_every_cv_is_new_changed_unchanged_failed_before_or_blank(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    loops = {"in circles": ["round " * 20] * 2}
    report = _materialize(tmp_path, SEEKERS, TemplateGenerator(loops))
    assert (report.n_new, report.n_changed, report.n_unchanged, report.n_failed_before) == (3, 0, 0, 0)
    assert (report.n_generated, report.n_failed, report.failures, report.n_no_cv) == (2, 1, {"looping": 1}, 1)
    later = [*SEEKERS, ("ann", "foreman", day(20)), ("eve", "nurse", day(21)), ("fay", "", day(22))]
    with load(write_tables(tmp_path, {"job_seekers": later, "interactions": []})) as tables:
        plan = make_plan(tables, CONTRACT, store).generation
        again = make_plan(tables, CONTRACT, store, retry_failed=True).generation
    # eve is new, ann has changed, ann's and dee's first CVs are as they were, ben failed, cid and fay are blank
    assert plan._asdict() == {
        "n_new": 1,
        "n_changed": 1,
        "n_unchanged": 2,
        "n_failed_before": 1,
        "n_no_cv": 2,
        "n_planned": 3,  # eve, ann, and fay to be noted down
    }
    assert again == plan._replace(n_planned=4)
    assert plan.n_wanted == len(later)


def test_failures_are_remembered_and_tried_again_only_when_asked(tmp_path: Path) -> None:
    store, generator = PartsStore(tmp_path / "store"), TemplateGenerator({"in circles": ["", "", "a b c"]})
    _materialize(tmp_path, SEEKERS, generator)
    n_calls = len(generator.calls)
    assert _materialize(tmp_path, SEEKERS, generator).n_failed_before == 1
    assert len(generator.calls) == n_calls
    later = {"run": "second", "now": lambda: CREATED + timedelta(days=1)}
    report = _materialize(tmp_path, SEEKERS, generator, retry_failed=True, **later)
    assert (report.n_planned, report.n_generated) == (1, 1)
    tries = [seed for cv, seed in generator.calls if cv == "in circles"]
    assert len(tries) == len(set(tries)) == 3, "other seeds than the two that failed"
    rows = history(store, "ben")
    assert [(row["status"], row["run"]) for row in rows] == [("empty", "first"), ("stored", "second")]
    assert rows[0]["seeds"] == tries[:2]
    assert (rows[1]["seeds"], rows[1]["generated_jds"]) == (tries[2:], ["a b c"])


def test_the_dry_run_projects_from_real_generations_and_stores_nothing(tmp_path: Path) -> None:
    store, generator, encoder = PartsStore(tmp_path / "store"), TemplateGenerator(), HashingEncoder()
    seekers = [(f"s{i}", " ".join(f"word{k}" for k in range(1 + i)), day(11)) for i in range(40)] + [
        ("blank", "", day(11))
    ]
    with load(write_tables(tmp_path, {"job_seekers": seekers, "interactions": []})) as tables:
        plan = make_plan(tables, CONTRACT, store)
        models = LoadedModels(encoder, generator, CONTRACT)
        guess = estimate(tables, plan, models, n_sample=10, cost_per_hour=3600.0)
        assert guess is not None
        assert (plan.generation.n_planned, guess.n_sampled) == (41, 10)
        assert len(generator.calls) == 11, "the sample and one to warm up"
        # every fourth of 40 by length, from the third: 3 + 7 + ... + 39 = 210 words of 10 CVs, so 840 of 40
        assert guess.n_prompt_tokens == 840
        assert guess.cost == pytest.approx(guess.seconds), "3,600 an hour is one a second"
        few = estimate(tables, plan, models, n_sample=100)
        assert few is not None and (few.n_sampled, few.n_prompt_tokens, few.cost) == (40, 820, None)
    assert not (tmp_path / "store").exists()


def test_rows_say_where_they_came_from_and_runs_add_up(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    generator = TemplateGenerator({"cook": ["", "we want a cook", "we want one more"]})
    contract = feature_contract(day(10).isoformat(), n=2)
    report = _materialize(tmp_path, SEEKERS[-1:], generator, contract=contract)
    (row,) = history(store, "dee")
    assert (row["run"], row["engine"], row["contract"], row["status"]) == (
        "first",
        "template",
        contract.fingerprint,
        "stored",
    )
    assert row["generated_jds"] == ["we want a cook", "we want one more"]
    assert row["seeds"] == [seed for _, seed in generator.calls[1:]], "of the JDs that were kept"
    assert row["finish_reasons"] == ["stop", "stop"]
    assert (row["n_new_tokens"], row["n_prompt_tokens"]) == (0 + 4 + 4, 3), "of all three draws"
    vectors = HashingEncoder().encode(row["generated_jds"]).vectors
    spread = ((vectors - vectors.mean(0)) ** 2).sum(1).mean()
    assert row["generated_jd_dispersion"] == pytest.approx(spread, abs=1e-6)
    assert spread > 0
    stored = rows_of_run(store, contract.fingerprint, "first")
    assert (stored.n_generated, stored.n_failed, stored.n_no_cv) == (1, 0, 0)
    assert (stored.n_new_tokens, stored.n_prompt_tokens) == (report.n_new_tokens, report.n_prompt_tokens) == (8, 3)
    assert stored.seconds == pytest.approx(report.generate_seconds)
    assert rows_of_run(store, contract.fingerprint, "another") == (0, 0, 0, 0, 0, 0.0)


def test_contact_details_are_not_stored_and_the_leak_is_counted(tmp_path: Path) -> None:
    canaries = [f"Welder, w{i}.smith@mail.example, +44 20 7946 0{i:03d}" for i in range(20)]
    seekers = [(f"s{i}", canary, day(11)) for i, canary in enumerate(canaries)] + [("clean", "a welder", day(11))]
    report = _materialize(tmp_path, seekers, TemplateGenerator())  # repeats the whole CV
    assert (report.n_generated, report.n_redacted) == (21, 20)
    store = PartsStore(tmp_path / "store")
    texts = [text for i in range(20) for row in history(store, f"s{i}") for text in row["generated_jds"]]
    assert len(texts) == 20
    assert not any("smith" in text or "7946" in text for text in texts)
    assert all("[email], [phone]" in text for text in texts)


def test_any_text_comes_back_as_it_was_cleaned(tmp_path: Path) -> None:
    texts = [
        "welder \ud800 with a lone surrogate",
        "\u202eright to left\u202c מהנדס مهندس",
        "chef \U0001f468\u200d\U0001f373 cafe\u0301",
        "bell \x07 and NUL \x00 and \x1b[31m red",
        "'; DROP TABLE generated_plan; --",
    ]
    seekers = [(f"s{i}", f"cv number {i}", day(11)) for i in range(len(texts))]
    generator = TemplateGenerator({f"cv number {i}": [text] for i, text in enumerate(texts)})
    assert _materialize(tmp_path, seekers, generator).n_generated == len(texts)
    store = PartsStore(tmp_path / "store")
    assert [history(store, f"s{i}")[0]["generated_jds"] for i in range(len(texts))] == [[clean(text)] for text in texts]


def test_an_erased_seeker_has_no_history(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    _materialize(tmp_path, SEEKERS, TemplateGenerator())
    folder = store.view_dir("generated_jds", CONTRACT.fingerprint)
    assert len(history(store, "ann")) == 1
    erase_rows(store.root, [folder], "job_seeker_id", "ann")
    assert history(store, "ann") == []
    assert len(history(store, "dee")) == 1
    assert history(store, "' OR true --") == []


def test_a_damaged_part_alone_is_made_again(tmp_path: Path) -> None:
    store, generator = PartsStore(tmp_path / "store"), TemplateGenerator()
    seekers = [(f"s{i}", f"cv number {i}", day(11)) for i in range(6)]
    _materialize(tmp_path, seekers, generator)
    victim = store.part_paths("generated_jds", CONTRACT.fingerprint)[1]
    lost = {row[0] for row in duckdb.execute("SELECT cv_hash FROM read_parquet(?)", [str(victim)]).fetchall()}
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    n_calls = len(generator.calls)
    report = _materialize(tmp_path, seekers, generator)
    assert (report.n_damaged_parts, report.n_planned, len(generator.calls) - n_calls) == (1, len(lost), len(lost))
    made = [history(store, f"s{i}") for i in range(6)]
    assert [len(rows) for rows in made] == [1] * 6


def test_an_engine_that_breaks_keeps_what_was_committed(tmp_path: Path) -> None:
    class Breaks(TemplateGenerator):
        def generate(self, cvs, seeds):  # type: ignore[no-untyped-def]
            if len(self.calls) >= 4:
                raise RuntimeError("out of memory")
            return super().generate(cvs, seeds)

    seekers = [(f"s{i}", f"cv number {i}", day(11)) for i in range(8)]
    with pytest.raises(RuntimeError, match="out of memory"):
        _materialize(tmp_path, seekers, Breaks())
    assert _materialize(tmp_path, seekers, TemplateGenerator()).n_unchanged == 4


def _begin(log: RunLog, contract: str, config: dict[str, Any], *, how: str = "finished", **options: Any) -> str:
    with log.begin(contract, "template", config, **options) as run:
        run.stopped = how == "stopped"
        if how == "failed":
            raise ZeroDivisionError("seeker ann")
    return run.id


def test_a_record_says_how_the_run_ended(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "runs")
    first = _begin(log, "aaaa", CONFIG)
    with pytest.raises(ZeroDivisionError):
        _begin(log, "aaaa", CONFIG, how="failed")
    with log.begin("aaaa", "template", CONFIG), pytest.raises(StoreLockedError, match=r"process \d+ on .* since"):
        _begin(log, "aaaa", CONFIG)
    records = log.records()
    assert [record.status for record in records] == ["finished", "failed", "finished"]
    assert records[1].error == "ZeroDivisionError"
    assert "ann" not in "".join(path.read_text() for path in (tmp_path / "runs").glob("*.json"))
    assert records[0].config == CONFIG
    assert log.find(first) == log.find(first[:22]) == records[0]
    assert log.find("last") == records[-1]
    for wrong in ("2", "../../etc/passwd", ""):
        with pytest.raises(ConfigError, match="girl runs"):
            log.find(wrong)


@pytest.mark.parametrize("how", ["stopped", "failed"])
def test_another_config_over_an_unfinished_run_is_refused(tmp_path: Path, how: str) -> None:
    log = RunLog(tmp_path / "runs")
    if how == "failed":
        with pytest.raises(ZeroDivisionError):
            _begin(log, "aaaa", CONFIG, how=how)
    else:
        _begin(log, "aaaa", CONFIG, how=how)
    changed = {"sampling": {"seed": 1, "n": 1}, "chunk_size": 4}
    with pytest.raises(ConfigError, match=rf"was {how} .*changed: sampling\.seed: 0 -> 1\).*--new-run"):
        _begin(log, "bbbb", changed)
    _begin(log, "aaaa", CONFIG | {"chunk_size": 8})  # the same features: resumed
    _begin(log, "bbbb", changed)


def test_a_new_run_gives_the_unfinished_one_up(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "runs")
    _begin(log, "aaaa", CONFIG, how="stopped")
    _begin(log, "bbbb", CONFIG, new_run=True)
    assert [record.status for record in log.records()] == ["abandoned", "finished"]
    _begin(log, "cccc", CONFIG)


def test_a_run_whose_process_died_counts_as_killed(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "runs")
    _begin(log, "aaaa", CONFIG)
    (path,) = (tmp_path / "runs").glob("*.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"status": "running", "ended_at": None, "pid": 2**22 + 1}))
    assert log.records()[0].status == "killed", "for those who look"
    with pytest.raises(ConfigError, match="was killed before it was done"):
        _begin(log, "bbbb", CONFIG)
    assert json.loads(path.read_text())["status"] == "killed", "and for good, once another run holds the lock"


def test_the_commands_read_what_the_library_wrote(tmp_path: Path) -> None:
    write_tables(tmp_path)
    tables = {name: {"path": f"{name}.parquet"} for name in ("job_seekers", "jobs", "interactions")}
    config = tmp_path / "girl.yaml"
    config.write_text(json.dumps({"workspace": ".", "tables": tables}))

    def girl(*arguments: str) -> Any:
        result = CliRunner().invoke(app, [*arguments, "--config", str(config), "--json", "-"])
        return json.loads(result.output)

    assert (girl("runs"), girl("history", "ann")) == ([], [])
    with RunLog(tmp_path / "runs").begin(CONTRACT.fingerprint, "template", CONFIG) as run:
        report = _materialize(tmp_path, SEEKERS, TemplateGenerator(), run=run.id)
        run.totals = vars(report)
    (listed,) = girl("runs")
    assert (listed["id"], listed["status"], listed["totals"]["n_generated"]) == (run.id, "finished", 3)
    shown = girl("runs", "show", "last")
    assert (shown["config"], shown["stored"]["n_generated"], shown["stored"]["n_no_cv"]) == (CONFIG, 3, 1)
    (row,) = girl("history", "ann")
    assert (row["contract"], row["status"]) == (CONTRACT.fingerprint, "stored")
    assert row[CREATED_TIMESTAMP].startswith("2024-01-01")
    plain = CliRunner().invoke(app, ["history", "ann", "--config", str(config)])
    assert "stored" in plain.output and "wanted: somebody with welder" in plain.output
    assert np.isfinite(shown["stored"]["seconds"])
