"""Rankers by name. A ranker's own module, and its heavy packages, are imported when one is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from girl_features.errors import CheckpointError, ConfigError
from girl_features.integrations.rankers.fallback import FallbackRanker
from girl_features.integrations.rankers.pair_inputs import Row
from girl_features.integrations.rankers.ranker_files import (
    FallbackManifest,
    RankerManifest,
    SavedRanker,
    parse_manifest,
)
from girl_features.tiers import StandIns, TierDropout


class _Family(Protocol):
    """A class of rankers."""

    def __call__(self, predictor: str, row: Row, seed: int) -> SavedRanker: ...

    def load(self, folder: Path) -> SavedRanker: ...


def _two_tower() -> _Family:
    from girl_features.integrations.rankers.two_tower import TwoTowerRanker

    return TwoTowerRanker


def _lightgbm() -> _Family:
    from girl_features.integrations.rankers.lightgbm_ranker import LightGBMRanker

    return LightGBMRanker


RANKERS: dict[str, Callable[[], _Family]] = {
    "mlp": _two_tower,
    "mlp-plain": _two_tower,
    "dot": _two_tower,
    "dot-plain": _two_tower,
    "lightgbm": _lightgbm,
    "lightgbm-plain": _lightgbm,
}


WITH_FALLBACK = ("mlp", "dot", "lightgbm")  # the paper's plain forms impute the mean of j' and no more


def make_ranker(
    predictor: str, row: Row, seed: int, tier_dropout: float = 0.0, stand_ins: StandIns | None = None
) -> SavedRanker:
    """A fresh ranker: `base` never looks at the generated JD, `enhanced` does.

    Enhanced rows of WITH_FALLBACK come with a base twin for the pairs that have no generated JD.

    Args:
        predictor: one of RANKERS.
        row: what it may look at.
        seed: of training.
        tier_dropout: share of the training pairs that the enhanced ranker of such two meets at a lower tier.
        stand_ins: what the lower tiers answer; without it none are met.

    Raises:
        ConfigError: no such predictor or row.
        MissingExtraError: torch, safetensors or lightgbm is not installed.
    """
    if predictor not in RANKERS:
        raise ConfigError(f"no predictor {predictor!r}; known are: {', '.join(RANKERS)}")
    family = RANKERS[predictor]()
    ranker = family(predictor, row, seed)
    if row == "enhanced" and predictor in WITH_FALLBACK:
        dropout = TierDropout(tier_dropout, stand_ins, seed) if stand_ins is not None else None
        return FallbackRanker(ranker, family(predictor, "base", seed), dropout)
    return ranker


def load_ranker(folder: Path) -> SavedRanker:
    """The ranker saved to `folder`, of whatever predictor.

    Raises:
        CheckpointError: absent, incomplete, altered, or of a format or predictor this version does not know.
        MissingExtraError: torch, safetensors or lightgbm is not installed.
    """
    if (folder / "enhanced").is_dir():
        return FallbackRanker.load(folder, _load_one)
    return _load_one(folder)


class SavedAs(NamedTuple):
    """What a saved ranker says of itself."""

    predictor: str
    contract: str  # fingerprint of the vectors it was trained on


def peek_ranker(folder: Path) -> SavedAs:
    """Predictor and contract of the ranker saved to `folder`, without its weights.

    Raises:
        CheckpointError: absent, or of another format.
    """
    manifest: FallbackManifest | RankerManifest
    if (folder / "enhanced").is_dir():
        manifest = parse_manifest(folder, FallbackManifest)
    else:
        manifest = parse_manifest(folder, RankerManifest)
    return SavedAs(manifest.predictor, manifest.contract)


def _load_one(folder: Path) -> SavedRanker:
    predictor = parse_manifest(folder, RankerManifest).predictor
    if predictor not in RANKERS:
        raise CheckpointError(f"{folder} holds a {predictor!r} ranker; this version knows: {', '.join(RANKERS)}")
    return RANKERS[predictor]().load(folder)
