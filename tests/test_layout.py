"""Imports point one way, light modules stay light, and nothing sleeps in the wrong place."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OUTER = ("trainers", "feature_repo", "integrations")
HEAVY = {"torch", "transformers", "feast", "lightgbm", "trl", "pandas", "matplotlib"}


def _imported(path: Path) -> set[str]:
    """Every module a file names in an import or as the string of a `require` call."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


def _outer_parts(path: Path) -> set[str]:
    return {part for part in OUTER for name in _imported(path) if name.startswith(f"girl_features.{part}")}


def test_the_core_imports_none_of_the_outer_parts() -> None:
    for path in (ROOT / "girl_features").rglob("*.py"):
        if path.parent.name != "commands":  # they are where the parts meet
            # the template of `girl init` is read as data, by name
            assert _outer_parts(path) <= ({"feature_repo"} if path.name == "init_repo.py" else set()), path


@pytest.mark.parametrize("part", OUTER)
def test_the_outer_parts_do_not_import_each_other(part: str) -> None:
    for path in (ROOT / part).rglob("*.py"):
        assert _outer_parts(path) <= {part}, path
        bare = {name for name in _imported(path) if name.split(".")[0] in OUTER and "." in name}
        assert not bare, f"{path} imports {bare} without girl_features."


def test_no_module_is_named_after_a_package_it_uses() -> None:
    for part in ("girl_features", *OUTER):
        for path in (ROOT / part).rglob("*.py"):
            assert path.stem not in HEAVY | {"polars", "duckdb", "pyarrow", "numpy"}, path


@pytest.mark.parametrize(
    "module", ["girl_features", "girl_features.cli", "girl_features.ranker", "girl_features.contract"]
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_help_loads_neither_arrow_nor_a_database() -> None:
    code = (
        "import sys, girl_features.cli as cli\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(cli.app, ['--help']).exit_code == 0\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pyarrow", "duckdb", "polars", "pydantic"} & set(loaded)


def test_no_duckdb_may_take_all_memory() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("girl_features", "trainers", "integrations")
        for path in (ROOT / folder).rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "duckdb.connect()" in line
    ]
    assert not bare, "use store.history.connected, which spills to disk instead"
