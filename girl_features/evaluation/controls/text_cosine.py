"""Cosine of two texts by TF-IDF: of their words (`lexical`), or of their style alone (`style`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from girl_features.errors import require
from girl_features.evaluation.controls.style import style_tokens

MOST_TERMS = 200_000  # the most frequent ones are kept
MOST_TEXTS = 50_000  # weights are learned from so many texts, drawn at random, which bounds the memory
ROWS_AT_ONCE = 8192
_WORD = r"(?u)\b\w\w+\b"


class TextCosine:
    """TF-IDF weights learned from texts. The score of a pair is the cosine of the weighted terms of its two texts."""

    def __init__(self, vectorizer: Any | None) -> None:
        self._vectorizer = vectorizer  # None: no term is known, and every cosine is 0

    def score(self, cvs: Sequence[str], jds: Sequence[str]) -> np.ndarray:
        """Return (n,) float32 cosines from 0 to 1; 0 where a text holds no known term."""
        if self._vectorizer is None:
            return np.zeros(len(cvs), np.float32)
        cv_terms, cv_rows = self._terms(cvs)
        jd_terms, jd_rows = self._terms(jds)
        cosines = [np.zeros(0)]
        for start in range(0, len(cv_rows), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            products = cv_terms[cv_rows[rows]].multiply(jd_terms[jd_rows[rows]])
            cosines.append(np.asarray(products.sum(axis=1)).ravel())
        return np.clip(np.concatenate(cosines), 0, 1).astype(np.float32)

    def _terms(self, texts: Sequence[str]) -> tuple[Any, np.ndarray]:
        """Return a sparse matrix of the distinct texts, and (n,) its row of each text."""
        row_of: dict[str, int] = {}
        rows = np.array([row_of.setdefault(text, len(row_of)) for text in texts], int)
        assert self._vectorizer is not None
        return self._vectorizer.transform(row_of or [""]), rows


def fit_lexical(texts: Sequence[str]) -> TextCosine:
    """Learn the weights of words and pairs of words from distinct `texts`.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    return _fit(texts, token_pattern=_WORD, ngram_range=(1, 2))


def fit_style(texts: Sequence[str]) -> TextCosine:
    """Learn the weights of runs of one to three style tokens from distinct `texts`. Errors as `fit_lexical`."""
    return _fit(texts, tokenizer=style_tokens, token_pattern=None, lowercase=False, ngram_range=(1, 3))


def _fit(texts: Sequence[str], **settings: Any) -> TextCosine:
    text_features = require("sklearn.feature_extraction.text", "rank")
    if len(texts) > MOST_TEXTS:
        texts = [texts[i] for i in np.random.default_rng(0).choice(len(texts), MOST_TEXTS, replace=False)]
    make: Callable[..., Any] = text_features.TfidfVectorizer
    if len(texts) < 2:
        return TextCosine(None)
    # a term of one text alone joins no two texts
    vectorizer = make(sublinear_tf=True, min_df=2, max_features=MOST_TERMS, dtype=np.float32, **settings)
    try:
        return TextCosine(vectorizer.fit(texts))
    except ValueError as error:  # scikit-learn has no other sign that no term is left
        if not any(sign in str(error).lower() for sign in ("empty vocabulary", "no terms remain")):
            raise
        return TextCosine(None)
