"""Rankers with fewer labelled decisions: the part of the training and valid windows that some of the seekers hold."""

from __future__ import annotations

import numpy as np

from girl_features.evaluation.compare import LabelledPairs, RankingParts

VALID_SHARE = 4  # one valid decision for so many training decisions ...
LEAST_VALID = 40  # ... but at least so many: they choose the best epoch and calibrate


def fewer_labels(parts: RankingParts, n_labels: int, seed: int) -> RankingParts:
    """Return the windows with about `n_labels` training decisions, and the whole test window.

    Seekers are drawn without replacement, each with all decisions, until they hold that many. The same seed draws the
    same seekers for every row, and more labels only add seekers. A window with fewer decisions stays as it is.
    """
    n_valid = max(n_labels // VALID_SHARE, LEAST_VALID)
    return parts._replace(train=_part_of(parts.train, n_labels, seed), valid=_part_of(parts.valid, n_valid, seed))


def _part_of(part: LabelledPairs, n: int, seed: int) -> LabelledPairs:
    seekers, number = np.unique(part.seeker_ids, return_inverse=True)
    place = np.argsort(np.random.default_rng(seed).permutation(len(seekers)))[number]  # (n,) place of the row's seeker
    order = np.argsort(place, kind="stable")  # rows, seeker by seeker in the drawn order
    labels = part.labels[order]
    both = max(int(labels.argmax()), int((~labels).argmax())) + 1  # so many rows hold both classes
    last = order[min(max(n, both), len(order)) - 1]
    kept = np.flatnonzero(place <= place[last])  # whole seekers, in the window's own order
    return LabelledPairs(part.features.take(kept), part.labels[kept], part.seeker_ids[kept], part.is_cold_start[kept])
