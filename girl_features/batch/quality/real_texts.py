"""Generated JDs against real ones: a share of the one divided by the same share of the other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from girl_features.batch.quality.sample import N_TEXTS, GateSample
from girl_features.batch.quality.words import KnownWords

MIN_JDS = 8  # fewer generated or real JDs tell nothing
N_REFERENCE = 64  # real JDs that are measured as the generated ones are, against the other real texts
MIN_REFERENCE = 0.05  # share of real JDs below which there is nothing to compare with
MIN_VOCABULARY = 2000  # different words, below which real texts in other words look made up


class Value(NamedTuple):
    """One measured value."""

    value: float | None  # None: not measured
    note: str  # how it came about, or why it was not measured
    too_few: bool = False  # it was not measured because there were too few CVs, JDs or pairs; with more, it may be


class RealTexts(NamedTuple):
    """Real texts that generated JDs are compared with."""

    reference: list[str]  # JDs that are measured as the generated ones are
    known: KnownWords  # of all others
    may_grow: bool  # the tables may hold more of them later


def real_texts(sample: GateSample, *, is_trained: bool) -> RealTexts | Value:
    """Return the real texts to measure by, or a value that says why they tell nothing."""
    n_reference = min(N_REFERENCE, len(sample.jds) // 2)
    if n_reference < MIN_JDS:
        note = f"the tables hold {len(sample.jds)} different JDs, wanted {2 * MIN_JDS}"
        return Value(None, note, too_few=True)
    may_grow = len(sample.jds) < N_TEXTS
    known = KnownWords([*sample.jds[n_reference:], *sample.cvs])
    if not is_trained and len(known) < MIN_VOCABULARY:
        note = f"the tables hold {len(known)} different words, and this generator has not learned from them"
        return Value(None, note, too_few=may_grow)
    return RealTexts(sample.jds[:n_reference], known, may_grow)


def against_real(written: list[str], real: RealTexts | Value, take: Callable[[KnownWords, list[str]], float]) -> Value:
    """Return a share of the generated JDs, divided by the same share of real JDs that were set aside."""
    if isinstance(real, Value):
        return real
    of_real, of_written = take(real.known, real.reference), take(real.known, written)
    if math.isnan(of_real) or of_real < MIN_REFERENCE:
        return Value(None, "real JDs have too few words in common to compare with", too_few=real.may_grow)
    if math.isnan(of_written):
        return Value(0.0, "the generated JDs hold no words")
    n = len(real.reference)
    return Value(of_written / of_real, f"{of_written:.2f} in generated JDs, {of_real:.2f} in {n} real ones")
