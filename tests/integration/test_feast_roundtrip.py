"""Feast repos from `girl init` to a look-up, with Feast's own command line and within one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from girl_features.contract import FeatureContract
from girl_features.errors import StoreError, UnknownContractError
from girl_features.init_repo import init_repo, write_repo
from girl_features.lookup import FeatureClient
from girl_features.pairs import join_pairs
from girl_features.store.online.publishing import publish
from girl_features.store.parts import PartsStore
from girl_features.store.repo import ViewNames, apply_repo, open_repo, service_name
from tests.fakes import feature_contract
from tests.store_rows import Row, write_rows

PROJECT_ROOT = Path(__file__).parents[2]
DAY = datetime(2022, 3, 4, tzinfo=UTC)
FIRST, SECOND = feature_contract(seed=1, dimension=2), feature_contract(seed=2, dimension=2)
DECISION = pl.DataFrame({"job_seeker_id": ["s"], "job_id": ["j"], "decided_at": [datetime(2023, 1, 1, tzinfo=UTC)]})


def new_store(workspace: Path, *contracts: FeatureContract) -> PartsStore:
    store = PartsStore(workspace / "store")
    for contract in contracts:
        store.save_contract(contract)
    return store


def one_row(name: str, value: float) -> list[Row]:
    return [Row(name, DAY, DAY, [value, 1.0])]


def feast_apply(repo: Path, **environment: str) -> None:
    """Run the stock `feast apply` in `repo`."""
    own = {name: value for name, value in os.environ.items() if name != "GIRL_STORE"}
    done = subprocess.run(
        [sys.executable, "-m", "feast.cli.cli", "apply"],
        cwd=repo,
        env={**own, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def views(repo: Path) -> set[str]:
    return {view.name for view in open_repo(repo).list_feature_views()}


def test_the_template_applies_as_it_stands_and_with_a_store_named(tmp_path: Path) -> None:
    repo = tmp_path / "feature_repo"
    shutil.copytree(PROJECT_ROOT / "feature_repo", repo, ignore=shutil.ignore_patterns("data", "__pycache__"))
    before = {path.name for path in repo.iterdir()}
    feast_apply(repo)
    assert {entity.name for entity in open_repo(repo).list_entities()} >= {"job_seeker", "job"}
    assert {path.name for path in repo.iterdir()} - before == {"data"}  # git ignores it
    store = new_store(tmp_path, FIRST)
    feast_apply(repo, GIRL_STORE=str(store.root))
    assert [service.name for service in open_repo(repo).list_feature_services()] == [service_name(FIRST.fingerprint)]
    assert views(repo) == set(ViewNames.of(FIRST))


def test_contracts_come_and_go(tmp_path: Path) -> None:
    store = new_store(tmp_path, FIRST)
    repo = tmp_path / "repo"
    write_repo(repo, store.root, "girl")
    apply_repo(repo)
    write_rows(store, FIRST, one_row("s", 1.0), one_row("j", 2.0), one_row("s", 3.0))
    publish(repo, store, FIRST)

    store.save_contract(SECOND)
    with pytest.raises(UnknownContractError):
        publish(repo, store, SECOND)
    apply_repo(repo)
    assert views(repo) == {*ViewNames.of(FIRST), *ViewNames.of(SECOND)}
    publish(repo, store, SECOND)
    assert join_pairs(repo, SECOND, DECISION).generated_jd.tolist() == [[0.0, 0.0]]
    assert join_pairs(repo, FIRST, DECISION).generated_jd.tolist() == [[3.0, 1.0]]

    store.remove_contract(FIRST.fingerprint)
    apply_repo(repo)
    assert views(repo) == set(ViewNames.of(SECOND))
    with pytest.raises(UnknownContractError):
        FeatureClient(repo, FIRST.fingerprint)
    assert FeatureClient(repo, SECOND.fingerprint, deadline_ms=60_000).job_seekers(["s"]).has_cv.tolist() == [True]

    store.save_contract(FIRST)  # the rollout is taken up again: its rows were dropped online, its parts were not
    apply_repo(repo)
    assert publish(repo, store, FIRST).n_rows[ViewNames.of(FIRST).generated] == 1
    assert FeatureClient(repo, FIRST.fingerprint, deadline_ms=60_000).job_seekers(["s"]).vectors.tolist() == [
        [3.0, 1.0]
    ]


def test_two_repos_in_one_process_stay_apart(tmp_path: Path) -> None:
    folder, path, modules = Path.cwd(), list(sys.path), set(sys.modules)
    repos = {}
    for name, contract in (("one", FIRST), ("two", SECOND)):
        store = new_store(tmp_path / name, contract)
        repos[name] = tmp_path / name / "repo"
        init_repo(repos[name], store.root, name)
        apply_repo(repos[name])
    apply_repo(repos["one"])
    assert views(repos["one"]) == set(ViewNames.of(FIRST))
    assert views(repos["two"]) == set(ViewNames.of(SECOND))
    assert (Path.cwd(), sys.path) == (folder, path)
    assert "girl_definitions" not in set(sys.modules) - modules


def test_a_store_that_is_gone_does_not_drop_the_views(tmp_path: Path) -> None:
    store = new_store(tmp_path, FIRST)
    write_repo(tmp_path / "repo", store.root, "girl")
    apply_repo(tmp_path / "repo")
    store.root.rename(tmp_path / "unmounted")
    folder = Path.cwd()
    with pytest.raises(StoreError, match="no store at"):
        apply_repo(tmp_path / "repo")
    assert Path.cwd() == folder
    assert views(tmp_path / "repo") == set(ViewNames.of(FIRST))


OWN_REPO = """\
from feast import Entity, ValueType
from girl_features.store.feast_views import girl_feature_views

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
globals().update(girl_feature_views({store!r}, job_seeker=user))
"""


def test_a_repo_of_the_users_own_with_another_join_key(tmp_path: Path) -> None:
    store = new_store(tmp_path, FIRST)
    write_rows(store, FIRST, one_row("s", 1.0), one_row("j", 2.0), one_row("s", 3.0))
    repo = tmp_path / "own"
    write_repo(repo, store.root, "own")
    (repo / "girl_definitions.py").unlink()
    (repo / "features").mkdir()
    (repo / "features" / "people.py").write_text(OWN_REPO.format(store=str(store.root)))
    apply_repo(repo)
    assert {entity.name for entity in open_repo(repo).list_entities()} >= {"user", "job"}
    publish(repo, store, FIRST)
    found = FeatureClient(repo, FIRST.fingerprint, deadline_ms=60_000).job_seekers(["s", "nobody"])
    assert found.vectors.tolist() == [[3.0, 1.0], [0.0, 0.0]]
    assert join_pairs(repo, FIRST, DECISION).cv.tolist() == [[1.0, 1.0]]
    assert "features" not in sys.modules


def test_a_repo_that_feast_refuses(tmp_path: Path) -> None:
    store = new_store(tmp_path, FIRST)
    write_repo(tmp_path / "repo", store.root, "girl")
    definitions = tmp_path / "repo" / "girl_definitions.py"
    definitions.write_text(definitions.read_text() + "\nfrom feast import Project\nother = Project(name='other')\n")
    with pytest.raises(StoreError, match="Project object name should match"):
        apply_repo(tmp_path / "repo")
    (tmp_path / "repo" / "feature_store.yaml").write_text("project: [")
    with pytest.raises(StoreError, match="Feast does not accept"):
        open_repo(tmp_path / "repo")
