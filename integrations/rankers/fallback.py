"""An enhanced ranker with its base twin: pairs without a generated JD get the base row's score.

A generated JD says much of what its CV says, so an enhanced ranker may give the CV's own cosine little weight, or a
negative one. With j' at its training mean it would then rank such pairs badly, at worst backwards. So a twin
trained without any j' answers for them. Both are calibrated, so their scores can stand in one list.

With tier dropout, the enhanced ranker also meets what the tiers between the two would answer.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from girl_features.errors import CheckpointError
from girl_features.integrations.rankers.pair_inputs import check_features, check_training_parts
from girl_features.integrations.rankers.ranker_files import (
    MANIFEST,
    FallbackManifest,
    RankerManifest,
    SavedRanker,
    hashes,
    parse_manifest,
    read_manifest,
    write_manifest,
)
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier
from girl_features.tiers import TierDropout, drop_tiers

_HALVES = ("enhanced", "base")  # folders of the two
_FILES = tuple(f"{half}/{MANIFEST}" for half in _HALVES)


class FallbackRanker:
    """A Ranker of two: `enhanced` for pairs with a generated JD, `base` for the others (Tier.PRIOR)."""

    def __init__(self, enhanced: SavedRanker, base: SavedRanker, dropout: TierDropout | None = None) -> None:
        self.enhanced, self.base, self._dropout = enhanced, base, dropout

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Train `base` on all pairs and `enhanced` on those with a generated JD. Errors as the two.

        Where these are too few to hold both classes, `enhanced` is trained on all.
        """
        check_training_parts(features, labels, valid_features, valid_labels, "enhanced")
        parts = (_generated_only(features, labels), _generated_only(valid_features, valid_labels))
        (own, own_labels), (own_valid, own_valid_labels) = parts
        self.enhanced.fit(self._dropped(own, 0), own_labels, self._dropped(own_valid, 1), own_valid_labels)
        self.base.fit(features, labels, valid_features, valid_labels)

    def score(self, features: PairFeatures) -> np.ndarray:
        """(n,) float64 probabilities of a match, in (0, 1). Errors as the two."""
        check_features(features, "enhanced")  # here, so that an error names a row of the caller's
        has_generated = features.has_generated_jd
        scores = np.zeros(features.n_pairs)
        scores[has_generated] = self.enhanced.score(features.take(has_generated))
        scores[~has_generated] = self.base.score(features.take(~has_generated))
        return scores

    def _dropped(self, features: PairFeatures, part: int) -> PairFeatures:
        """Some pairs at a lower tier that has a generated vector: the twin answers for the one that has none."""
        if self._dropout is None:
            return features
        lower: dict[Tier, np.ndarray] = {
            t: vectors for t, vectors in self._dropout.stand_ins(features).items() if t != Tier.PRIOR
        }
        return drop_tiers(features, lower, self._dropout.share, 2 * self._dropout.seed + part)

    def save(self, folder: Path) -> None:
        """Write both to folders of `folder`, and a manifest that ties them together."""
        self.enhanced.save(folder / "enhanced")
        self.base.save(folder / "base")
        half = parse_manifest(folder / "enhanced", RankerManifest)
        manifest = FallbackManifest(
            predictor=half.predictor,
            contract=half.contract,
            dimension=half.dimension,
            sha256=hashes(folder, _FILES),
        )
        write_manifest(folder, manifest)

    @classmethod
    def load(cls, folder: Path, load_half: Callable[[Path], SavedRanker]) -> FallbackRanker:
        """The ranker that `save` wrote to `folder`, each half read by `load_half`.

        Raises:
            CheckpointError: absent, incomplete, altered, of another format, or halves that do not belong together.
        """
        manifest = read_manifest(folder, FallbackManifest, _FILES)
        for half in _HALVES:
            found = parse_manifest(folder / half, RankerManifest)
            if (found.predictor, found.row, found.contract) != (manifest.predictor, half, manifest.contract):
                raise CheckpointError(
                    f"{folder / half} holds {found.predictor!r} {found.row!r} of contract {found.contract!r}, "
                    f"wanted {manifest.predictor!r} {half!r} of {manifest.contract!r}; save the ranker again"
                )
        return cls(load_half(folder / "enhanced"), load_half(folder / "base"))


def _generated_only(features: PairFeatures, labels: np.ndarray) -> tuple[PairFeatures, np.ndarray]:
    has_generated = features.has_generated_jd
    kept = labels[has_generated]
    if kept.all() or not kept.any():
        return features, labels
    return features.take(has_generated), kept
