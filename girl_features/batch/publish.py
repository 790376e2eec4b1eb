"""Publish a contract's newest rows to Feast's online store, after making the contract known to the Feast repo."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.errors import ConfigError, StoreError, UnknownContractError
from girl_features.init_repo import DEFINITIONS, write_repo
from girl_features.progress import Progress, announce
from girl_features.store.parts import PartsStore


def publish_contract(config: GirlConfig, store: PartsStore, contract: FeatureContract) -> None:
    """Make the contract known to the Feast repo, if it is not yet, and publish the contract's newest rows.

    A repo in the workspace, or one that `girl init` wrote, is applied here. Any other repo is applied by its owner.

    Raises:
        ConfigError: `feast.repo` names a folder without a Feast repo.
        StoreError: a repo that `girl init` did not write does not know the contract yet, or an entity of the user's and
            ours took each other's place in it.
    """
    from girl_features.store.online.publishing import publish

    announce(f"opening the Feast repo {config.feast_repo}")
    _make_known(config, store, contract)
    if config.feast.online:
        with Progress("publish", 0, "rows") as progress:
            publish(config.feast_repo, store, contract, progress=progress.advance)


def _make_known(config: GirlConfig, store: PartsStore, contract: FeatureContract) -> None:
    from girl_features.store.repo import apply_repo

    repo = config.feast_repo
    if not (repo / "feature_store.yaml").is_file():
        if config.feast.repo is not None:
            raise ConfigError(
                f"`feast.repo` names {repo}, which has no feature_store.yaml; set it to the folder of a Feast repo, or "
                f"leave it out: `girl materialize` then makes one in the workspace"
            )
        write_repo(repo, config.store_dir, config.name)
    with suppress(StoreError):  # another process may be writing the registry: the check under the lock decides
        if _is_known(repo, contract):
            return  # without the lock, which a batch run may hold for hours
    with store.lock():  # Feast's registry file has no lock of its own
        if _is_known(repo, contract):
            return
        if not (repo / DEFINITIONS).is_file():
            raise StoreError(_how_to_apply(config.store_dir, repo, contract))
        apply_repo(repo)


def _how_to_apply(store_dir: Path, repo: Path, contract: FeatureContract) -> str:
    from girl_features.store.entity_types import definition_lines

    return (
        f"the Feast repo {repo} does not know contract {contract.fingerprint!r} yet. Unless a definitions file there "
        f"calls girl_feature_views already, put these two lines at the end of the one with your entities; an entity of "
        f"another name that has our ids is handed over too, with job_seeker= or job=.\n"
        f"{definition_lines(store_dir, repo)}\n"
        f"Then run `feast apply` there, and `girl materialize` again; nothing is generated twice"
    )


def _is_known(repo: Path, contract: FeatureContract) -> bool:
    from girl_features.store.entity_types import check_entities
    from girl_features.store.repo import ViewNames, contract_service, open_repo

    feast_store = open_repo(repo)
    try:
        contract_service(feast_store, contract.fingerprint)
    except UnknownContractError:
        return False
    views, ours = feast_store.list_feature_views(), ViewNames.of(contract)
    joined = {name for view in views if view.name in ours for name in view.entities}
    check_entities((entity for entity in feast_store.list_entities() if entity.name in joined), views)
    return True
