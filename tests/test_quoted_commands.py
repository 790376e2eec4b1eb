"""Commands and settings that messages, docstrings and pages quote exist, with their options and values."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import typer
from pydantic import BaseModel, TypeAdapter, ValidationError

from girl_features.cli import app
from girl_features.config import GirlConfig

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("girl_features", "trainers", "integrations", "feature_repo")
PAGES = ("README.md", "docs/guide.md", "docs/scaling.md", "feature_repo/girl.yaml")
ANY = "PLACEHOLDER"


def literals() -> Iterator[tuple[str, str]]:
    """Yield the place and text of every string in the source, with ANY for what an f-string fills in."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if any(parent.is_symlink() for parent in path.parents):
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.JoinedStr):
                    values = (v.value if isinstance(v, ast.Constant) else ANY for v in node.values)
                    yield place, "".join(map(str, values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                    yield place, node.value


def quoted() -> Iterator[tuple[str, str]]:
    """Yield every text in backticks, of the source and of the pages."""
    texts = [*literals(), *((name, (ROOT / name).read_text(encoding="utf-8")) for name in PAGES)]
    for place, text in texts:
        if re.fullmatch(r"girl [a-z][a-z -]*", text):
            yield place, text
        for match in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
            yield place, " ".join(match.split())


def blocks() -> Iterator[tuple[str, str]]:
    """Yield the lines of the pages' shell blocks."""
    for name in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL):
            yield from ((name, line.partition(" #")[0].strip()) for line in block.splitlines())


COMMANDS = sorted(
    {(text, place) for place, text in [*quoted(), *blocks()] if re.match(r"girl [a-z-]", text) and "|" not in text}
)


def problem(command: str) -> str | None:
    """Return what is wrong with a `girl` command; None if its names and options exist."""
    current: Any = typer.main.get_command(app)
    words = shlex.split(command.replace("...", ANY))[1:]
    while hasattr(current, "commands") and words and not words[0].startswith("-"):
        found = current.commands.get(words[0])
        if found is None:
            return f"no command {words[0]!r}"
        current, words = found, words[1:]
    options = {name for parameter in current.params for name in (*parameter.opts, *parameter.secondary_opts)}
    options |= {"--help", "-h"}
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in options]
    if unknown:
        return f"no option {unknown}"
    if hasattr(current, "commands"):
        return None if not words or words[0] in options else f"{words} follow a group"
    overrides = [value for option, value in itertools.pairwise(words) if option == "--set"]
    return next(filter(None, map(wrong_setting, overrides)), None)


def wrong_setting(text: str) -> str | None:
    """Return what is wrong with `a.b`, `a.b=value` or `a.b: value`; None if girl.yaml may have it."""
    name, separator, value = re.fullmatch(r"([^=:\s]+)(?:(=|: )(.*))?", text).groups()  # type: ignore[union-attr]
    model: Any = GirlConfig
    for key in name.split("."):
        if get_origin(model) is dict:
            model = get_args(model)[1]
            continue
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            return f"{name}: nothing is below {key!r}"
        pattern = re.compile(re.escape(key).replace(ANY, ".+"))
        fields = [field for field in model.model_fields if pattern.fullmatch(field)]
        if not fields:
            return f"no setting {name!r}"
        info = model.model_fields[fields[0]]
        model = info.annotation
    if separator and ANY not in value and value not in ("...", ""):
        import yaml

        try:
            TypeAdapter(model).validate_python(yaml.safe_load(value))
        except ValidationError:
            return f"{name} takes no {value!r}"
    return None


SECTIONS = "|".join(GirlConfig.model_fields)
SETTING = re.compile(rf"(?:{SECTIONS})\.[a-z_{ANY}]+(?:\.[a-z_{ANY}]+)*(?:(?:=|: ).*)?")
FILES = re.compile(r"\.(?:py|yaml|json|parquet|duckdb|db|md)$")
SETTINGS = sorted({(text, place) for place, text in quoted() if SETTING.fullmatch(text) and not FILES.search(text)})


def test_there_are_many_of_both() -> None:
    assert len(COMMANDS) > 100 and len(SETTINGS) > 80


def test_every_quoted_command_exists_with_its_options() -> None:
    wrong = [f"{place}: `{command}`: {problem(command)}" for command, place in COMMANDS if problem(command)]
    assert not wrong, "\n".join(wrong)


def test_every_quoted_setting_exists_and_takes_the_value() -> None:
    wrong = [f"{place}: `{text}`: {wrong_setting(text)}" for text, place in SETTINGS if wrong_setting(text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "command",
    ["girl chekc", "girl train rloo", "girl check --strickt", "girl train ppo --set ppo.nope=1", "girl runs shw last"],
)
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    assert problem(command)


@pytest.mark.parametrize(
    "text", ["tables.jobs.colums", "windows.sft", "sft.tuning: partly", "strict.x", "tables.cvs.path"]
)
def test_a_setting_that_does_not_exist_is_found(text: str) -> None:
    assert wrong_setting(text)
