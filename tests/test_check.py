"""`girl check`: the report and the JSON come first, whatever is wrong, at any width of the terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.commands.readers import cv_readers
from girl_features.config import load_config
from girl_features.input.scripts import script_shares
from girl_features.input.tables import open_tables
from girl_features.input.text_report import MAX_SAMPLED, Reader, inspect_texts
from tests.input_tables import GOOD, day, table_of, write_tables

NAMES = tuple(GOOD)


def workspace(folder: Path, rows: Any = None, **settings: Any) -> Path:
    tables = write_tables(folder, rows).model_dump(exclude_defaults=True)
    path = folder / "girl.yaml"
    path.write_text(yaml.safe_dump({"tables": tables, **settings}))
    return path


def run(path: Path, *arguments: str, columns: int = 80) -> tuple[Any, dict[str, Any]]:
    """Run `girl check`, and return its result and its JSON."""
    target = path.parent / "out.json"
    target.unlink(missing_ok=True)
    command = ["check", "--config", str(path), "--json", str(target), *arguments]
    result = CliRunner().invoke(app, command, env={"COLUMNS": str(columns)})
    return result, json.loads(target.read_text())


NO_EARLIER_CV = [("s1", "j1", True, day(0)), ("s1", "j2", False, day(-1))]
GIVEN_ENDS = {f"{name}_end": f"2020-01-{i + 5:02}" for i, name in enumerate(("sft", "reward", "rl", "train", "valid"))}
EMPTY = {
    "every decision is rejected": ({"interactions": NO_EARLIER_CV}, "no_earlier_cv 2"),
    "no decisions": ({"interactions": []}, "the table interactions has no rows"),
    "no seekers": ({"job_seekers": []}, "no_seeker 2"),
    "no jobs": ({"jobs": []}, "no_job 2"),
    "nothing": ({name: [] for name in NAMES}, "the table interactions has no rows"),
    "only bad seekers": ({"job_seekers": [("", "cv", day(0)), (None, "cv", None)]}, "no_seeker 2"),
    "only nulls": (
        {name: [(None,) * len(rows[0])] for name, rows in GOOD.items()},
        "all 1 rows of interactions were rejected (null_id 1)",
    ),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("case", EMPTY)
def test_without_usable_decisions_the_report_comes_first(tmp_path: Path, case: str, strict: bool) -> None:
    rows, reason = EMPTY[case]
    result, written = run(workspace(tmp_path, rows, strict=strict))
    assert type(result.exception).__name__ == "EmptyWindowError"  # exit code 2
    assert reason in str(result.exception) and "girl check" not in str(result.exception)
    assert written["error"] == str(result.exception) and written["windows"] is None
    for name in NAMES:
        n = len(rows.get(name, GOOD[name]))
        assert written["tables"]["tables"][name]["n_read"] == n
        assert re.search(rf"{name} +{n} ", result.output)
    assert written["tables"]["n_rejected"] == len(written["tables"]["rejections"])
    assert result.output.count("rejected: ") == written["tables"]["n_rejected"]


def test_given_ends_need_no_decisions(tmp_path: Path) -> None:
    result, written = run(workspace(tmp_path, {"interactions": NO_EARLIER_CV}, windows=GIVEN_ENDS))
    assert result.exit_code == 1 and written["error"] is None
    assert written["windows"]["sft"]["n_decisions"] == 0


@pytest.mark.parametrize("by", ["option", "setting"])
def test_strict_mode_shows_the_rows_and_then_fails(tmp_path: Path, by: str) -> None:
    rows = {"job_seekers": [*GOOD["job_seekers"], ("", "no id", day(3))]}
    path = workspace(tmp_path, rows, **({"strict": True} if by == "setting" else {}))
    result, written = run(path, *(["--strict"] if by == "option" else []))
    assert type(result.exception).__name__ == "RejectedRowsError"
    assert "girl check" not in str(result.exception) and "the report lists them" in str(result.exception)
    assert "rejected: job_seekers row 3" in result.output and "Windows" in result.output
    assert written["error"] == str(result.exception)
    assert [row["reason"] for row in written["tables"]["rejections"]] == ["blank_id"]
    assert written["windows"]["sft"]["n_decisions"] == 1


def test_what_another_command_says_in_strict_mode_is_true(tmp_path: Path) -> None:
    path = workspace(tmp_path, {"jobs": [*GOOD["jobs"], ("j3", "", day(0))]}, strict=True)
    result = CliRunner().invoke(app, ["train", "sft", "--config", str(path)])
    assert "`girl check` lists them with their reasons" in str(result.exception)
    checked, _ = run(path)
    assert "rejected: jobs row 3 of jobs.parquet: blank_jd" in checked.output


BROKEN: dict[str, Any] = {
    "absent": lambda folder, name: (folder / f"{name}.parquet").unlink(),
    "no Parquet": lambda folder, name: (folder / f"{name}.parquet").write_text("nothing of the kind"),
    "cut": lambda folder, name: (folder / f"{name}.parquet").write_bytes(
        (folder / f"{name}.parquet").read_bytes()[:-9]
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("name", NAMES)
def test_a_table_that_cannot_be_read_leaves_the_report_on_the_others(tmp_path: Path, name: str, broken: str) -> None:
    path = workspace(tmp_path, {other: [*GOOD[other], (None, *GOOD[other][0][1:])] for other in NAMES})
    BROKEN[broken](tmp_path, name)
    result, written = run(path)
    assert type(result.exception).__name__ == "DataError" and f"table {name}: " in str(result.exception)
    assert re.search(rf"{name} +not read", result.output)
    others = {other: {"n_read": 3, "n_kept": 2, "rejected": {"null_id": 1}} for other in NAMES if other != name}
    assert written["tables"]["tables"] == others
    assert written["error"] == str(result.exception) and written["windows"] is None
    assert result.output.count("rejected: ") == 2


WRONG = {
    "job_seekers": pa.table({"id": ["s1"]}),
    "jobs": table_of("jobs", GOOD["jobs"]).set_column(0, "job_id", pa.array([1.5, 2])),
    "interactions": table_of("interactions", GOOD["interactions"]).set_column(2, "matched", pa.array([3, 5])),
}


def test_every_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    result, written = run(workspace(tmp_path, WRONG))
    lines = str(result.exception).splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"table {name}" for name in NAMES]
    assert written["tables"]["tables"] == {} and written["error"] == str(result.exception)
    only_json = CliRunner().invoke(app, ["check", "--config", str(tmp_path / "girl.yaml"), "--json", "-"])
    assert json.loads(only_json.stdout) == written


def market(n: int = 4000) -> dict[str, list[tuple[Any, ...]]]:
    """A market with counts of several digits and long ids."""
    return {
        "job_seekers": [(f"s{i}", "welder", day(0)) for i in range(50)],
        "jobs": [(f"j{i}", "jd", day(0)) for i in range(50)],
        "interactions": [(f"s{i % 50}", f"j{i % 49}", i % 3 == 0, day(1 + i / 4)) for i in range(n)]
        + [(f"s{i}-{'x' * 60}", "j1", True, day(3)) for i in range(1500)],
    }


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_no_date_or_number_is_cut_at_any_width(tmp_path: Path, columns: int) -> None:
    result, written = run(workspace(tmp_path, market()), columns=columns)
    assert "…" not in result.output
    for window, counts in written["windows"].items():
        shown = [window, *((counts[side] or "")[:10] for side in ("start", "end"))]
        shown += [f"{counts[key]:,}" for key in ("n_decisions", "n_matched", "n_seekers", "n_usable")]
        shown += [f"{counts['n_cold_decisions']:,}"] if window in ("valid", "test") else []
        [line] = [line for line in result.output.splitlines() if line.split()[:1] == [window]]
        assert line.split() == [text for text in shown if text]
        assert columns < 80 or len(line) <= 80
    assert re.search(r"interactions +5,500 +4,000 +no_seeker 1,500\b", result.output)
    for rejection in written["tables"]["rejections"][:3]:
        assert f"{rejection['detail']} (id {rejection['shown_id']})" in result.output


TEXTS = {
    "Latin": "welder with five years of practice ",
    "Cyrillic": "сварщик с опытом пять лет ",
    "Han": "五年焊接经验的焊工",
}


def cvs(n: int, repeats: int = 1) -> dict[str, Any]:
    texts = list(TEXTS.values())
    return {"job_seekers": [(f"s{i}", texts[i % 3] * repeats + str(i), day(0)) for i in range(n)], "interactions": []}


@pytest.mark.parametrize("n", [30, MAX_SAMPLED + 500])
def test_scripts_and_long_cvs_are_counted_or_estimated(tmp_path: Path, n: int) -> None:
    long = [(f"long{i}", "welder " * 400, day(0)) for i in range(n // 10)]
    rows = cvs(n)
    rows["job_seekers"] = rows["job_seekers"] + long
    result, written = run(workspace(tmp_path, rows, windows=GIVEN_ENDS))
    texts = written["texts"]
    is_all = len(rows["job_seekers"]) <= MAX_SAMPLED
    assert texts["n_cvs"] == len(rows["job_seekers"]) and texts["n_sampled"] == min(texts["n_cvs"], MAX_SAMPLED)
    exact = script_shares([cv for _, cv, _ in rows["job_seekers"]])
    assert texts["scripts"] == pytest.approx(exact, abs=1e-9 if is_all else 0.05)
    generator, encoder = texts["readings"]
    assert (generator["reader"], generator["max_tokens"], generator["is_counted"]) == ("generator", 320, False)
    assert (encoder["reader"], encoder["max_tokens"], encoder["is_counted"]) == ("encoder", 256, True)
    share = len(long) / len(rows["job_seekers"])
    assert encoder["share_cut"] == pytest.approx(share, abs=1e-9 if is_all else 0.04)
    assert ("estimated from 1,000 CVs" in result.output) == (not is_all)
    if is_all:
        n_short = sum(texts["n_cvs"] * script_share for script_share in exact.values()) - len(long)
        assert 0 < encoder["share_lost"] < 400 * len(long) / (400 * len(long) + n_short)
        assert "cv is longer than the encoder reads (256 tokens); it loses" in result.output
        assert f"({len(long)} rows)" in result.output


def test_an_unknown_script_is_named_with_its_model(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: i + 1 for i, word in enumerate(sorted(set(TEXTS["Latin"].split() + list("0123456789"))))}
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, **words}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows = cvs(30)
    rows["job_seekers"] = [(seeker, cv.rstrip("0123456789"), at) for seeker, cv, at in rows["job_seekers"]]
    path = workspace(tmp_path, rows)
    config = load_config(path)
    with open_tables(config) as tables:
        reader = Reader("generator", "generator.max_cv_tokens", 320, tmp_path / "tokenizer.json")
        report = inspect_texts(tables, config.tables, [reader])
    [reading] = report.readings
    assert reading.unknown["Latin"] == 0 and reading.unknown["Cyrillic"] > 0.9 and reading.unknown["Han"] > 0.9
    named = {note.message.split()[5]: note.n_rows for note in report.notes() if note.code == "unknown_script"}
    assert named == {"Cyrillic:": 10, "Han:": 10}


def test_check_works_without_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    result, written = run(workspace(tmp_path, cvs(30, repeats=200), windows=GIVEN_ENDS))
    assert result.exit_code == 0, result.output
    assert [reading["is_counted"] for reading in written["texts"]["readings"]] == [False, False]
    assert "guessed at 4 bytes a token, no tokenizer here" in result.output


def test_the_tokenizer_of_a_base_is_found_without_loading_models(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    path = workspace(tmp_path, generator={"base": str(folder), "max_cv_tokens": 64}, encoder={"name": "no/such"})
    assert cv_readers(load_config(path)) == [
        Reader("generator", "generator.max_cv_tokens", 64, folder / "tokenizer.json")
    ]


@pytest.mark.parametrize("strip_html", [False, True])
def test_html_is_counted_until_it_is_stripped(tmp_path: Path, strip_html: bool) -> None:
    seekers = [("s1", "<p>welder</p>", day(0)), ("s2", "C < D & List<String>", day(0)), ("s3", "R&amp;D", day(0))]
    path = workspace(tmp_path, {"job_seekers": seekers, "interactions": []}, windows=GIVEN_ENDS)
    settings = ["--set", f"tables.job_seekers.strip_html={strip_html}"]
    result, written = run(path, *settings)
    assert result.exit_code == 0, result.output
    assert ("cv has HTML; `tables.job_seekers.strip_html: true` makes it plain (2 rows)" in result.output) != strip_html
    assert written["texts"]["n_html"] == ({"jobs": 0} if strip_html else {"job_seekers": 2, "jobs": 0})
