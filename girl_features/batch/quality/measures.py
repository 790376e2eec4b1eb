"""Measures of a generator, taken from the sample and from its training record. None needs a second model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from girl_features.batch.quality.real_texts import MIN_JDS, Value, against_real, real_texts
from girl_features.batch.quality.sample import Answers, GateSample
from girl_features.batch.quality.words import KnownWords
from girl_features.generator.copying import RUN_WORDS, copied_share
from girl_features.input.scripts import main_script

N_RESAMPLES = 1000


def measure(sample: GateSample, answers: Answers) -> dict[str, Value]:
    """Return every measure of the gate, by name, in the order in which they are shown."""
    written = [jd for jd in answers.jds if jd is not None]
    values = {"usable": _usable(answers, len(written)), "held_out_bits": _held_out_bits(answers.trained)}
    real = real_texts(sample, is_trained=bool(answers.trained))
    measures: dict[str, Callable[[], Value]] = {
        "real_words": lambda: against_real(written, real, KnownWords.share_real),
        "word_order": lambda: against_real(written, real, KnownWords.order),
        "own_cv": lambda: own_cv(sample, answers),
        "same_script": lambda: _same_script(sample, answers),
        "copied": lambda: _copied(sample, answers),
    }
    for name, take in measures.items():
        too_few = Value(None, f"only {len(written)} JDs were fit to store, wanted {MIN_JDS}", too_few=True)
        values[name] = too_few if len(written) < MIN_JDS else take()
    values["unknown_script"] = _unknown_script(sample, answers)
    return values


def _usable(answers: Answers, n_written: int) -> Value:
    n = len(answers.jds)
    if not n:
        return Value(None, "the tables hold no CV to write for", too_few=True)
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
        return Value(None, "all CVs of the sample are the same", too_few=True)
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
        note = "too few matched pairs to tell in which script the JDs of these seekers are"
        return Value(None, note, too_few=True)
    return Value(n_same / n, f"{n - n_same} of {n} JDs are in another script than the JDs that such seekers match with")


def _copied(sample: GateSample, answers: Answers) -> Value:
    pairs = zip(sample.versions, answers.jds, strict=True)
    shares = [copied_share(version.cv, jd) for version, jd in pairs if jd is not None]
    n_most = sum(share > 0.5 for share in shares)
    note = (
        f"mean share of a JD's runs of {RUN_WORDS} words that stand in its CV; over half in {n_most} of {len(shares)}"
    )
    return Value(float(np.mean(shares)), note)


def _unknown_script(sample: GateSample, answers: Answers) -> Value:
    if answers.unknown_scripts is None:
        return Value(None, "the generator has no tokenizer.json to read")
    if not sample.cvs:
        return Value(None, "the tables hold no CV", too_few=True)
    named = ", ".join(f"{script} ({n} seekers)" for script, n in answers.unknown_scripts.items())
    share = sum(answers.unknown_scripts.values()) / len(sample.cvs)
    what = f"it does not know {named}" if named else "it knows all their scripts"
    return Value(share, f"of {len(sample.cvs)} CVs, by the tokenizer: {what}")
