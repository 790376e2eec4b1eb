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
        StoreError: a repo that `girl init` did not write does not know the contract yet.
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
            raise StoreError(
                f"the Feast repo {repo} does not know contract {contract.fingerprint!r} yet: run `feast apply` "
                f"there (with girl_feature_views({str(config.store_dir)!r}) in a definitions file), then "
                f"`girl materialize` again; nothing is generated twice"
            )
        apply_repo(repo)


def _is_known(repo: Path, contract: FeatureContract) -> bool:
    from girl_features.store.repo import contract_service, open_repo

    try:
        contract_service(open_repo(repo), contract.fingerprint)
    except UnknownContractError:
        return False
    return True
