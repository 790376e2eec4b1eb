"""What the documents say exists, exists; and what exists is said."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from typer.main import get_command
from typer.testing import CliRunner

from girl_features.cli import app
from girl_features.config import GirlConfig, load_config
from girl_features.lab.experiment.config import load_experiment

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def _settings(model: type[BaseModel]) -> set[str]:
    names = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names |= _settings(inner)
        else:
            names.add(name)
    return names


def test_the_guide_names_every_setting() -> None:
    missing = sorted(name for name in _settings(GirlConfig) if f"`{name}`" not in GUIDE)
    assert not missing


def test_the_readme_names_every_command_and_extra() -> None:
    for command in get_command(app).commands:  # type: ignore[attr-defined]
        assert re.search(rf"girl {command}\b", README), command
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in set(extras) - {"dev"}:
        assert f"`{extra}`" in README, extra


def test_the_readme_says_what_all_brings() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [brought] = re.findall(r"girl-features\[(.*?)\]", extras["all"][0])
    [row] = re.findall(r"^\| `all` \| (.*?) \|", README, flags=re.MULTILINE)
    assert re.findall(r"`(\w+)`", row) == brought.split(",")


def test_the_readme_says_which_commands_take_no_set() -> None:
    def without(command: Any, name: str) -> set[str]:
        below = getattr(command, "commands", None)
        if below is None:
            return set() if any("--set" in option.opts for option in command.params) else {name}
        return {found for sub, inner in below.items() for found in without(inner, f"{name} {sub}".strip())}

    [sentence] = re.findall(r"\(all but (.*?)\)", README.replace("\n", " "))
    assert without(get_command(app), "") == set(re.findall(r"`(.*?)`", sentence))


def test_the_guide_shows_every_folder_of_the_workspace() -> None:
    [tree] = re.findall(r"```\nworkspace/\n(.*?)```", GUIDE, flags=re.DOTALL)
    shown = set(re.findall(r"^  ([\w.]+)", tree, flags=re.MULTILINE))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "girl_features").rglob("*.py"))
    made = set(re.findall(r'(?:\b(?:config|resolved|self)\.workspace / |_InWorkspace\()"([\w.]+)"', sources))
    assert len(made) > 10
    assert made == shown
    assert "runs/evaluate-" in tree


def test_the_readme_opens_with_demo_and_test() -> None:
    first = _blocks(README, "sh")[0]
    assert [line.split("#")[0].strip() for line in first.strip().splitlines()] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    for verb in re.findall(r"(?:^|`)make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{verb}:", makefile, flags=re.MULTILINE), verb


def test_every_girl_command_in_the_documents_parses() -> None:
    lines = [line for text in (README, GUIDE) for block in _blocks(text, "sh") for line in block.splitlines()]
    commands = [line.split("#")[0].split()[1:] for line in lines if line.startswith("girl ")]
    assert len(commands) >= 7
    for arguments in commands:
        # --help after the arguments parses them all and runs nothing
        result = CliRunner().invoke(app, [*arguments, "--help"])
        assert result.exit_code == 0, (arguments, result.output)


@pytest.mark.parametrize("block", _blocks(README, "yaml") + _blocks(GUIDE, "yaml"))
def test_yaml_snippets_are_valid_configs(block: str, tmp_path: Path) -> None:
    (tmp_path / "girl.yaml").write_text(block)
    load_config(tmp_path / "girl.yaml")


def test_shipped_configs_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIRL_DATA", str(tmp_path))  # careers.yaml and rjdb.yaml name it
    shipped = list((ROOT / "benchmarks").glob("*.yaml"))
    assert shipped
    for path in shipped:
        if path.name.startswith("evidence"):  # an experiment; see test_experiment.py
            load_experiment(path)
        else:
            load_config(path)
    repo = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text())
    assert repo["materialization"]["online_write_batch_size"] > 0


@pytest.mark.parametrize("block", _blocks(README, "python"))
def test_python_snippets_name_what_exists(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and node.module:
            module = __import__(node.module, fromlist=[alias.name for alias in node.names])
            for alias in node.names:
                assert hasattr(module, alias.name), alias.name


def test_links_between_documents_lead_somewhere() -> None:
    for path in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} -> {target}"
