"""Cost of generating with a base model on this machine, measured once and kept in the workspace."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from girl_features.config import SamplingConfig
from girl_features.contract import SamplingContract
from girl_features.generator.bases.finding import find_base
from girl_features.generator.engines import fastest_engine, start_engine
from girl_features.machine import cpu_model, n_cores
from girl_features.store.files import write_whole

_RECORD = "costs.json"


class Cost(NamedTuple):
    """Seconds that a thousand CVs take, as measured on some of them."""

    seconds_per_1000: float
    n_measured: int
    engine: str
    mean_jd_tokens: float
    machine: str
    measured_at: str


def this_machine() -> str:
    """Return a name for machines on which a measured cost holds: the kind of CPU and the number of cores."""
    return f"{cpu_model()}, {n_cores()} cores"


def known_costs(bases_dir: Path) -> dict[str, Cost]:
    """Return the costs that were measured on this machine, by the name of the base."""
    return {name: cost for (name, machine), cost in _all_costs(bases_dir).items() if machine == this_machine()}


def _all_costs(bases_dir: Path) -> dict[tuple[str, str], Cost]:
    """Return the costs that were measured on any machine, by the names of base and machine."""
    try:
        rows = json.loads((bases_dir / _RECORD).read_text(encoding="utf-8"))
        return {(row["base"], row["cost"]["machine"]): Cost(**row["cost"]) for row in rows}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}


def measure_cost(
    name: str, bases_dir: Path, exports: Path, cvs: Sequence[str], sampling: SamplingConfig, max_cv_tokens: int
) -> Cost:
    """Generate one JD for each of `cvs` with an untuned base, and keep what it took. Loading is not counted.

    An untuned base seldom ends by itself, so a tuned one, whose JDs end, is faster: the cost is an upper limit.
    """
    name_of_engine = fastest_engine()
    engine = start_engine(
        name_of_engine,
        find_base(name, bases_dir),
        SamplingContract(**sampling.model_dump()),
        max_cv_tokens,
        style="full",
        batch_size=None,
        threads=None,
        exports=exports,
    )
    engine.generate(cvs[:1], [[0]])  # the first call allocates memory
    start = time.perf_counter()
    texts = engine.generate(cvs, [[seed] for seed in range(len(cvs))])
    seconds = time.perf_counter() - start
    n_tokens = sum(text.n_new_tokens for samples in texts for text in samples)
    cost = Cost(
        seconds_per_1000=1000 * seconds / len(cvs),
        n_measured=len(cvs),
        engine=name_of_engine,
        mean_jd_tokens=n_tokens / len(cvs),
        machine=this_machine(),
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    costs = _all_costs(bases_dir) | {(name, cost.machine): cost}
    rows = [{"base": base, "cost": value._asdict()} for (base, _), value in costs.items()]
    write_whole(bases_dir / _RECORD, json.dumps(rows, indent=1).encode())
    return cost
