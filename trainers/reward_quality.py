"""Quality of a reward model: accuracy on the pairs of held-out seekers, and how far its score follows length."""

from __future__ import annotations

import numpy as np
import polars as pl

from girl_features.evaluation.metrics import auc, expected_calibration_error
from girl_features.generator import RewardModel
from girl_features.vectors.regression import platt_scale

LENGTH_CORRELATION_LIMIT = 0.5  # above it, length explains more than a quarter of the score's variance


def reward_model_quality(reward_model: RewardModel, pairs: pl.DataFrame) -> dict[str, float]:
    """Score the preference pairs of held-out seekers, and return what the scores are worth.

    Returns:
        Among others `pair_accuracy`, where a tie counts as half; `ece`, the calibration error of P(matched | score)
        (see `_cross_fitted_ece`); and `length_slope`, the rise of the score for a hundred more words.
    """
    cvs = pairs["cv"].to_list()
    chosen = reward_model.score(cvs, pairs["chosen"].to_list()).astype(np.float64)
    rejected = reward_model.score(cvs, pairs["rejected"].to_list()).astype(np.float64)
    chosen_words = np.array([len(jd.split()) for jd in pairs["chosen"]], float)
    rejected_words = np.array([len(jd.split()) for jd in pairs["rejected"]], float)
    scores, labels = np.concatenate([chosen, rejected]), np.repeat([True, False], len(chosen))
    n_words = np.concatenate([chosen_words, rejected_words])
    both_vary = scores.std() > 0 and n_words.std() > 0
    longer = np.where(chosen_words == rejected_words, 0.5, chosen_words > rejected_words)
    return {
        "n_heldout_pairs": float(len(chosen)),
        "n_heldout_seekers": float(pairs["job_seeker_id"].n_unique()),
        "pair_accuracy": float(np.where(chosen == rejected, 0.5, chosen > rejected).mean()),
        "auc": auc(labels, scores),
        "ece": _cross_fitted_ece(np.tile(pairs["job_seeker_id"].to_numpy(), 2), labels, scores),
        "score_sd": float(scores.std()),
        "words_matched": float(chosen_words.mean()),
        "words_mismatched": float(rejected_words.mean()),
        "longer_is_matched": float(longer.mean()),
        "length_correlation": float(np.corrcoef(scores, n_words)[0, 1]) if both_vary else 0.0,
        "length_slope": float(100 * np.polyfit(n_words, scores, 1)[0]) if both_vary else 0.0,
    }


def quality_warnings(metrics: dict[str, float]) -> tuple[str, ...]:
    """Return warnings about accuracy near chance, a score that follows length, and lengths that tell the matched JD."""
    notes = []
    slack = 1 / metrics["n_heldout_seekers"] ** 0.5  # two standard errors, if a seeker's pairs are counted as one
    if metrics["pair_accuracy"] - slack < 0.5:
        notes.append(
            f"warning: a pair accuracy of {metrics['pair_accuracy']:.2f} on {metrics['n_heldout_seekers']:.0f} "
            f"held-out seekers is not shown to beat chance, so PPO would follow noise; use more pairs or a larger base"
        )
    if abs(metrics["length_correlation"]) > LENGTH_CORRELATION_LIMIT:
        kind = "long" if metrics["length_correlation"] > 0 else "short"
        notes.append(
            f"warning: this reward model loves {kind} JDs: its score has a correlation of "
            f"{metrics['length_correlation']:+.2f} with their length and changes by {metrics['length_slope']:+.2f} "
            f"for a hundred more words; PPO will follow it"
        )
    if abs(metrics["longer_is_matched"] - 0.5) > 0.1:
        notes.append(
            f"warning: the longer JD is the matched one in {metrics['longer_is_matched']:.0%} of the held-out pairs, "
            f"so length alone tells some of them apart (the reward model: {metrics['pair_accuracy']:.0%})"
        )
    return tuple(notes)


def _cross_fitted_ece(seekers: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the expected calibration error after Platt scaling.

    The scaling is fitted on one half of the seekers and measured on the other. Then the halves change places, and the
    result is the mean of both errors.
    """
    ids = np.unique(seekers)
    first = np.isin(seekers, ids[::2])
    errors = []
    for fit, test in ((first, ~first), (~first, first)):
        slope, intercept = platt_scale(scores[fit], labels[fit])
        probabilities = 1 / (1 + np.exp(-np.clip(slope * scores[test] + intercept, -30, 30)))
        errors.append(expected_calibration_error(labels[test], probabilities))
    return float(np.mean(errors))
