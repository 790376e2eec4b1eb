"""The batch job in children that are killed, with a fake generator and encoder.

    python -m tests.batch_worker serve FOLDER       one JSON request a line, one answer a line
    python -m tests.batch_worker girl ARGUMENT ...  the `girl` command, but for the two models
    python -m tests.batch_worker measure FOLDER     one run without the publishing; its report, as JSON

Started once, as importing Feast takes seconds, and forks for each run. A run notes in `generated.txt` every CV that
the generator is given, before it writes a word.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
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
from tests.fakes import HashingEncoder, TemplateGenerator, feature_contract
from tests.input_tables import day, write_tables
from tests.local_batch import materialize

N_CVS, N_JOBS = 40, 20
LOOP = "and so on and so forth, " * 5
TRAINED_UNTIL = day(10)


class NotingGenerator:
    """Notes each CV it is given; CVs that say so come out as loops; dies at the failpoint from call `after` on."""

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
        drawn = self._template.generate(cvs, seeds)
        return [
            [text._replace(text=LOOP) for text in own] if "in circles" in cv else own
            for cv, own in zip(cvs, drawn, strict=True)
        ]


def cv_text(i: int) -> str:
    """Every fifth CV can only fail; one is blank."""
    return "" if i == 7 else f"cv number {i}" + (" in circles" if i % 5 == 0 else "")


def make_inputs(folder: Path, n: int = N_CVS) -> GirlConfig:
    """Tables of `n` CVs and a config over them; the workspace is made anew by each test."""
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
    failpoint, after = request["failpoint"], request["after"]
    if failpoint and not after:
        os.environ[VARIABLE] = failpoint
    models = models_of(config, failpoint=failpoint if after else None, after=after)
    run_batch(config, models.contract, local.local_chunks(models))


def fork(config: GirlConfig, request: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            run(config, request)
            code = 0
        finally:
            os._exit(code)
    return pid


def serve(folder: Path) -> None:
    import girl_features.store.online.publishing
    import girl_features.store.repo  # noqa: F401  Feast, before the first fork

    config = make_inputs(folder)
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        pid = fork(config, request)
        if request["delay"] is not None:
            time.sleep(request["delay"])
            os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        failed = os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
        print(json.dumps({"killed": killed, "failed": failed}), flush=True)


def girl(arguments: list[str]) -> None:
    from girl_features.cli import main

    def load_models(config: GirlConfig) -> LoadedModels:
        return models_of(config, seconds=float(os.environ.get("SECONDS_A_CHUNK", "0")))

    for module in (local, estimate, worker):
        module.load_models = load_models  # type: ignore[attr-defined]
    sys.argv = ["girl", *arguments]
    main()


class ShortGenerator(TemplateGenerator):
    """Writes of a CV's first words only, and notes the longest it was given; reads 64 words."""

    longest = 0

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        self.longest = max(self.longest, *map(len, cvs))
        text = [GeneratedText(f"wanted: {cv[:60]}", "stop", 64, 9, len(cv) > 100 * 64) for cv in cvs]
        return [[one for _ in own] for one, own in zip(text, seeds, strict=True)]


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
