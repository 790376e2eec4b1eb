"""Hashes of source code, so that a change of the code that fits a ranker makes its kept fits anew.

The files to hash are found by following imports, so the list is complete whatever moves.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from girl_features.machine import installed_versions

_PACKAGE = __name__.split(".")[0]
_PACKAGE_FOLDER = Path(__file__).parents[2]
_FITTING_PACKAGES = ("numpy", "torch", "lightgbm", "transformers", "sentence-transformers")


def code_hash(paths: Iterable[Path]) -> str:
    """Return a hash of source files and of the versions of the packages that fit rankers."""
    digest = hashlib.sha256()
    for path in sorted(paths, key=lambda p: p.name):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    for name, number in installed_versions(_FITTING_PACKAGES).items():
        digest.update(f"{name}=={number}\0".encode())
    return digest.hexdigest()


def imported_sources(modules: Iterable[str]) -> list[Path]:
    """Return the source files of these modules and of all modules of this package they import, however indirectly.

    Imports inside functions count, and so do modules named in a call of `require`. Imports for type checkers alone do
    not count. Modules of other packages are left out.
    """
    sources: dict[str, Path] = {}
    pending = list(modules)
    while pending:
        module = pending.pop()
        path = _source_of(module)
        if path is not None and module not in sources:
            sources[module] = path
            pending += _imported_names(ast.parse(path.read_text(encoding="utf-8")))
    return sorted(sources.values())


def _source_of(module: str) -> Path | None:
    """Return the file of a module or package of this package; None for any other name."""
    package, *rest = module.split(".")
    path = _PACKAGE_FOLDER.joinpath(*rest)
    candidates = (path.with_suffix(".py"), path / "__init__.py") if package == _PACKAGE else ()
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _imported_names(node: ast.AST) -> Iterator[str]:
    """Yield every name that the code could import as a module."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Call) and ast.unparse(child.func) == "require":
            yield from (str(argument.value) for argument in child.args if isinstance(argument, ast.Constant))
        yield from _imported_names(child)
