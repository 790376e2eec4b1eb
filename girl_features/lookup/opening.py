"""A FeatureClient and its queue as a girl.yaml says."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from girl_features.config import GirlConfig
from girl_features.contract import FINGERPRINT_LENGTH
from girl_features.encoder import SentenceTransformerEncoder, TextEncoder
from girl_features.errors import MissingExtraError
from girl_features.lookup.bundle import read_bundle, read_manifest
from girl_features.lookup.client import FeatureClient
from girl_features.lookup.generation_queue import GenerationQueue, OfferQueue
from girl_features.lookup.host_encoder import GRAPH, HostEncoder
from girl_features.schema import Tier
from girl_features.store.parts import PartsStore

_log = logging.getLogger(__name__)


def open_client(
    config: GirlConfig,
    contract: str | None = None,
    *,
    encoder: TextEncoder | None = None,
    queue: OfferQueue | None = None,
) -> FeatureClient:
    """A client of the Feast repo, bundle and `lookup:` settings of `config`.

    Args:
        config: where things lie. A whole fingerprint needs no parts store on this host.
        contract: fingerprint, or its first digits; the newest in the store if left out.
        encoder: for CVs that come with requests.
        queue: for what is missed; the client closes it.

    Raises:
        UnknownContractError: no such contract.
        CheckpointError: `lookup.bundle` names a folder without a sound bundle.
        ContractMismatchError: the bundle, or the encoder, is of another contract.
    """
    contract = contract_of(config, contract)
    settings = config.lookup
    return FeatureClient(
        config.feast_repo,
        contract,
        bundle=bundle_of(config, contract),
        encoder=encoder,
        queue=queue,
        tiers=[Tier[name.upper()] for name in settings.tiers],
        n_neighbours=settings.n_neighbours,
        deadline_ms=settings.deadline_ms,
    )


def contract_of(config: GirlConfig, contract: str | None) -> str:
    """The whole fingerprint: as given, or found in the parts store by its first digits, or the newest there."""
    if contract is not None and re.fullmatch(rf"[0-9a-f]{{{FINGERPRINT_LENGTH}}}", contract):
        return contract
    store = PartsStore(config.store_dir)
    return (store.contract(contract) if contract else store.newest_contract()).fingerprint


def bundle_of(config: GirlConfig, contract: str) -> Path | None:
    """Folder of the bundle that look-ups of the contract use; None where there is none."""
    own = config.students_dir / contract
    return config.lookup.bundle or (own if own.is_dir() else None)


def serving_encoder(config: GirlConfig, contract: str) -> TextEncoder | None:
    """What reads CVs of requests: the bundle's encoder, else the config's own, which needs torch.

    Returns:
        None where there is no bundle, so that nothing reads a request's CV, or nothing to read it with.
    Raises:
        CheckpointError: a damaged bundle.
        ContractMismatchError: a bundle of another contract.
    """
    folder = bundle_of(config, contract)
    if folder is None:
        return None
    bundle = read_bundle(folder, contract)
    try:
        if GRAPH in read_manifest(folder).sha256:
            return HostEncoder(folder, bundle.contract.encoder)
    except MissingExtraError as error:
        _log.info("the bundle's encoder is not used: %s", error)
    try:
        return SentenceTransformerEncoder(config.encoder.name, dtype=bundle.contract.encoder.dtype)
    except MissingExtraError as error:
        _log.warning("CVs of requests are not read: %s", error)
        return None


def open_queue(config: GirlConfig) -> GenerationQueue:
    """The queue in the workspace of a config."""
    is_erased = PartsStore(config.store_dir).is_erased
    return GenerationQueue(config.queue_path, config.lookup.max_queued, is_erased)
