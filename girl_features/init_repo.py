"""What `girl init DIR` writes: a Feast repo that applies as it stands, and a girl.yaml to fill in."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from girl_features.config import NAME_PATTERN
from girl_features.errors import ConfigError, StoreError

DEFINITIONS = "girl_definitions.py"
TEMPLATE_FILES = ("feature_store.yaml", DEFINITIONS, ".feastignore", ".gitignore")

GIRL_YAML = """\
# What `girl` works on. Paths are relative to this file; `girl check` says what it finds.
name: {project}
workspace: {workspace}    # checkpoints, the store and run records go here

tables:
  # Each table is a Parquet or CSV file (or a glob of them), or a query:
  #   query: SELECT * FROM cvs
  #   database: warehouse.duckdb
  # Other column names than those below are mapped, ours on the left:
  #   columns: {{job_seeker_id: user_id, cv: resume_text}}
  job_seekers:    # job_seeker_id, cv, updated_at: one row for each version of a CV
    path: tables/job_seekers.parquet
  jobs:           # job_id, jd, posted_at
    path: tables/jobs.parquet
  interactions:   # job_seeker_id, job_id, matched, decided_at
    path: tables/interactions.parquet

# Time windows, one after the other: SFT, reward, RL, ranking train, valid, test. Cut by shares of the decisions:
# windows: {{sft_share: 0.4, reward_share: 0.1, rl_share: 0.05, train_share: 0.27, valid_share: 0.06}}
# or by the dates on which they end (all five):
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
    """Write the Feast repo and a girl.yaml skeleton into `target`; same again changes nothing.

    Args:
        target: folder, made if absent.
        store_dir: of the Parquet parts; the skeleton's workspace is its parent.
        project: of Feast, and the config's `name`.
        force: overwrite files that differ.

    Returns:
        The files of the repo and the skeleton, whether written now or there already.
    Raises:
        ConfigError: a project name beyond small letters, digits and underscores, or a store not named `store`.
        StoreError: files there that differ; nothing is written then.
    """
    target, store_dir = target.expanduser().resolve(), store_dir.expanduser().resolve()
    if store_dir.name != "store":
        raise ConfigError(f"the store is the folder `store` of a workspace, found {str(store_dir)!r}")
    workspace = store_dir.parent
    inside = workspace.is_relative_to(target)
    files = _repo_files(store_dir, project)
    files["girl.yaml"] = GIRL_YAML.format(
        project=project, workspace=workspace.relative_to(target) if inside else workspace
    )
    return _write_files(target, files, store_dir, force)


def write_repo(target: Path, store_dir: Path, project: str, *, force: bool = False) -> list[Path]:
    """Write the Feast repo alone, as for a workspace that has a girl.yaml. Arguments and errors of `init_repo`."""
    store_dir = store_dir.expanduser().resolve()
    return _write_files(target.expanduser().resolve(), _repo_files(store_dir, project), store_dir, force)


def _repo_files(store_dir: Path, project: str) -> dict[str, str]:
    if not re.fullmatch(NAME_PATTERN, project):
        raise ConfigError(
            f"{project!r} cannot name a Feast project here: a small letter, then up to 39 small letters, digits "
            f"and underscores"
        )
    template = resources.files("girl_features.feature_repo")
    files = {name: template.joinpath(name).read_text(encoding="utf-8") for name in TEMPLATE_FILES}
    files["feature_store.yaml"] = _fill(files["feature_store.yaml"], "project: girl", f"project: {project}")
    files["girl_definitions.py"] = _fill(
        files["girl_definitions.py"], "STORE_DIR = None", f"STORE_DIR = {str(store_dir)!r}"
    )
    return files


def _fill(text: str, blank: str, filled: str) -> str:
    before, found, after = text.partition(blank)
    assert found, f"the template has lost its line {blank!r}"
    return before + filled + after


def _write_files(target: Path, files: dict[str, str], store_dir: Path, force: bool) -> list[Path]:
    paths = {target / name: text for name, text in files.items()}
    differing = [path.name for path, text in paths.items() if path.exists() and not _same(path, text)]
    if differing and not force:
        raise StoreError(
            f"{target} already has other files named {', '.join(differing)}; nothing was written. "
            f"Choose another folder, or add --force to overwrite them"
        )
    try:
        store_dir.mkdir(parents=True, exist_ok=True)  # definitions refuse a store that is not there
        target.mkdir(parents=True, exist_ok=True)
        for path, text in paths.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {error.filename or target}: {error.strerror or error}") from error
    return list(paths)


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_bytes() == text.encode()
