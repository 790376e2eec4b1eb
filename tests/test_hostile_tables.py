"""Tables as strangers have them, as `benchmarks/hostile_tables.py` makes them: read rightly, or refused by name."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from girl_features.cli import app

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import hostile_commands
from hostile_cases import Case, glob_cases, typed_cases
from hostile_commands import ODD, READING, Odd, answers, build_workspace
from hostile_names import NAMES, name_cases
from hostile_tables import RIGHT, try_tables
from hostile_text_files import text_file_cases

SEED = 7
QUICK = ("check", "check --strict", "join --fit", "materialize --dry-run")  # these meet every odd table, others some
SOME = (
    "no rows in interactions",
    "only nulls of no type in jobs",
    "every CV in Chinese",
    "ids as integers",
    "times as epoch numbers",
    "columns in capitals",
)


def cases(folder: Path) -> Iterator[Case]:
    yield from typed_cases(folder, SEED, tries=1)
    yield from glob_cases(folder, SEED, n=150)
    yield from name_cases(folder, SEED, names=NAMES[::6])
    yield from text_file_cases(folder, SEED, n=3)


def test_tables_are_read_rightly_or_refused_by_name(tmp_path: Path) -> None:
    results = [(case.family, case.name, try_tables(case)) for case in cases(tmp_path)]
    assert len(results) > 500
    assert [result for result in results if result[2].outcome not in RIGHT] == []


def test_the_oracle_finds_what_is_wrong(tmp_path: Path) -> None:
    good = next(iter(typed_cases(tmp_path, SEED, tries=1)))
    assert try_tables(good).outcome == "read rightly"
    assert good.expected is not None
    rows = good.expected["jobs"]
    other = {**good.expected, "jobs": [(rows[0][0], "another text", rows[0][2]), *rows[1:]]}
    assert try_tables(good._replace(expected=other)).outcome == "silently wrong"
    assert try_tables(good._replace(expected=None)).outcome == "silently wrong"
    assert try_tables(good._replace(n_rows={"jobs": len(rows) + 1})).outcome == "silently wrong"


def test_every_command_is_known_to_read_tables_or_not() -> None:
    def names(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
        children = getattr(command, "commands", {})
        if not children:
            yield " ".join(path)
        for name, child in children.items():
            yield from names(child, (*path, name))

    reading = {" ".join(word for word in command.split() if word[0] != "-") for command in READING}
    commands = set(names(typer.main.get_command(app), ()))
    assert reading | hostile_commands.NOT_READING == commands


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("odd") / "workspace"
    build_workspace(folder)
    return folder


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_no_command_answers_an_odd_table_with_a_traceback(workspace: Path, odd: Odd) -> None:
    commands = list(READING) if odd.name in SOME else QUICK
    wrong = [answer for answer in answers(workspace, odd, commands) if answer.outcome not in hostile_commands.RIGHT]
    assert wrong == []
