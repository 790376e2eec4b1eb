"""Plan of an experiment: its fits are counted, and its minutes estimated, without any work being done."""

from __future__ import annotations

from typing import NamedTuple

from girl_features.batch.plan import fill_wanted_cvs
from girl_features.config import GirlConfig
from girl_features.generator.bases.catalogue import KNOWN_BASES, SMOLLM2
from girl_features.input.splits import cut_windows, summarize
from girl_features.input.tables import open_tables
from girl_features.lab.experiment.config import BASELINE_ROW, ExperimentConfig, known_models
from girl_features.lab.experiment.data import keep_ranked_cvs
from girl_features.lab.experiment.prepare import generator_config, write_sample_market
from girl_features.lab.experiment.row_names import FIT, parse_row

UNKNOWN_SECONDS = 1.0  # of a fit on 1,000 training pairs
SECONDS_PER_TEXT = 0.05  # one text of 256 tokens through a small encoder
SECONDS_PER_TUNING_PAIR = 0.2  # one CV-JD pair in the tuning of that encoder
# generating one token in batches, and training on one CV-JD pair once; each on two cores without bfloat16
SECONDS_PER_TOKEN, TOKEN_SECONDS_PER_PARAMETER = 0.0004, 5e-11
FIT_TOKENS = 60  # a pair of a fit takes as long as so many generated tokens
SECONDS_PER_PAIR, PAIR_SECONDS_PER_PARAMETER = 0.02, 1.9e-8


class DataPlan(NamedTuple):
    """The work on one data set."""

    data: str
    simulation: bool
    n_fits: int
    n_train_pairs: int
    fit_minutes: float  # on one core
    feature_minutes: float  # training, generating and encoding, if nothing is kept


def plan_experiment(config: ExperimentConfig) -> list[DataPlan]:
    """Count the fits of each data set, and estimate their minutes by rules of thumb. Sample markets are written."""
    plans = []
    seconds_a_fit = dict(known_models().select("model", "seconds_a_fit").drop_nulls().iter_rows())
    for name, source in config.data.items():
        write_sample_market(source)
        data_config = config.on(name)
        generators = [
            generator_config(source.config, config.folder_of(name), generator.set)
            for generator in data_config.generators.values()
        ]
        first = next(iter(generators), None) or generator_config(source.config, config.folder_of(name), ())
        with open_tables(first) as tables:
            windows = cut_windows(tables, first.windows)
            counts = {window.window: window for window in summarize(tables, windows).windows}
            keep_ranked_cvs(tables, windows)
            n_cvs = fill_wanted_cvs(tables.connection, "wanted_cvs", windows.sft_end, tables.erased)
            n_jobs = tables.connection.execute("SELECT count(*) FROM jobs").fetchall()[0][0]
        n_train = counts["train"].n_decisions
        data_config = data_config.with_labels_below(n_train)
        fits = [cell for cell in data_config.cells for _ in config.seeds_of(cell.predictor)]
        fit_seconds = sum(
            seconds_a_fit.get(predictor, UNKNOWN_SECONDS) * (parse_row(row).n_labels or n_train) / 1000
            for predictor, row in fits
        )
        n_encodings = 1
        if "tuned" in data_config.added or "contrastive" in {
            parse_row(cell.row).features for cell in data_config.cells
        }:
            n_encodings = 2
        n_past = sum(counts[window].n_matched for window in ("sft", "reward", "rl"))
        n_past = min(n_past, first.encoder_tuning.max_pairs)
        feature_seconds = (n_cvs + n_jobs) * SECONDS_PER_TEXT * n_encodings
        feature_seconds += n_past * SECONDS_PER_TUNING_PAIR * (n_encodings - 1)
        if FIT in data_config.added:
            n_pairs = sum(counts[window].n_decisions for window in ("train", "valid", "test"))
            feature_seconds += n_pairs * _token_seconds(generators[-1]) * FIT_TOKENS
        feature_seconds += sum(_generator_seconds(made, n_cvs, counts["sft"].n_usable) for made in generators)
        plans.append(DataPlan(name, source.simulation, len(fits), n_train, fit_seconds / 60, feature_seconds / 60))
    return plans


def plan_lines(config: ExperimentConfig, plans: list[DataPlan], n_workers: int) -> list[str]:
    """Return the plan as lines of text."""
    rows = dict.fromkeys(cell.row for cell in config.cells if cell.row != BASELINE_ROW)
    generators = [f"{name} ({' + '.join(settings.stages)})" for name, settings in config.generators.items()]
    lines = [
        f"generators: {', '.join(generators) or 'none'}",
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
    lines.append(f"in all about {total:.0f} minutes with {n_workers} workers, if nothing is kept from an earlier run")
    return lines


def _generator_seconds(config: GirlConfig, n_cvs: int, n_pairs: int) -> float:
    sampling, sft = config.sampling, config.sft
    n_drawn = sampling.best_of or sampling.n
    n_parameters = _n_parameters(config)
    token = _token_seconds(config)
    pair = SECONDS_PER_PAIR + PAIR_SECONDS_PER_PARAMETER * n_parameters
    n_trained = n_pairs * sft.epochs
    if sft.max_steps > 0:
        n_trained = min(n_trained, sft.max_steps * sft.batch_size)
    return n_cvs * n_drawn * (sampling.max_new_tokens * token + SECONDS_PER_TEXT) + n_trained * pair


def _token_seconds(config: GirlConfig) -> float:
    return SECONDS_PER_TOKEN + TOKEN_SECONDS_PER_PARAMETER * _n_parameters(config)


def _n_parameters(config: GirlConfig) -> int:
    """Return the parameters of a known base; an unknown one counts as the base that `girl init` writes."""
    base = config.generator.base
    return 0 if base == "tiny" else KNOWN_BASES.get(base, SMOLLM2).n_parameters
