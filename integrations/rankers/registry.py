"""Rankers by name. The module of a ranker, with its large dependencies, is imported when one is made or loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from girl_features.errors import CheckpointError, ConfigError, require
from girl_features.integrations.rankers.fallback import FallbackRanker
from girl_features.integrations.rankers.pair_inputs import RankerRow
from girl_features.integrations.rankers.ranker_files import (
    FallbackManifest,
    RankerManifest,
    SavedRanker,
    parse_manifest,
)
from girl_features.tiers import StandIns, TierDropout


class _RankerClass(Protocol):
    def __call__(self, predictor: str, row: RankerRow, seed: int) -> SavedRanker: ...

    def load(self, folder: Path) -> SavedRanker: ...


def _two_tower() -> _RankerClass:
    require("torch", "rank")
    from girl_features.integrations.rankers.two_tower import TwoTowerRanker

    return TwoTowerRanker


def _lightgbm() -> _RankerClass:
    require("lightgbm", "rank")
    from girl_features.integrations.rankers.lightgbm_ranker import LightGBMRanker

    return LightGBMRanker


RANKERS: dict[str, Callable[[], _RankerClass]] = {
    "mlp": _two_tower,
    "mlp-plain": _two_tower,
    "dot": _two_tower,
    "dot-plain": _two_tower,
    "lightgbm": _lightgbm,
    "lightgbm-plain": _lightgbm,
}

WITH_FALLBACK = ("mlp", "dot", "lightgbm")  # the paper's plain forms only use the mean of j' where it is absent


def make_ranker(
    predictor: str, row: RankerRow, seed: int, tier_dropout: float = 0.0, stand_ins: StandIns | None = None
) -> SavedRanker:
    """Make an untrained ranker: `base` never reads the generated JD, `enhanced` does.

    An enhanced ranker of WITH_FALLBACK has a base twin for pairs without a generated JD. It sees the share
    `tier_dropout` of the training pairs at a lower tier, if `stand_ins` gives the vectors of the lower tiers.

    Raises:
        ConfigError: no such predictor or row.
        MissingExtraError: torch or lightgbm is not installed.
    """
    if predictor not in RANKERS:
        raise ConfigError(f"no predictor {predictor!r}; known are: {', '.join(RANKERS)}")
    ranker_class = RANKERS[predictor]()
    ranker = ranker_class(predictor, row, seed)
    if row == "base" or predictor not in WITH_FALLBACK:
        return ranker
    dropout = TierDropout(tier_dropout, stand_ins, seed) if stand_ins is not None else None
    return FallbackRanker(ranker, ranker_class(predictor, "base", seed), dropout)


def load_ranker(folder: Path) -> SavedRanker:
    """Load the ranker saved to `folder`, of any predictor.

    Raises:
        CheckpointError: absent, incomplete, altered, or of a format or predictor this version does not know.
        MissingExtraError: torch, safetensors or lightgbm is not installed.
    """
    if (folder / "enhanced").is_dir():
        return FallbackRanker.load(folder, _load_single)
    return _load_single(folder)


def peek_ranker(folder: Path) -> FallbackManifest | RankerManifest:
    """Read the manifest of the ranker saved to `folder`, without its weights.

    Raises:
        CheckpointError: absent, or of another format.
    """
    if (folder / "enhanced").is_dir():
        return parse_manifest(folder, FallbackManifest)
    return parse_manifest(folder, RankerManifest)


def column_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the further columns that the ranker saved to `folder` reads. Errors as `peek_ranker`."""
    single = folder / "enhanced" if (folder / "enhanced").is_dir() else folder
    return parse_manifest(single, RankerManifest).columns


def _load_single(folder: Path) -> SavedRanker:
    predictor = parse_manifest(folder, RankerManifest).predictor
    if predictor not in RANKERS:
        raise CheckpointError(f"{folder} holds a {predictor!r} ranker; this version knows: {', '.join(RANKERS)}")
    return RANKERS[predictor]().load(folder)
