"""docs/architecture.md: the lists are short, the files exist, and the arrows of the pictures are imports."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PATHS = {"## One CV": 10, "## One request": 8}  # heading -> most files on the path
# a dotted arrow is a call through an interface: its target is loaded by this file
LOADED_BY = {
    "girl_features/generator/transformers_engine.py": "girl_features/generator/engines.py",
    "girl_features/store/online_sqlite.py": "feature_repo/feature_store.yaml",
}


def _section(heading: str) -> str:
    [section] = [part for part in re.split(r"(?=^## )", PAGE, flags=re.MULTILINE) if part.startswith(heading)]
    return section


def _files(heading: str) -> list[str]:
    return re.findall(r"^\d+\. `([^`]+)`", _section(heading), flags=re.MULTILINE)


def _arrows(heading: str) -> list[tuple[str, str, bool]]:
    """From, to, and True for a solid arrow."""
    [picture] = re.findall(r"```mermaid\n(.*?)```", _section(heading), flags=re.DOTALL)
    names = dict(re.findall(r'(\w+)\["([^"]+)"\]', picture))
    plain = re.sub(r'\["[^"]+"\]', "", picture)
    found = re.findall(r"^ *(\w+) (-->|-\. \w+ \.->) (\w+)$", plain, flags=re.MULTILINE)
    assert len(found) == len(picture.strip().splitlines()) - 1, "a line of the picture is no arrow"
    return [(names[start], names[end], arrow == "-->") for start, arrow, end in found]


def _imported_files(path: Path) -> set[str]:
    """Files that a module imports; a package stands for what its __init__ imports, too."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = {f"{module.replace('.', '/')}.py" for module in modules}
    for module in modules:
        package = ROOT / module.replace(".", "/") / "__init__.py"
        if package.is_file() and package != path:
            files |= _imported_files(package)
    return {name for name in files if (ROOT / name).is_file()}


@pytest.mark.parametrize(("heading", "most"), PATHS.items())
def test_a_path_is_short_and_every_step_is_in_the_picture(heading: str, most: int) -> None:
    files = _files(heading)
    assert 5 < len(files) <= most
    assert all((ROOT / name).is_file() for name in files)
    reached = {end: start for start, end, _ in _arrows(heading)}
    for i, name in enumerate(files[1:], 1):
        assert reached[name] in files[:i], f"nothing before {name} leads to it"


@pytest.mark.parametrize("heading", PATHS)
def test_the_arrows_of_a_picture_are_imports(heading: str) -> None:
    for start, end, is_solid in _arrows(heading):
        if is_solid:
            assert end in _imported_files(ROOT / start), f"{start} does not import {end}"
            continue
        loader = ROOT / LOADED_BY[end]
        if loader.suffix == ".py":
            assert end in _imported_files(loader)
        else:
            assert end.removesuffix(".py").replace("/", ".") in loader.read_text(encoding="utf-8")


def test_the_page_names_every_room() -> None:
    rooms = {path.name for path in (ROOT / "girl_features").iterdir() if path.is_dir() and path.name[0] not in "_."}
    named = set(re.findall(r"`(\w+)/`", _section("## Rooms")))
    assert rooms <= named | {"config", "vectors"}, "the last two are ground modules that grew into packages"


def test_no_room_is_too_full() -> None:
    assert len([path for path in (ROOT / "girl_features").iterdir() if path.name[0] not in "_." or path.suffix]) <= 30
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("girl_features", "trainers", "integrations", "feature_repo", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if not any(parent.is_symlink() for parent in path.parents)
    }
    assert {name: n for name, n in lengths.items() if n > 400} == {}
    in_package = sorted(n for name, n in lengths.items() if not name.startswith("benchmarks/"))
    assert in_package[len(in_package) // 2] < 120, "lines of the median module"
