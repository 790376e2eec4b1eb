"""`girl map`: map the vectors of a new contract to an old one, so that a ranker of the old contract can go on.

A new generator makes vectors that no ranker has been trained on. Seekers with a generated JD under both contracts
teach a linear map from the new vectors to the old ones. The mapped rows are stored under the old contract, and name
the map as their engine. The old ranker uses them until it is retrained.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from girl_features.batch.publish import publish_contract
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.errors import ConfigError, require
from girl_features.lookup.vector_map import VectorMap
from girl_features.mapping.fit import fit_map, read_shared_cvs
from girl_features.mapping.losses import MakeRanker, MapLoss, measure_losses
from girl_features.mapping.rows import write_mapped
from girl_features.store.parts import PartsStore


class MapReport(NamedTuple):
    """Result of `girl map`."""

    from_contract: str
    to_contract: str
    kind: str
    n_seekers: int
    cosine: float
    cosine_unmapped: float | None
    n_rows: int  # written to the store
    losses: list[MapLoss]


def run_map(config: GirlConfig, source: FeatureContract, target: FeatureContract, make_ranker: MakeRanker) -> MapReport:
    """Fit the map from `source` to `target`, measure its loss, write the rows that `target` lacks, and publish.

    Raises:
        ConfigError: both contracts are the same.
        EmptyWindowError: too few seekers have vectors of both contracts, or a ranking window is empty.
        LeakageError: a generator has seen ranking decisions.
    """
    if source == target:
        raise ConfigError(f"both contracts are {source.fingerprint!r}; `girl contracts` lists those to map between")
    store = PartsStore(config.store_dir)
    shared = read_shared_cvs(store, source, target)
    losses = measure_losses(config, shared, source, target, make_ranker)  # before mapped rows join the old ones
    fitted = fit_map(shared)
    with store.lock():
        n_rows = write_mapped(store, source, target, fitted.map, datetime.now(UTC))
    name = f"{source.fingerprint}-to-{target.fingerprint}.safetensors"
    _save_map(fitted.map, config.workspace / "maps" / name)
    publish_contract(config, store, target)
    return MapReport(
        from_contract=source.fingerprint,
        to_contract=target.fingerprint,
        kind=fitted.kind,
        n_seekers=fitted.n_seekers,
        cosine=fitted.cosine,
        cosine_unmapped=fitted.cosine_unmapped,
        n_rows=n_rows,
        losses=losses,
    )


def _save_map(mapping: VectorMap, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    require("safetensors.numpy", "serve").save_file(mapping.arrays(), path)
