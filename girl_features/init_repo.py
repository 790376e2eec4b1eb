"""Files of `girl init DIR`: a Feast repo that can be applied as it is, and a girl.yaml to fill in."""

from __future__ import annotations

import json
import logging
import os
import re
from importlib import resources
from pathlib import Path

from girl_features.config import NAME_PATTERN
from girl_features.errors import ConfigError, StoreError
from girl_features.store.user_files import GITIGNORE, append_patterns, keep_out_of_git, lacking_patterns, set_aside

DEFINITIONS = "girl_definitions.py"
_log = logging.getLogger(__name__)


def init_repo(target: Path, store_dir: Path, project: str, *, base: str = "smollm2", force: bool = False) -> list[Path]:
    """Write the Feast repo and a girl.yaml skeleton into `target`. A second call changes nothing.

    Args:
        target: folder, created if absent.
        store_dir: folder of the Parquet parts; its parent is the workspace in the skeleton.
        project: name of the Feast project, and `name` in the skeleton.
        base: `generator.base` in the skeleton.
        force: replace files that differ; each is kept beside the new one, as NAME.bak-TIME.

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
        if workspace.parts:
            files[GITIGNORE] = files[GITIGNORE].replace("/.girl/", f"/{workspace}/", 1)
    replacements = {"name: girl": f"name: {project}", "workspace: .girl": f"workspace: {workspace}"}
    replacements["base: smollm2"] = f"base: {json.dumps(base)}"
    if base == "tiny":
        replacements["epochs: 1 "] = "epochs: 4 "
    files["girl.yaml"] = _template("girl.yaml", replacements)
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
        GITIGNORE: _template(GITIGNORE, {}),
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
    differing = [path for path, text in paths.items() if os.path.lexists(path) and not _may_stay(path, text)]
    if differing and not force:
        raise StoreError(_refusal(target, [path.name for path in differing]))
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in differing:
            set_aside(path)
        store_dir.mkdir(parents=True, exist_ok=True)  # the definitions raise an error if the store is absent
        for path, text in paths.items():
            if path.name == GITIGNORE and path.is_file():
                _add_to_gitignore(path, text)
            elif not path.exists():
                path.write_text(text, encoding="utf-8")
        keep_out_of_git(store_dir.parent)
    except OSError as error:
        raise StoreError(f"cannot write {error.filename or target}: {error.strerror or error}") from error
    return list(paths)


def _add_to_gitignore(path: Path, text: str) -> None:
    """Add our folders to a .gitignore of the user's, and say which endings of tables it does not keep out of git."""
    ours, _, rest = text.partition("\n\n")
    added = append_patterns(path, [line for line in ours.splitlines() if not line.startswith("#")])
    endings = [line for line in rest.splitlines() if line.startswith("*.")]
    if left_out := lacking_patterns(path.read_bytes(), endings):
        _log.warning(
            "%s was there before. Added to it: %s. Not added: %s, since your repository may keep other files of these "
            "kinds. Exports with CVs and JDs are personal data: add the lines if they could reach git",
            path,
            ", ".join(added) or "nothing",
            ", ".join(left_out),
        )


def _may_stay(path: Path, text: str) -> bool:
    """True if a file that is there is the one that would be written, or a .gitignore, which is only added to."""
    is_plain = path.is_file() and not path.is_symlink()
    return is_plain and (path.name == GITIGNORE or path.read_bytes() == text.encode())


def _refusal(target: Path, names: list[str]) -> str:
    own_repo = ""
    if "feature_store.yaml" in names:
        own_repo = (
            f" To put the features into the Feast repo that is there, run `girl init` in another folder, and set "
            f"`feast: {{repo: {target}}}` in its girl.yaml."
        )
    return (
        f"{target} already has other files named {', '.join(names)}; nothing was written. Choose another folder, or "
        f"add --force, which keeps each of them beside the new one as NAME.bak-TIME.{own_repo}"
    )
