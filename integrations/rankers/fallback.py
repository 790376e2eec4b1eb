"""An enhanced ranker with its base twin: pairs without a generated JD get the base ranker's score.

A generated JD repeats much of its CV, so an enhanced ranker may give the cosine of CV and JD little weight, or even a
negative one. With the training mean in place of the generated JD, it would then rank pairs without one badly. Such
pairs are scored by a twin that is trained without generated JDs. Both are calibrated, so their scores are comparable.

With tier dropout, the enhanced ranker also learns from vectors of the tiers between the two, which it meets online.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from girl_features.errors import CheckpointError
from girl_features.integrations.rankers import ranker_files as files
from girl_features.integrations.rankers.pair_inputs import check_features, check_training_parts
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier
from girl_features.tiers import TierDropout, drop_tiers

_HALVES = ("enhanced", "base")  # folders of the two rankers
_FILES = tuple(f"{half}/{files.MANIFEST}" for half in _HALVES)


class FallbackRanker:
    """A Ranker of two: `enhanced` for pairs with a generated JD, `base` for the others (Tier.PRIOR)."""

    def __init__(
        self, enhanced: files.SavedRanker, base: files.SavedRanker, dropout: TierDropout | None = None
    ) -> None:
        self.enhanced, self.base, self._dropout = enhanced, base, dropout

    def fit(
        self, features: PairFeatures, labels: np.ndarray, valid_features: PairFeatures, valid_labels: np.ndarray
    ) -> None:
        """Train `base` on all pairs and `enhanced` on those with a generated JD. Errors as the two.

        If the pairs with a generated JD do not have both classes, `enhanced` is trained on all pairs.
        """
        check_training_parts(features, labels, valid_features, valid_labels, "enhanced")
        train, train_labels = _generated_only(features, labels)
        valid, kept_valid_labels = _generated_only(valid_features, valid_labels)
        self.enhanced.fit(self._with_dropout(train, 0), train_labels, self._with_dropout(valid, 1), kept_valid_labels)
        self.base.fit(features, labels, valid_features, valid_labels)

    def score(self, features: PairFeatures) -> np.ndarray:
        """Return (n,) float64 probabilities of a match, in (0, 1). Errors as the two."""
        check_features(features, "enhanced")  # before the split, so that an error gives a row of `features`
        has_generated = features.has_generated_jd
        scores = np.zeros(features.n_pairs)
        scores[has_generated] = self.enhanced.score(features.take(has_generated))
        scores[~has_generated] = self.base.score(features.take(~has_generated))
        return scores

    def _with_dropout(self, features: PairFeatures, part: int) -> PairFeatures:
        """Move some pairs to a lower tier; never to Tier.PRIOR, whose pairs are scored by `base`."""
        if self._dropout is None:
            return features
        lower = dict(self._dropout.stand_ins(features))
        lower.pop(Tier.PRIOR, None)
        return drop_tiers(features, lower, self._dropout.share, 2 * self._dropout.seed + part)

    def save(self, folder: Path) -> None:
        """Write both rankers to folders of `folder`, and a manifest that ties them together."""
        files.make_folder(folder, ())
        self.enhanced.save(folder / "enhanced")
        self.base.save(folder / "base")
        enhanced = files.parse_manifest(folder / "enhanced", files.RankerManifest)
        manifest = files.FallbackManifest(
            predictor=enhanced.predictor, contract=enhanced.contract, dimension=enhanced.dimension, sha256={}
        )
        files.write_manifest(folder, manifest, _FILES)

    @classmethod
    def load(cls, folder: Path, load_half: Callable[[Path], files.SavedRanker]) -> FallbackRanker:
        """Load the ranker that `save` wrote to `folder`, each of the two by `load_half`.

        Raises:
            CheckpointError: absent, incomplete, altered, of another format, or two rankers that do not belong together.
        """
        manifest = files.read_manifest(folder, files.FallbackManifest, _FILES)
        for row in _HALVES:
            half = files.parse_manifest(folder / row, files.RankerManifest)
            if (half.predictor, half.row, half.contract) != (manifest.predictor, row, manifest.contract):
                raise CheckpointError(
                    f"{folder / row} holds {half.predictor!r} {half.row!r} of contract {half.contract!r}, "
                    f"wanted {manifest.predictor!r} {row!r} of {manifest.contract!r}; save the ranker again"
                )
        return cls(load_half(folder / "enhanced"), load_half(folder / "base"))


def _generated_only(features: PairFeatures, labels: np.ndarray) -> tuple[PairFeatures, np.ndarray]:
    """Return the pairs with a generated JD and their labels, or all pairs if those have one class only."""
    has_generated = features.has_generated_jd
    kept_labels = labels[has_generated]
    if kept_labels.all() or not kept_labels.any():
        return features, labels
    return features.take(has_generated), kept_labels
