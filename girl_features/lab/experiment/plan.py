"""What `girl experiment run` would do, counted and timed roughly, without doing any of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from girl_features.batch.plan import fill_wanted_cvs
from girl_features.config import GirlConfig
from girl_features.input.splits import cut_windows
from girl_features.input.summary import summarize
from girl_features.input.tables import open_tables
from girl_features.lab.experiment.config import BASELINE_ROW, ExperimentConfig
from girl_features.lab.experiment.data import keep_ranked_cvs
from girl_features.lab.experiment.prepare import arm_config
from girl_features.lab.experiment.run import SEEDLESS

# seconds a fit on 1,000 training pairs, one core of a small server: for the order of magnitude
SECONDS_A_FIT = {
    "cosine": 0.05,
    "mlp": 0.9,
    "mlp-plain": 0.6,
    "dot": 0.6,
    "dot-plain": 0.4,
    "lightgbm": 0.6,
    "lightgbm-plain": 2.0,
    "ncf": 0.4,
    "pjfnn": 4.0,
    "apjfnn": 12.0,
    "ft-llm": 30.0,
    "bigrec": 0.1,
    "bigrec-popularity": 0.1,
    "bigrec-mlp": 0.6,
}
UNKNOWN_SECONDS = 1.0
SECONDS_A_TEXT = 0.02  # one text of 256 tokens through a small encoder
SECONDS_A_TOKEN = 0.0004  # written by `tiny`, in batches
SECONDS_A_PAIR_EPOCH = 0.02  # `tiny`, trained on one CV-JD pair


class DataPlan(NamedTuple):
    """One data set's share of the work."""

    data: str
    simulation: bool
    n_fits: int
    n_train_pairs: int
    fit_minutes: float  # on one core
    feature_minutes: float  # training, generating and encoding, if nothing is there yet


def plan_experiment(config: ExperimentConfig, write_sample: Callable[[str], None]) -> list[DataPlan]:
    """The fits of each data set, and minutes by rules of thumb.

    Args:
        config: what would be run.
        write_sample: called with each data set's name: simulated tables have to be there to be counted.
    """
    plans = []
    for name, source in config.data.items():
        write_sample(name)
        own_config = config.on(name)
        arms = [arm_config(config, name, arm) for arm in own_config.generators.values()]
        with open_tables(arms[0]) as tables:
            windows = cut_windows(tables, arms[0].windows)
            counts = {w.window: w for w in summarize(tables, windows).windows}
            keep_ranked_cvs(tables, windows)
            n_cvs = fill_wanted_cvs(tables.connection, "wanted_cvs", windows.sft_end, tables.erased)
            n_jobs = tables.connection.execute("SELECT count(*) FROM jobs").fetchall()[0][0]
        n_train = counts["train"].n_decisions
        fits = [
            cell.predictor
            for cell in own_config.cells
            for _ in (config.seeds[:1] if cell.predictor in SEEDLESS else config.seeds)
        ]
        seconds = sum(SECONDS_A_FIT.get(predictor, UNKNOWN_SECONDS) for predictor in fits) * n_train / 1000
        made = sum(_arm_seconds(own, n_cvs, counts["sft"].n_usable) for own in arms) + (n_cvs + n_jobs) * SECONDS_A_TEXT
        plans.append(DataPlan(name, source.simulation, len(fits), n_train, seconds / 60, made / 60))

    return plans


def plan_lines(config: ExperimentConfig, plans: list[DataPlan], n_workers: int) -> list[str]:
    """The plan for people."""
    rows = dict.fromkeys(cell.row for cell in config.cells if cell.row != BASELINE_ROW)
    generators = [f"{name} ({' + '.join(arm.stages)})" for name, arm in config.generators.items()]
    lines = [
        f"generators: {', '.join(generators)}",
        f"rows: {', '.join(rows)}",
        f"baselines: {', '.join(config.baselines) or 'none'}",
        f"{len(config.cells)} cells, seeds {', '.join(map(str, config.seeds))}, {len(config.all_claims)} claims",
    ]
    for plan in plans:
        name = f"{plan.data}{' (simulation)' if plan.simulation else ''}"
        lines.append(
            f"{name}: {plan.n_fits} fits on {plan.n_train_pairs} pairs, about {plan.fit_minutes:.0f} core minutes; "
            f"generators and vectors about {plan.feature_minutes:.0f} minutes"
        )
    total = sum(plan.fit_minutes / n_workers + plan.feature_minutes for plan in plans)
    lines.append(f"in all about {total:.0f} minutes with {n_workers} workers, where nothing is kept from a run before")
    return lines


def _arm_seconds(config: GirlConfig, n_cvs: int, n_pairs: int) -> float:
    sampling = config.sampling
    n_drawn = sampling.best_of or sampling.n
    generating = n_cvs * n_drawn * (sampling.max_new_tokens * SECONDS_A_TOKEN + SECONDS_A_TEXT)
    return generating + n_pairs * config.sft.epochs * SECONDS_A_PAIR_EPOCH
