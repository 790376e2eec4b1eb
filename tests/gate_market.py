"""A market whose CVs and JDs share words, and generators of every quality that write JDs for it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from girl_features.generator.opening import LoadedModels
from girl_features.schema import GeneratedText
from tests.fakes import LOOP, HashingEncoder, feature_contract
from tests.input_tables import day

DIMENSION = 256
VERBS = "repair plan clean paint sell grow move teach guard count mix cut weld drive load sort pack wash test build"
THINGS = "engines budgets wards fences shoes apples crates pupils doors coins dough glass ships vans pallets mail"
TRADES = [f"{thing[:-1]} {verb}er" for thing in THINGS.split() for verb in VERBS.split()[:4]]
TOWNS = "Leeds Ghent Turin Porto Basel Malmo Tampa Perth"
CYRILLIC = str.maketrans("abcdefghijklmnopqrstuvwxyz", "абцдефгхийклмнопярстувшьуз")


class Market:
    """`n` seekers, each with one CV and one matched job that asks for two of three skills of the CV."""

    def __init__(self, n: int, seed: int = 0) -> None:
        rng = random.Random(seed)
        self.cvs, self.jds = [], []
        for i in range(n):
            trade = rng.choice(TRADES)
            skills = [f"{rng.choice(VERBS.split())} {rng.choice(THINGS.split())}" for _ in range(3)]
            self.cvs.append(f"I was a {trade} for {i} days. I can {skills[0]}, {skills[1]} and {skills[2]}.")
            town = rng.choice(TOWNS.split())
            self.jds.append(f"Wanted: a {trade} in {town}. You will {skills[0]} and {skills[1]} with our team of {i}.")
        self.number = {cv: i for i, cv in enumerate(self.cvs)}

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        numbers = range(len(self.cvs))
        return {
            "job_seekers": [(f"s{i}", self.cvs[i], day(11)) for i in numbers],
            "jobs": [(f"j{i}", self.jds[i], day(1)) for i in numbers],
            "interactions": [(f"s{i}", f"j{i}", True, day(12)) for i in numbers],
        }

    def _shuffled(self, i: int) -> str:
        words = self.jds[i].split()
        random.Random(i).shuffle(words)
        return " ".join(words)

    def _words_of_all(self, i: int) -> str:
        rng = random.Random(i)
        return " ".join(rng.choice(rng.choice(self.jds).split()) for _ in range(16))

    def _pseudo_words(self, i: int) -> str:
        rng = random.Random(i)
        return " ".join("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(16))

    def writers(self) -> dict[str, Callable[[int], str]]:
        """Return, by name, functions from a seeker's number to a JD."""
        n = len(self.cvs)
        return {
            "the matched JD": lambda i: self.jds[i],
            "the CV in a template": lambda i: (
                f"Wanted: {self.cvs[i].removeprefix('I was ').split(' for ')[0]} in Ghent. "
                f"You will {self.cvs[i].split(' can ')[1].split(',')[0]} with our team."
            ),
            "shuffled words of the matched JD": self._shuffled,
            "words of any JD in any order": self._words_of_all,
            "one JD for all": lambda i: self.jds[0],
            "another seeker's JD": lambda i: self.jds[(i + 1) % n],
            "ASCII pseudo-words": self._pseudo_words,
            "the matched JD in another script": lambda i: self.jds[i].lower().translate(CYRILLIC),
            "nothing": lambda i: "",
            "a loop": lambda i: LOOP,
            "a JD without an end": lambda i: self.jds[i],
        }

    def models(self, writer: str, folder: Path | None = None) -> LoadedModels:
        """Return models whose generator is one of `writers`. `folder` has the training record and the tokenizer."""
        finish = "length" if writer == "a JD without an end" else "stop"
        contract = feature_contract(day(10).isoformat(), dimension=DIMENSION)
        generator = _Writer(self, self.writers()[writer], finish)
        return LoadedModels(HashingEncoder(DIMENSION), generator, contract, folder=folder)


class _Writer:
    def __init__(self, market: Market, write: Callable[[int], str], finish: str) -> None:
        self._market, self._write, self._finish = market, write, finish
        self.n_written = 0

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        self.n_written += sum(map(len, seeds))
        return [[self._text(cv) for _ in cv_seeds] for cv, cv_seeds in zip(cvs, seeds, strict=True)]

    def _text(self, cv: str) -> GeneratedText:
        return GeneratedText(self._write(self._market.number[cv]), self._finish, 1, 1, False)  # type: ignore[arg-type]


def write_training_record(folder: Path, bits: float | None, unigram: float) -> Path:
    """Write a training record with these bits a character, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    metrics = {"heldout_bits_per_character": bits, "unigram_bits_per_character": unigram, "n_heldout_pairs": 9.0}
    (folder / "girl_generator.json").write_text(json.dumps({"metrics": metrics if bits else {"train_loss": 1.0}}))
    return folder
