"""Imports point one way, light modules stay light, and tests use public names."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import girl_features

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
            if node.module != "girl_features" or not all(_is_module(alias.name) for alias in node.names):
                names.add(node.module)  # else only modules below it, as in `from girl_features import schema`
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


def _is_module(name: str) -> bool:
    return (ROOT / "girl_features" / f"{name}.py").is_file() or (ROOT / "girl_features" / name).is_dir()


# Each level may import from the levels before it; the rooms of one level never import each other.
LEVELS: tuple[dict[str, set[str]], ...] = (
    {
        "ground": {
            "config",
            "contract",
            "encoder",
            "errors",
            "machine",
            "progress",
            "ranker",
            "schema",
            "sql",
            "torch_threads",
            "vectors",
        }
    },
    {"store": {"store", "init_repo"}},
    {"generator": {"generator"}, "input": {"input"}},
    {"lookup": {"lookup", "pairs", "tiers"}},
    {"batch": {"batch"}},
    {"evaluation": {"evaluation"}},
    {"trainers": {"trainers"}, "integrations": {"integrations"}, "sample": {"sample"}, "mapping": {"mapping"}},
    {"lab": {"lab"}},
    {"public names": {""}},  # girl_features/__init__.py, which only the commands may import from
    {"commands": {"commands", "cli"}},
)
LEVEL_OF = {top: level for level, rooms in enumerate(LEVELS) for tops in rooms.values() for top in tops}
ROOM_OF = {top: room for rooms in LEVELS for room, tops in rooms.items() for top in tops}


def _top(module: str) -> str:
    """`store` of `girl_features.store.parts`; nothing for the package itself."""
    return module.removeprefix("girl_features").lstrip(".").split(".")[0]


def _modules() -> dict[str, Path]:
    """Every module of the package by its import name, but the Feast repo, which is a template."""
    folders = [ROOT / "girl_features", *(ROOT / part for part in OUTER if part != "feature_repo")]
    found = {}
    for folder in folders:
        for path in folder.rglob("*.py"):
            if not path.relative_to(ROOT).is_relative_to("girl_features/trainers") and not any(
                parent.is_symlink() for parent in path.parents
            ):
                inner = path.relative_to(ROOT).with_suffix("").as_posix().removeprefix("girl_features/")
                found[f"girl_features.{inner}".replace("/", ".").removesuffix(".__init__")] = path
    return found


def test_imports_point_one_way() -> None:
    modules = _modules()
    assert len(modules) > 150
    wrong = []
    for name, path in modules.items():
        for imported in sorted(_imported(path) & set(modules)):
            ours, theirs = _top(name), _top(imported)
            if ROOM_OF[ours] != ROOM_OF[theirs] and LEVEL_OF[ours] <= LEVEL_OF[theirs]:
                wrong.append(f"{name} ({ROOM_OF[ours]}) imports {imported} ({ROOM_OF[theirs]})")
    assert not wrong, "\n".join(wrong)


def test_the_outer_parts_are_imported_by_their_nested_names() -> None:
    for path in _modules().values():
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


def test_every_public_name_can_be_imported() -> None:
    assert len(girl_features.__all__) > 10
    for name in girl_features.__all__:
        assert getattr(girl_features, name).__name__ == name
        assert name in dir(girl_features)
    with pytest.raises(AttributeError, match="no attribute 'FeatureClinet'"):
        girl_features.FeatureClinet  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_see_the_same_public_names() -> None:
    tree = ast.parse((ROOT / "girl_features" / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "typing"]
    named = {alias.asname: node.module for node in imports for alias in node.names if alias.asname}
    assert named == girl_features._MODULES


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
    assert not bare, "use sql.connected, which spills to disk instead"


def test_tests_import_neither_test_modules_nor_private_names() -> None:
    wrong = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for name in sorted(_imported(path)):
            parts = name.split(".")
            is_test_module = parts[0] == "tests" and any(part.startswith("test_") for part in parts)
            is_private = parts[0] == "girl_features" and any(re.match("_[^_]", part) for part in parts)
            if is_test_module or is_private:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_docstring_begins_with_a_riddle() -> None:
    riddle = re.compile(r"(What|Who|Whether)\b")
    wrong = [
        f"{path.relative_to(ROOT)}: {docstring.splitlines()[0]}"
        for folder in ("girl_features", *OUTER, "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and (docstring := ast.get_docstring(node))
        and riddle.match(docstring)
    ]
    assert not wrong, "begin with a verb, or with the noun that comes out"
