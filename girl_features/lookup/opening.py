"""Open what look-ups need from a girl.yaml: a FeatureClient, an encoder for CVs in requests, and the queue."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path

from girl_features.config import GirlConfig
from girl_features.contract import FINGERPRINT_LENGTH
from girl_features.encoder import SentenceTransformerEncoder, TextEncoder
from girl_features.errors import MissingExtraError, StoreError
from girl_features.lookup.bundle import read_bundle, read_bundle_manifest
from girl_features.lookup.client import FeatureClient
from girl_features.lookup.generation_queue import BackgroundQueue, GenerationQueue
from girl_features.lookup.host_encoder import GRAPH, HostEncoder
from girl_features.schema import Tier
from girl_features.store.parts import PartsStore
from girl_features.store.user_files import keep_out_of_git

_log = logging.getLogger(__name__)


def open_client(
    config: GirlConfig,
    contract: str | None = None,
    *,
    encoder: TextEncoder | None = None,
    queue: BackgroundQueue | None = None,
) -> FeatureClient:
    """Open a client with the Feast repo, the bundle and the `lookup:` settings of `config`.

    The contract is given by its fingerprint, or the first digits of it; the newest one in the store is the default.
    With a whole fingerprint, this host needs no parts store. For `encoder` and `queue`, see FeatureClient.

    Raises:
        UnknownContractError: there is no such contract.
        CheckpointError: the folder in `lookup.bundle` has no bundle, or a damaged one.
        ContractMismatchError: the bundle or the encoder belongs to another contract.
    """
    fingerprint = full_fingerprint(config, contract)
    settings = config.lookup
    return FeatureClient(
        config.feast_repo,
        fingerprint,
        bundle=bundle_folder(config, fingerprint),
        encoder=encoder,
        queue=queue,
        tiers=[Tier[name.upper()] for name in settings.tiers],
        n_neighbours=settings.n_neighbours,
        deadline_ms=settings.deadline_ms,
        strip_html=config.tables.job_seekers.strip_html,
    )


def full_fingerprint(config: GirlConfig, prefix: str | None) -> str:
    """Return the fingerprint in the parts store that starts with `prefix`, or the newest one if it is None.

    A whole fingerprint is returned without a look into the store.
    """
    if prefix is not None and re.fullmatch(rf"[0-9a-f]{{{FINGERPRINT_LENGTH}}}", prefix):
        return prefix
    store = PartsStore(config.store_dir)
    return (store.contract(prefix) if prefix else store.newest_contract()).fingerprint


def bundle_folder(config: GirlConfig, contract: str) -> Path | None:
    """Return the folder of the bundle for the contract with this fingerprint; None if there is no bundle."""
    trained_here = config.students_dir / contract
    return config.lookup.bundle or (trained_here if trained_here.is_dir() else None)


def serving_encoder(config: GirlConfig, contract: str) -> TextEncoder | None:
    """Open the encoder for CVs in requests: that of the bundle, or the one in the config, which needs torch.

    Returns:
        None without a bundle, because then CVs in requests are not used, and None without an installed encoder.
    Raises:
        CheckpointError: the bundle is damaged.
        ContractMismatchError: the bundle belongs to another contract.
    """
    folder = bundle_folder(config, contract)
    if folder is None:
        return None
    bundle = read_bundle(folder, contract)
    try:
        if GRAPH in read_bundle_manifest(folder).sha256:
            return HostEncoder(folder, bundle.contract.encoder)
    except MissingExtraError as error:
        _log.info("the encoder in the bundle is not used: %s", error)
    try:
        return SentenceTransformerEncoder(config.encoder.name, dtype=bundle.contract.encoder.dtype)
    except MissingExtraError as error:
        _log.warning("CVs in requests are ignored: %s", error)
        return None


def open_queue(config: GirlConfig) -> GenerationQueue:
    """Open the generation queue in the workspace of `config`."""
    with suppress(StoreError):  # a host that cannot write there works without a queue
        keep_out_of_git(config.workspace)
    return GenerationQueue(config.queue_path, config.lookup.max_queued, PartsStore(config.store_dir).is_erased)
