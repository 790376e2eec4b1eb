"""Popularity of a job, counted in earlier windows only."""

from __future__ import annotations

import numpy as np

from girl_features.input.decision_texts import DecisionTexts


def popularity(job_ids: np.ndarray, history: DecisionTexts) -> np.ndarray:
    """Return (n,) float32 log(1 + m) of each job, where m is its number of matched decisions in `history`."""
    ids, counts = np.unique(history.job_ids[history.matched], return_counts=True)
    count_of = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return np.log1p([count_of.get(job_id, 0) for job_id in job_ids.tolist()]).astype(np.float32)
