"""A FeatureClient and its queue as a girl.yaml says."""

from __future__ import annotations

import re

from girl_features.config import GirlConfig
from girl_features.contract import FINGERPRINT_LENGTH
from girl_features.encoder import TextEncoder
from girl_features.generation_queue import GenerationQueue, OfferQueue
from girl_features.lookup.client import FeatureClient
from girl_features.schema import Tier
from girl_features.store.parts import PartsStore


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
    if contract is None or not re.fullmatch(rf"[0-9a-f]{{{FINGERPRINT_LENGTH}}}", contract):
        store = PartsStore(config.store_dir)
        contract = (store.contract(contract) if contract else store.newest_contract()).fingerprint
    settings = config.lookup
    own = config.students_dir / contract
    return FeatureClient(
        config.feast_repo,
        contract,
        bundle=settings.bundle or (own if own.is_dir() else None),
        encoder=encoder,
        queue=queue,
        tiers=[Tier[name.upper()] for name in settings.tiers],
        n_neighbours=settings.n_neighbours,
        deadline_ms=settings.deadline_ms,
    )


def open_queue(config: GirlConfig) -> GenerationQueue:
    """The queue in the workspace of a config."""
    return GenerationQueue(config.queue_path, config.lookup.max_queued)
