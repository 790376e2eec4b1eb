"""Measures of a generator, taken from the sample and from its training record. None needs a second model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from girl_features.batch.quality.sample import Answers, GateSample
from girl_features.batch.quality.words import KnownWords
from girl_features.input.scripts import main_script

MIN_JDS = 8  # fewer generated or real JDs tell nothing
N_REFERENCE = 64  # real JDs that are measured as the generated ones are, against the other real texts
MIN_REFERENCE = 0.05  # share of real JDs below which there is nothing to compare with
MIN_VOCABULARY = 2000  # different words, below which a market's texts do not tell English of another kind from none
N_RESAMPLES = 1000


class Value(NamedTuple):
    """One measured value."""

    value: float | None  # None: not measured
    note: str  # how it came about, or why it was not measured


class RealTexts(NamedTuple):
    """Real texts that generated JDs are compared with."""

    reference: list[str]  # JDs that are measured as the generated ones are
    known: KnownWords  # of all others


def measure(sample: GateSample, answers: Answers) -> dict[str, Value]:
    """Return every measure of the gate, by name, in the order in which they are shown."""
    written = [jd for jd in answers.jds if jd is not None]
    values = {"usable": _usable(answers, len(written)), "held_out_bits": _held_out_bits(answers.trained)}
    real = _real_texts(sample, is_trained=bool(answers.trained))
    measures: dict[str, Callable[[], Value]] = {
        "real_words": lambda: _against_real(written, real, KnownWords.share_real),
        "word_order": lambda: _against_real(written, real, KnownWords.order),
        "own_cv": lambda: own_cv(sample, answers),
        "same_script": lambda: _same_script(sample, answers),
    }
    for name, take in measures.items():
        too_few = Value(None, f"only {len(written)} JDs were fit to store, wanted {MIN_JDS}")
        values[name] = too_few if len(written) < MIN_JDS else take()
    values["unknown_script"] = _unknown_script(sample, answers)
    return values


def _usable(answers: Answers, n_written: int) -> Value:
    n = len(answers.jds)
    if not n:
        return Value(None, "the tables hold no CV to write for")
    return Value(n_written / n, f"{n_written} of {n} CVs got a JD that is fit to store")


def _held_out_bits(trained: dict[str, float]) -> Value:
    bits, unigram = trained.get("heldout_bits_per_character"), trained.get("unigram_bits_per_character")
    if not bits or not unigram:
        return Value(None, "the generator has no record of held-out JDs")
    n = trained.get("n_heldout_pairs", 0)
    return Value(
        bits / unigram,
        f"{bits:.2f} bits a character on {n:.0f} held-out JDs; word counts without any order need {unigram:.2f}",
    )


def _real_texts(sample: GateSample, *, is_trained: bool) -> RealTexts | str:
    """Return the real texts to measure by, or why they tell nothing."""
    n_reference = min(N_REFERENCE, len(sample.jds) // 2)
    if n_reference < MIN_JDS:
        return f"the tables hold {len(sample.jds)} different JDs, wanted {2 * MIN_JDS}"
    known = KnownWords([*sample.jds[n_reference:], *sample.cvs])
    if not is_trained and len(known) < MIN_VOCABULARY:
        return f"the tables hold {len(known)} different words, and this generator has not learned from them"
    return RealTexts(sample.jds[:n_reference], known)


def _against_real(written: list[str], real: RealTexts | str, take: Callable[[KnownWords, list[str]], float]) -> Value:
    """Return a share of the generated JDs, divided by the same share of real JDs that were set aside."""
    if isinstance(real, str):
        return Value(None, real)
    of_real, of_written = take(real.known, real.reference), take(real.known, written)
    if math.isnan(of_real) or of_real < MIN_REFERENCE:
        return Value(None, "real JDs have too few words in common to compare with")
    if math.isnan(of_written):
        return Value(0.0, "the generated JDs hold no words")
    n = len(real.reference)
    return Value(of_written / of_real, f"{of_written:.2f} in generated JDs, {of_real:.2f} in {n} real ones")


def own_cv(sample: GateSample, answers: Answers) -> Value:
    """Return the lower end of the interval of the AUC of a JD's own CV against the CVs of other seekers.

    The AUC is the probability that the generated JD is nearer to its own CV; .5 if the generator ignores the CV. The
    interval is a percentile bootstrap over the JDs.
    """
    places = [place for place, jd in enumerate(answers.jds) if jd is not None]
    cosines = answers.jd_vectors[places] @ answers.cv_vectors.T  # (m, n)
    hashes = np.array([version.cv_hash for version in sample.versions])
    own = cosines[np.arange(len(places)), places][:, None]
    is_other = hashes[places][:, None] != hashes[None, :]  # a copy of the own CV is no other CV
    if not is_other.any(axis=1).all():
        return Value(None, "all CVs of the sample are the same")
    wins = np.where(np.abs(own - cosines) < 1e-6, 0.5, own > cosines)
    scores = (wins * is_other).sum(axis=1) / is_other.sum(axis=1)  # (m,)
    draws = np.random.default_rng(0).integers(0, len(scores), (N_RESAMPLES, len(scores)))
    low, high = np.quantile(scores[draws].mean(axis=1), [0.025, 0.975])
    note = f"AUC {scores.mean():.2f} ({low:.2f} to {high:.2f}) of {len(scores)} JDs: own CV against another seeker's"
    return Value(float(low), note)


def _same_script(sample: GateSample, answers: Answers) -> Value:
    n_same = n = 0
    for version, jd in zip(sample.versions, answers.jds, strict=True):
        wanted = sample.jd_script.get(main_script(version.cv))
        if jd is not None and wanted is not None:
            n, n_same = n + 1, n_same + (main_script(jd) == wanted)
    if not n:
        return Value(None, "too few matched pairs to tell in which script the JDs of these seekers are")
    return Value(n_same / n, f"{n - n_same} of {n} JDs are in another script than the JDs that such seekers match with")


def _unknown_script(sample: GateSample, answers: Answers) -> Value:
    if answers.unknown_scripts is None:
        return Value(None, "the generator has no tokenizer.json to read")
    if not sample.cvs:
        return Value(None, "the tables hold no CV")
    named = ", ".join(f"{script} ({n} seekers)" for script, n in answers.unknown_scripts.items())
    share = sum(answers.unknown_scripts.values()) / len(sample.cvs)
    what = f"it does not know {named}" if named else "it knows all their scripts"
    return Value(share, f"of {len(sample.cvs)} CVs, by the tokenizer: {what}")
