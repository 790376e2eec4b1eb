"""Files of `girl init DIR`: a Feast repo that can be applied as it is, and a girl.yaml to fill in."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from girl_features.config import NAME_PATTERN
from girl_features.errors import ConfigError, StoreError

DEFINITIONS = "girl_definitions.py"
TEMPLATE_FILES = ("feature_store.yaml", DEFINITIONS, ".feastignore", ".gitignore")

GIRL_YAML = """\
# Settings of `girl`. Paths are relative to this file; `girl check` reports on the tables.
name: {project}
workspace: {workspace}    # folder of checkpoints, the store and run records

tables:
  # Each table is a Parquet or CSV file (or a glob of them), or a query:
  #   query: SELECT * FROM cvs
  #   database: warehouse.duckdb
  # `path` and `database` may contain environment variables, as in ${{DATA}}/cvs.parquet.
  # If your columns have other names than those below, map them, with our name on the left:
  #   columns: {{job_seeker_id: user_id, cv: resume_text}}
  job_seekers:    # job_seeker_id, cv, updated_at: one row for each version of a CV
    path: tables/job_seekers.parquet
  jobs:           # job_id, jd, posted_at
    path: tables/jobs.parquet
  interactions:   # job_seeker_id, job_id, matched, decided_at
    path: tables/interactions.parquet

# Time windows, one after the other: SFT, reward, RL, ranking train, valid, test. Set by shares of the decisions:
# windows: {{sft_share: 0.4, reward_share: 0.1, rl_share: 0.05, train_share: 0.27, valid_share: 0.06}}
# or by the dates on which the windows end (all five):
# windows:
#   sft_end: 2024-01-01
#   reward_end: 2024-03-01
#   rl_end: 2024-04-01
#   train_end: 2024-10-01
#   valid_end: 2024-12-01

# generator:
#   base: tiny            # trained on your own tables; or a Hugging Face causal LM by path or name
# sampling: {{n: 1, temperature: 0.7, top_p: 0.95, max_new_tokens: 192}}
# encoder:
#   name: all-MiniLM-L6-v2

feast:
  repo: .                 # the Feast repo in this folder; or the folder of one you already have
"""


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
    workspace = store_dir.parent
    files = _repo_files(store_dir, project)
    if workspace.is_relative_to(target):
        workspace = workspace.relative_to(target)
    files["girl.yaml"] = GIRL_YAML.format(project=project, workspace=workspace)
    return _write_files(target, files, store_dir, force)


def write_repo(target: Path, store_dir: Path, project: str, *, force: bool = False) -> list[Path]:
    """Write only the Feast repo, for a workspace that has a girl.yaml. Arguments and errors are as in `init_repo`."""
    store_dir = store_dir.expanduser().resolve()
    return _write_files(target.expanduser().resolve(), _repo_files(store_dir, project), store_dir, force)


def _repo_files(store_dir: Path, project: str) -> dict[str, str]:
    if not re.fullmatch(NAME_PATTERN, project):
        raise ConfigError(
            f"{project!r} is not a valid Feast project name: use a small letter, then up to 39 small letters, digits "
            f"and underscores"
        )
    template = resources.files("girl_features.feature_repo")
    files = {name: template.joinpath(name).read_text(encoding="utf-8") for name in TEMPLATE_FILES}
    files["feature_store.yaml"] = _replace_once(files["feature_store.yaml"], "project: girl", f"project: {project}")
    files[DEFINITIONS] = _replace_once(files[DEFINITIONS], "STORE_DIR = None", f"STORE_DIR = {str(store_dir)!r}")
    return files


def _replace_once(text: str, old: str, new: str) -> str:
    assert old in text, f"the template lacks its line {old!r}"
    return text.replace(old, new, 1)


def _write_files(target: Path, files: dict[str, str], store_dir: Path, force: bool) -> list[Path]:
    paths = {target / name: text for name, text in files.items()}
    differing = [path.name for path, text in paths.items() if path.exists() and not _has_text(path, text)]
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


def _has_text(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()
