"""The batch job with a fake generator and encoder, in children that are killed.

    python -m tests.batch_worker serve FOLDER       run one job for each JSON request on stdin
    python -m tests.batch_worker girl ARGUMENT ...  the `girl` command with fake models
    python -m tests.batch_worker measure FOLDER     run once without publishing and print the report as JSON

The generator appends every CV it is given to `generated.txt` before it writes a word.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from girl_features.batch import estimate, local, worker
from girl_features.batch.run import run_batch
from girl_features.config import GirlConfig
from girl_features.generator.opening import LoadedModels
from girl_features.input.tables import open_tables
from girl_features.schema import GeneratedText
from girl_features.store.failpoints import VARIABLE
from girl_features.store.parts import PartsStore
from tests.fakes import LOOP, HashingEncoder, TemplateGenerator, feature_contract
from tests.forked_jobs import Job, serve_requests
from tests.input_tables import day, write_tables
from tests.local_batch import materialize

N_CVS, N_JOBS = 40, 20
TRAINED_UNTIL = day(10)


class NotingGenerator:
    """Records each CV it is given in the file `notes` and writes JDs from a template.

    A CV that says `in circles` gets a JD that repeats itself. From call number `after` on the failpoint is set.
    """

    def __init__(self, notes: Path, failpoint: str | None = None, after: int = 0, seconds: float = 0.0) -> None:
        self._notes = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._failpoint, self._after, self._seconds = failpoint, after, seconds
        self._n_calls = 0
        self._template = TemplateGenerator()

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        os.write(self._notes, "".join(f"{cv}\n" for cv in cvs).encode())
        self._n_calls += 1
        time.sleep(self._seconds)
        if self._failpoint and self._n_calls >= self._after:
            os.environ[VARIABLE] = self._failpoint
        return [
            [text._replace(text=LOOP) for text in texts] if "in circles" in cv else texts
            for cv, texts in zip(cvs, self._template.generate(cvs, seeds), strict=True)
        ]


def cv_text(i: int) -> str:
    """Return CV number `i`. Every fifth CV can only fail; number 7 is blank."""
    return "" if i == 7 else f"cv number {i}" + (" in circles" if i % 5 == 0 else "")


def make_inputs(folder: Path, n: int = N_CVS) -> GirlConfig:
    """Write tables of `n` CVs and a config. Each test makes the workspace anew."""
    rows = [(f"s{i}", cv_text(i), day(11)) for i in range(n)]
    jobs = [(f"j{i}", f"job number {i}", day(1)) for i in range(N_JOBS)]
    tables = write_tables(folder, {"job_seekers": rows, "jobs": jobs, "interactions": []})
    settings = {"workspace": str(folder / "workspace"), "tables": tables.model_dump(), "chunk_size": 4}
    (folder / "girl.yaml").write_text(json.dumps(settings))  # JSON is YAML
    return GirlConfig.model_validate(settings)


def models_of(config: GirlConfig, **generator: Any) -> LoadedModels:
    notes = config.workspace.parent / "generated.txt"
    seed = config.sampling.seed
    contract = feature_contract(TRAINED_UNTIL.isoformat(), seed=seed)
    return LoadedModels(HashingEncoder(), NotingGenerator(notes, **generator), contract)


def run(config: GirlConfig, request: dict[str, Any]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # stdout is for the answers of the parent process
    failpoint, after = request["failpoint"], request["after"]
    if failpoint and not after:
        os.environ[VARIABLE] = failpoint
    models = models_of(config, failpoint=failpoint if after else None, after=after)
    run_batch(config, models.contract, local.local_chunks(models))


def serve(folder: Path) -> None:
    import girl_features.store.online.publishing
    import girl_features.store.repo  # noqa: F401  Feast, before the first fork

    config = make_inputs(folder)

    def jobs_for(request: dict[str, Any]) -> list[Job]:
        return [partial(run, config, request)]

    serve_requests(jobs_for)


def girl(arguments: list[str]) -> None:
    from girl_features.cli import main

    def load_models(config: GirlConfig) -> LoadedModels:
        return models_of(config, seconds=float(os.environ.get("SECONDS_A_CHUNK", "0")))

    for module in (local, estimate, worker):
        module.load_models = load_models  # type: ignore[attr-defined]
    sys.argv = ["girl", *arguments]
    main()


class ShortGenerator(TemplateGenerator):
    """Writes a JD of the first words of a CV and remembers the length of the longest CV."""

    longest = 0

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        self.longest = max(self.longest, *map(len, cvs))
        texts = [GeneratedText(f"wanted: {cv[:60]}", "stop", 64, 9, len(cv) > 100 * 64) for cv in cvs]
        return [[text] * len(cv_seeds) for text, cv_seeds in zip(texts, seeds, strict=True)]


def measure(folder: Path) -> None:
    config = GirlConfig.model_validate(json.loads((folder / "girl.yaml").read_text()))
    generator, contract = ShortGenerator(), feature_contract(TRAINED_UNTIL.isoformat())
    with open_tables(config) as tables:
        report = materialize(
            tables,
            generator,
            HashingEncoder(),
            contract,
            PartsStore(config.store_dir),
            chunk_size=256,
            run="measured",
            engine="template",
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({**vars(report), "longest_cv": generator.longest, "peak_mib": peak}))


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(Path(sys.argv[2]))
    elif sys.argv[1] == "measure":
        measure(Path(sys.argv[2]))
    else:
        girl(sys.argv[2:])
