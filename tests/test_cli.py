"""The command line: help, exit codes, errors and JSON; what the commands do is tested with their modules."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from girl_features import __version__
from girl_features.cli import app, main
from girl_features.sql import connected
from tests.input_tables import GOOD, day, write_tables

COMMANDS = ("init", "check", "sample", "train", "materialize", "contracts", "join", "lookup", "evaluate", "demo")


def _run(*arguments: str):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, arguments)


def _config(folder: Path, rows: object = None) -> str:
    tables = write_tables(folder, rows)  # type: ignore[arg-type]
    path = folder / "girl.yaml"
    path.write_text(yaml.safe_dump({"tables": json.loads(tables.model_dump_json(exclude_none=True))}))
    return str(path)


def test_help_names_every_command_and_each_has_its_own() -> None:
    top = _run("--help")
    assert top.exit_code == 0
    for command in COMMANDS:
        assert command in top.output
        assert _run(command, "--help").exit_code == 0


def test_version() -> None:
    assert _run("--version").output == f"girl-features {__version__}\n"


def test_our_errors_are_one_line_and_exit_2(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("sys.argv", ["girl", "check", "--config", str(tmp_path / "no.yaml")])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: no config at ")
    assert printed.err.count("\n") == 1


def _main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["girl", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.mark.parametrize(
    "error", [RuntimeError("surprise"), BrokenPipeError(32, "closed"), MemoryError(), SystemExit(1)]
)
def test_what_nobody_foresaw_is_never_exit_code_1(tmp_path, monkeypatch, capsys, error) -> None:  # type: ignore[no-untyped-def]
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("girl_features.store.parts.PartsStore.contracts", fail)
    assert _main(monkeypatch, "contracts", "--config", _config(tmp_path)) == 2
    if isinstance(error, RuntimeError):
        printed = capsys.readouterr().err
        assert "Traceback" in printed and "surprise" in printed


def test_ctrl_c_during_a_query_of_any_command_is_no_fault(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    def query(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with connected() as connection:
            connection.execute("SELECT sum(a.range * b.range) FROM range(10000000) a, range(10000000) b")

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        monkeypatch.setattr("girl_features.store.parts.PartsStore.contracts", query)
        assert _main(monkeypatch, "contracts", "--config", _config(tmp_path)) == 130
    finally:
        signal.signal(signal.SIGALRM, before)
    assert capsys.readouterr().err == "stopped\n"


def test_rejected_rows_are_exit_code_1_all_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(tmp_path, {"job_seekers": [*GOOD["job_seekers"], ("", "no id", day(3))]})
    assert _main(monkeypatch, "check", "--config", config) == 1


def test_a_json_file_that_cannot_be_written_costs_no_result(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("")
    arguments = ("check", "--config", _config(tmp_path), "--json", str(tmp_path / "file" / "out.json"))
    assert _main(monkeypatch, *arguments) == 2
    printed = capsys.readouterr()
    assert "interactions" in printed.out
    last = printed.err.splitlines()[-1]
    assert last.startswith("error: --json ") and "the work is done" in last


def test_a_cv_file_that_is_not_there_is_named(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    missing = str(tmp_path / "cv.txt")
    assert _main(monkeypatch, "lookup", "s1", "--config", _config(tmp_path), "--cv", missing) == 2
    assert capsys.readouterr().err.startswith(f"error: {missing} cannot be read (No such file")


def test_check_prints_people_and_machines_the_same_counts(tmp_path: Path) -> None:
    config = _config(tmp_path)
    result = _run("check", "--config", config, "--json", str(tmp_path / "out.json"))
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["tables"]["tables"]["interactions"]["n_kept"] == 2
    assert "interactions" in result.output
    only_json = _run("check", "--config", config, "--json", "-")
    assert json.loads(only_json.stdout) == written


def test_check_exits_1_where_rows_are_rejected_and_2_in_strict_mode(tmp_path: Path) -> None:
    rows = {"job_seekers": [*GOOD["job_seekers"], ("", "no id", day(3))]}
    config = _config(tmp_path, rows)
    result = _run("check", "--config", config)
    assert result.exit_code == 1
    assert "blank_id" in result.output
    assert "RejectedRowsError" in repr(_run("check", "--config", config, "--strict").exception)


def test_markup_in_data_is_printed_as_text(tmp_path: Path) -> None:
    rows = {"jobs": [*GOOD["jobs"], ("[red]id[/red]", "", day(3))]}
    assert "[red]id[/red]" in _run("check", "--config", _config(tmp_path, rows)).output


def test_sample_writes_tables_that_check_accepts(tmp_path: Path) -> None:
    out = tmp_path / "market"
    result = _run("sample", str(out), "--seekers", "40", "--json", "-")
    assert json.loads(result.stdout)["n_seekers"] == 40
    assert pl.read_parquet(out / "job_seekers.parquet")["job_seeker_id"].n_unique() == 40
    again = _run("sample", str(out), "--seekers", "40")
    assert "already holds" in str(again.exception)


@pytest.mark.parametrize("command", ["materialize", "evaluate"])
def test_commands_that_need_a_generator_say_how_to_get_one(tmp_path: Path, command: str) -> None:
    result = _run(command, "--config", _config(tmp_path))
    assert "run `girl train sft` first" in str(result.exception)


@pytest.mark.parametrize("command", [("lookup", "s1"), ("join", "a.parquet", "b.parquet")])
def test_commands_that_need_a_store_say_how_to_get_one(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = _run(*command, "--config", _config(tmp_path))
    assert "run `girl materialize` first" in str(result.exception)


def test_contracts_of_an_empty_store(tmp_path: Path) -> None:
    assert json.loads(_run("contracts", "--config", _config(tmp_path), "--json", "-").stdout) == []
