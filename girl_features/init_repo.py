"""Files of `girl init DIR`: a Feast repo that can be applied as it is, and a girl.yaml to fill in."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from girl_features.config import NAME_PATTERN
from girl_features.errors import ConfigError, StoreError

DEFINITIONS = "girl_definitions.py"


def init_repo(target: Path, store_dir: Path, project: str, *, force: bool = False) -> list[Path]:
    """Write the Feast repo and a girl.yaml skeleton into `target`. A second call changes nothing.

    Args:
        target: folder, created if absent.
        store_dir: folder of the Parquet parts; its parent is the workspace in the skeleton.
        project: name of the Feast project, and `name` in the skeleton.
        force: overwrite files that differ.

    Returns:
        The files of the repo and the skeleton, including those that were there already.
    Raises:
        ConfigError: the project name has other characters than small letters, digits and underscores, or the folder of
            the store is not named `store`.
        StoreError: `target` has other files of these names; then nothing is written.
    """
    target, store_dir = target.expanduser().resolve(), store_dir.expanduser().resolve()
    if store_dir.name != "store":
        raise ConfigError(f"the store is the folder `store` of a workspace, found {str(store_dir)!r}")
    files = _repo_files(store_dir, project)
    workspace = store_dir.parent
    if workspace.is_relative_to(target):
        workspace = workspace.relative_to(target)
    files["girl.yaml"] = _template(
        "girl.yaml", {"name: girl": f"name: {project}", "workspace: .girl": f"workspace: {workspace}"}
    )
    return _write_files(target, files, store_dir, force)


def write_repo(target: Path, store_dir: Path, project: str, *, force: bool = False) -> list[Path]:
    """Write only the Feast repo, for a workspace that has a girl.yaml. Arguments and errors are as in `init_repo`."""
    store_dir = store_dir.expanduser().resolve()
    return _write_files(target.expanduser().resolve(), _repo_files(store_dir, project), store_dir, force)


def _repo_files(store_dir: Path, project: str) -> dict[str, str]:
    if not re.fullmatch(NAME_PATTERN, project):
        raise ConfigError(
            f"{project!r} cannot name a Feast project: use a small letter, then up to 39 small letters, digits "
            f"and underscores"
        )
    return {
        "feature_store.yaml": _template("feature_store.yaml", {"project: girl": f"project: {project}"}),
        DEFINITIONS: _template(DEFINITIONS, {"STORE_DIR = None": f"STORE_DIR = {str(store_dir)!r}"}),
        ".feastignore": _template(".feastignore", {}),
        ".gitignore": _template(".gitignore", {}),
    }


def _template(name: str, replacements: dict[str, str]) -> str:
    """Return the text of the file `name` in feature_repo/, with the first place of each key replaced."""
    text = resources.files("girl_features.feature_repo").joinpath(name).read_text(encoding="utf-8")
    for old, new in replacements.items():
        assert old in text, f"the template {name} lacks {old!r}"
        text = text.replace(old, new, 1)
    return text


def _write_files(target: Path, files: dict[str, str], store_dir: Path, force: bool) -> list[Path]:
    paths = {target / name: text for name, text in files.items()}
    present = {path: text for path, text in paths.items() if path.exists()}
    differing = [
        path.name for path, text in present.items() if not path.is_file() or path.read_bytes() != text.encode()
    ]
    if differing and not force:
        raise StoreError(
            f"{target} already has other files named {', '.join(differing)}; nothing was written. "
            f"Choose another folder, or add --force to overwrite them"
        )
    try:
        store_dir.mkdir(parents=True, exist_ok=True)  # the definitions raise an error if the store is absent
        target.mkdir(parents=True, exist_ok=True)
        for path, text in paths.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {error.filename or target}: {error.strerror or error}") from error
    return list(paths)
