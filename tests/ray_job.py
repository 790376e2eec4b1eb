"""The batch job on Ray with a fake generator and encoder, in this process or as a `girl` command that can be killed.

    python -m tests.ray_job girl ARGUMENT ...       the `girl` command with fake models
    python -m tests.ray_job measure FOLDER N        measure Ray and the driver over N CVs, with models that cost nothing

Workers append every CV that the generator is given to `generated.txt`. Each chunk takes as many seconds as
`seconds.txt` says. Words in a CV change its fate: `in circles` makes the JD repeat itself, `deadly` kills the worker
each time, `fragile` kills it the first time.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.generator.opening import LoadedModels
from girl_features.integrations import ray_data
from girl_features.integrations.ray_data import ModelSource
from girl_features.schema import Encoded, GeneratedText
from tests.fakes import LOOP, HashingEncoder, feature_contract
from tests.input_tables import day, write_tables


class BatchGenerator:
    """Writes a JD of the CV, its seed and a hash of the whole batch, so that other chunks give other texts."""

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
        return [[_text(cv, seed, batch) for seed in cv_seeds] for cv, cv_seeds in zip(cvs, seeds, strict=True)]


def _text(cv: str, seed: int, batch: str) -> GeneratedText:
    text = LOOP if "in circles" in cv else f"wanted: somebody with {cv} (draw {seed} in batch {batch})"
    return GeneratedText(text, "stop", len(cv.split()), len(text.split()), False)


def contract_of(config: GirlConfig) -> FeatureContract:
    return feature_contract(day(10).isoformat(), n=config.sampling.n, seed=config.sampling.seed)


def models_of(config: GirlConfig) -> LoadedModels:
    folder = config.workspace.parent
    seconds = folder / "seconds.txt"  # a file, because workers have the cluster's environment, not the driver's
    generator = BatchGenerator(folder, float(seconds.read_text()) if seconds.exists() else 0.0)
    return LoadedModels(HashingEncoder(), generator, contract_of(config))


SOURCE = ModelSource(contract_of, models_of)


def girl(arguments: list[str]) -> None:
    from girl_features.cli import main

    ray_data.run_on_ray = partial(ray_data.run_on_ray, source=SOURCE)
    sys.argv = ["girl", *arguments]
    main()


class FreeEncoder:
    """Returns vectors of a real size at almost no cost."""

    contract = HashingEncoder(384).contract

    def encode(self, texts: Sequence[str]) -> Encoded:
        lengths = np.array([len(text) for text in texts], np.float32)
        return Encoded(np.sin(lengths[:, None] + np.arange(384, dtype=np.float32)), np.zeros(len(texts), bool))


class FreeGenerator:
    """Returns the first 600 characters of each CV, about the length of a JD."""

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        return [
            [GeneratedText(cv[:600], "stop", 255, 128, False) for _ in cv_seeds]
            for cv, cv_seeds in zip(cvs, seeds, strict=True)
        ]


def free_contract(config: GirlConfig) -> FeatureContract:
    return feature_contract(day(10).isoformat(), dimension=384)


def free_models(config: GirlConfig) -> LoadedModels:
    return LoadedModels(FreeEncoder(), FreeGenerator(), free_contract(config))


def measure(folder: Path, n: int) -> None:
    """Print the seconds, CPU seconds and peak memory of the driver for `n` CVs of 3,400 characters."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(2, 9))) for _ in range(5000)]
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(f"s{i}", " ".join(rng.choices(words, k=530))[:3400], day(11)) for i in range(n)]
    tables = write_tables(folder, {"job_seekers": rows, "jobs": [], "interactions": []})
    settings = {"workspace": folder / "workspace", "tables": tables.model_dump(), "ray": {"workers": 2}}
    config = GirlConfig.model_validate({**settings, "feast": {"online": False}})
    before = time.process_time()
    report = ray_data.run_on_ray(config, source=ModelSource(free_contract, free_models), anyway=True)
    driver_cpu = time.process_time() - before
    stored = sum(path.stat().st_size for path in config.store_dir.rglob("part-*.parquet"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"n": n, "seconds": report.seconds, "driver_cpu": driver_cpu, "peak_mib": peak, "bytes": stored}))


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        measure(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        girl(sys.argv[2:])
