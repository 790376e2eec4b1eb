"""Columns of the controls for the pairs of the ranking windows, and how well each of them ranks alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from girl_features.errors import ConfigError
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.evaluation.controls.popularity import popularity
from girl_features.evaluation.controls.text_cosine import TextCosine, fit_lexical, fit_style
from girl_features.evaluation.metrics import auc
from girl_features.evaluation.results import interval_of_auc
from girl_features.input.decision_texts import DecisionTexts
from girl_features.progress import announce
from girl_features.ranker import PairColumns

LEXICAL, STYLE, POPULARITY, TUNED = CONTROL_COLUMNS = ("lexical", "style", "popularity", "tuned")
AUTHOR_AUC = 0.65  # style alone ranked above this where one author wrote CV and JD, and nowhere else
_CLEAR_OF_CHANCE = 0.55  # lower end of its interval

# tunes an encoder on the matched pairs of past decisions, which end at the given time, and returns its (n,) cosines for
# each part
TunedCosines = Callable[[DecisionTexts, Sequence[DecisionTexts], datetime], list[np.ndarray]]


class ColumnAUC(NamedTuple):
    """AUC of one column alone, untrained, on the test pairs; None where it is undefined."""

    name: str
    auc: float | None
    auc_low: float | None  # 95 %, seekers resampled
    auc_high: float | None


def control_columns(
    history: DecisionTexts,
    parts: Sequence[DecisionTexts],
    names: Sequence[str],
    until: datetime,
    tuned_cosines: TunedCosines | None,
) -> list[PairColumns]:
    """Return the columns `names` (of CONTROL_COLUMNS) for the pairs of each part.

    Args:
        history: decisions of the windows before the ranking windows. All that a column learns, it learns from them.
        parts: decisions of the ranking windows.
        until: end of `history`.
        tuned_cosines: is called for the column `tuned`.

    Raises:
        ConfigError: `tuned` is wanted without `tuned_cosines`, or a name is repeated.
        MissingExtraError: scikit-learn is not installed.
    """
    if len(set(names)) < len(names):
        raise ConfigError(f"each control should be named once, found {', '.join(names)}")
    if TUNED in names and tuned_cosines is None:
        raise ConfigError(f"the column {TUNED!r} needs a function that tunes an encoder: pass `tuned_cosines`")
    texts = list(dict.fromkeys([*history.cvs, *history.jds]))
    columns = []
    for name in names:
        announce(f"controls: computing {name!r} for the pairs")
        if name == TUNED:
            assert tuned_cosines is not None, "checked above"
            columns.append(tuned_cosines(history, parts, until))
        elif name == POPULARITY:
            columns.append([popularity(part.job_ids, history) for part in parts])
        else:
            model: TextCosine = {LEXICAL: fit_lexical, STYLE: fit_style}[name](texts)
            columns.append([model.score(list(part.cvs), list(part.jds)) for part in parts])
    by_part = []
    for i, part in enumerate(parts):
        values = np.zeros((len(part.jds), len(names)), np.float32)
        for place, of_parts in enumerate(columns):
            values[:, place] = of_parts[i]
        by_part.append(PairColumns(tuple(names), values))
    return by_part


def add_columns(parts: RankingParts, columns: Sequence[PairColumns]) -> RankingParts:
    """Return the same pairs with these columns beside their vectors, in the place of any they had."""
    pairs = zip(parts, columns, strict=True)
    return RankingParts(*(part._replace(features=part.features._replace(columns=own)) for part, own in pairs))


def column_aucs(test: LabelledPairs, n_bootstrap: int) -> list[ColumnAUC]:
    """Return how well each column of the test pairs ranks them alone, with an interval by job seeker."""
    columns = test.features.columns
    if columns is None:
        return []
    rows = []
    for name, values in zip(columns.names, columns.values.T, strict=True):
        scores = values.astype(np.float64)
        both = bool(test.labels.any() and not test.labels.all())
        low, high = interval_of_auc(test.labels, test.seeker_ids, scores, n_bootstrap)
        rows.append(ColumnAUC(name, auc(test.labels, scores) if both else None, low, high))
    return rows


def author_warning(rows: Sequence[ColumnAUC]) -> str | None:
    """Return a warning if style alone ranks the pairs too well, else None."""
    for row in rows:
        if row.name == STYLE and (row.auc or 0) > AUTHOR_AUC and (row.auc_low or 0) > _CLEAR_OF_CHANCE:
            return (
                f"style alone, without any content word, ranks the test pairs with an AUC of {row.auc:.2f}. Either CV "
                f"and JD of a match were written by the same person or program; then a gain of any text feature may be "
                f"recognition of the author, which JDs of employers do not allow. Or the texts are of several "
                f"languages, and style tells these; then evaluate each language alone."
            )
    return None
