"""The batch job on Ray with a fake generator and encoder, in this process or as a `girl` command that can be killed.

    python -m tests.ray_job girl ARGUMENT ...

Workers note in `generated.txt` every CV that the generator is given, and take as many seconds for a chunk as
`seconds.txt` says. What a CV says happens to them: `in circles` comes out as a loop, `deadly` kills the worker each
time, `fragile` only the first time.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.integrations import ray_data
from girl_features.integrations.ray_data import ModelSource
from girl_features.pipeline import Models, OpenGenerator
from girl_features.schema import GeneratedText
from tests.fakes import HashingEncoder, feature_contract
from tests.input_tables import day

LOOP = "and so on and so forth, " * 5


class BatchGenerator:
    """Writes a JD of the CV, the seed and the whole batch, so that other chunks would give other texts."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self._folder, self._seconds = folder, seconds
        with (folder / "loaded.txt").open("a") as file:
            file.write(f"{os.getpid()}\n")

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        with (self._folder / "generated.txt").open("a") as file:
            file.write("".join(f"{cv}\n" for cv in cvs))
        time.sleep(self._seconds)
        for cv in cvs:
            died = self._folder / "died.txt"
            if "deadly" in cv or ("fragile" in cv and not died.exists()):
                died.write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
            if "broken" in cv:
                raise RuntimeError("the generator is broken")
        batch = hashlib.sha256("\n".join(cvs).encode()).hexdigest()[:6]
        return [[_text(cv, seed, batch) for seed in own] for cv, own in zip(cvs, seeds, strict=True)]


def _text(cv: str, seed: int, batch: str) -> GeneratedText:
    text = LOOP if "in circles" in cv else f"wanted: somebody with {cv} (draw {seed} in batch {batch})"
    return GeneratedText(text, "stop", len(cv.split()), len(text.split()), False)


def contract_of(config: GirlConfig) -> FeatureContract:
    return feature_contract(day(10).isoformat(), n=config.sampling.n, seed=config.sampling.seed)


def models_of(config: GirlConfig) -> Models:
    folder = config.workspace.parent
    seconds = folder / "seconds.txt"  # workers of a cluster have its environment, not the driver's
    generator = BatchGenerator(folder, float(seconds.read_text()) if seconds.exists() else 0.0)
    return Models(HashingEncoder(), OpenGenerator(generator, contract_of(config), None, "transformers"))


SOURCE = ModelSource(contract_of, models_of)


def girl(arguments: list[str]) -> None:
    from girl_features.cli import main

    ray_data.run_on_ray = partial(ray_data.run_on_ray, source=SOURCE)
    sys.argv = ["girl", *arguments]
    main()


if __name__ == "__main__":
    girl(sys.argv[2:])
