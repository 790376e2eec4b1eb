"""An experiment for people: one Markdown page with tables and pictures, and the same numbers as Parquet."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from girl_features.evaluation.report import HOW_TO_READ, cells_table, inline, interval_text, number_text
from girl_features.evaluation.results import ResultRow
from girl_features.lab.experiment.config import BASELINE_ROW, Cell, pooled
from girl_features.lab.experiment.data import PARTS
from girl_features.lab.experiment.plots import plot_data
from girl_features.lab.experiment.rows import ArmFeatures
from girl_features.lab.experiment.run import DataResults, ExperimentResults
from girl_features.lab.experiment.summary import (
    bullets,
    chance_line,
    distinct_slices,
    slice_title,
    summary,
    title_of,
)

# the journal version's JobRec column: another market, for orientation only
PAPER_AUC = {
    "ncf": 0.5415,
    "pjfnn": 0.5508,
    "apjfnn": 0.5911,
    "mlp-plain, base (BERT)": 0.6349,
    "ft-llm": 0.6313,
    "bigrec": 0.5499,
    "bigrec-mlp": 0.6297,
}
ROW_NOTES = {
    "base": "CV and job alone",
    "cv-twice": "[c; j; c]: the CV in the generated JD's place, so as wide as an enhanced row and no wiser",
    "shuffled": "the generated JD of another seeker, by the reference generator",
    "regression": "j' expected of c by a ridge regression on matched pairs of the generator's windows: no LLM",
    "neighbour": "mean JD of the five matched pairs of the generator's windows with the nearest CVs: no LLM",
    "contrastive": "base, with the text encoder tuned on the matched pairs of the generator's windows: no generation",
    "base-windows": "base, trained on the generator's windows too",
}
FEW_SEEDS = 5


def write_experiment(
    results: ExperimentResults,
    page: Path,
    *,
    command: str,
    machine: str,
    date: datetime.date,
    extras: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write the page, its pictures in a folder of its own name beside it, and Parquet tables in the workspace.

    `extras` are further Markdown blocks, by data set.
    """
    config = results.config
    write_tables(results, config.workspace / config.name)
    pictures = page.with_suffix("")
    blocks = [
        f"# Evidence: {inline(config.name)}",
        f"    {inline(command)}",
        bullets(
            [
                f"**Date:** {date.isoformat()}",
                f"**Machine:** {inline(machine)}",
                f"**Seeds:** {', '.join(map(str, config.seeds))} (rankers); 0 (bootstrap, {config.n_bootstrap} "
                f"resamples of test seekers). Each generator was trained once.",
                *([f"**Fewer than {FEW_SEEDS} seeds**: a trial, not evidence."] * (len(config.seeds) < FEW_SEEDS)),
            ]
        ),
        "## What is shown, and what is not",
        *(summary(results, data) for data in results.data),
        chance_line(results),
        *(
            block
            for data in results.data
            for block in [*_data_blocks(data, pictures), *(extras or {}).get(data.prepared.name, [])]
        ),
        "## How to read this",
        HOW_TO_READ,
        bullets([f"`{name}`: {text}." for name, text in ROW_NOTES.items()]),
        "Controls learn from every decision of the windows before the rankers', which the generator had at most. "
        "All scores are calibrated on the validation window in the same way before LogLoss and ECE.",
    ]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(block.strip("\n") for block in blocks) + "\n", encoding="utf-8")


def write_tables(results: ExperimentResults, folder: Path) -> None:
    """Write results.parquet, claims.parquet and calibration.parquet; `SELECT * FROM 'results.parquet'` in DuckDB."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(row) for data in results.data for row in data.rows]
    claims = [asdict(claim) for data in results.data for claim in data.claims]
    curves = [
        {"data": data.prepared.name, **cell._asdict(), "mean_probability": p, "match_rate": rate, "n": n}
        for data in results.data
        for cell, curve in data.calibration.items()
        for p, rate, n in zip(*(column.tolist() for column in curve), strict=True)
    ]
    for name, table in (("results", rows), ("claims", claims), ("calibration", curves)):
        pl.DataFrame(table, infer_schema_length=None).write_parquet(folder / f"{name}.parquet")


def to_json(results: ExperimentResults) -> dict[str, Any]:
    """`{"rows": [...], "claims": [...], "fits": {...}}` of plain values."""
    return {
        "rows": [asdict(row) for data in results.data for row in data.rows],
        "claims": [asdict(claim) for data in results.data for claim in data.claims],
        "fits": {"made": results.n_fits, "kept": results.n_kept},
    }


def _data_blocks(data: DataResults, pictures: Path) -> list[str]:
    test = data.prepared.arms[data.config.reference_arm].parts.test
    size = f"{len(test.labels)} test pairs, {int(test.labels.sum())} matched, {data.rows[0].n_seekers} seekers"
    plots = plot_data(data, pictures)
    return [
        f"## {title_of(data)}: {size}",
        _windows_table(data),
        cells_table(
            ("generator", "contract", "tokens a CV", "test pairs with a JD", "trained"),
            [_generator_cells(name, arm) for name, arm in data.prepared.arms.items()],
        ),
        *(_table(data, name) for name in distinct_slices(data)),
        *_journal_table(data),
        *_k_table(data),
        *(f"![{caption}]({pictures.name}/{file})" for file, caption in plots),
    ]


def _windows_table(data: DataResults) -> str:
    ends = data.prepared.data.windows
    parts = data.prepared.arms[data.config.reference_arm].parts
    lines = [
        (
            name,
            f"{end:%Y-%m-%d}" if end else "",
            str(len(part.labels)),
            str(len(set(part.seeker_ids.tolist()))),
            str(int(part.labels.sum())),
            str(int(part.is_cold_start.sum())),
        )
        for name, part, end in zip(PARTS, parts, (ends.train_end, ends.valid_end, None), strict=True)
    ]
    before = ("generators'", *_history_cells(data))
    return cells_table(("window", "until", "pairs", "seekers", "matched", "of cold-start seekers"), [before, *lines])


def _history_cells(data: DataResults) -> tuple[str, ...]:
    history, ends = data.prepared.data.history, data.prepared.data.windows
    n_seekers = len(set(history.job_seeker_ids.tolist()))
    return (f"{ends.rl_end:%Y-%m-%d}", str(len(history.matched)), str(n_seekers), str(int(history.matched.sum())), "")


def _generator_cells(name: str, arm: ArmFeatures) -> tuple[str, ...]:
    has_jd = np.any(arm.parts.test.features.generated_jd != 0, axis=1)
    return (
        name,
        arm.contract.fingerprint,
        f"{arm.tokens_a_cv:.0f}",
        f"{has_jd.mean():.1%}",
        "; ".join(inline(note).removeprefix(f"{name}: ") for note in arm.notes),
    )


def _table(data: DataResults, slice_name: str) -> str:
    rows = [row for row in data.rows if row.slice == slice_name and row.row != BASELINE_ROW]
    header = ("predictor", "row", "AUC", "AUC, 95 %", "gain", "gain, 95 %", "verdict", "LogLoss", "ECE", "SD, seeds")
    notes = [row.note for row in rows if row.note]
    title = f"### {title_of(data)}, {slice_title(slice_name)}, {rows[0].n} pairs of {rows[0].n_seekers} seekers"
    return "\n\n".join([title, cells_table(header, [_cells(row) for row in rows]), *dict.fromkeys(notes)])


def _cells(row: ResultRow) -> tuple[str, ...]:
    return (
        row.predictor,
        row.row,
        number_text(row.auc, ".4f"),
        interval_text(row.auc_low, row.auc_high, ".4f"),
        number_text(row.auc_gain, "+.4f"),
        interval_text(row.auc_gain_low, row.auc_gain_high, "+.4f"),
        row.verdict or "",
        number_text(row.logloss, ".4f"),
        number_text(row.ece, ".4f"),
        number_text(row.auc_seed_sd, ".4f"),
    )


def _journal_table(data: DataResults) -> list[str]:
    """The journal version's baselines beside base and the generators; its own AUC, of another market, last."""
    found = {(row.predictor, row.row, row.slice): row for row in data.rows}
    names = {row.predictor: (row.predictor, BASELINE_ROW) for row in data.rows if row.row == BASELINE_ROW}
    if not names:
        return []
    names["mlp-plain, base (BERT)"] = ("mlp-plain", "base")
    for arm in data.prepared.arms:
        names[f"mlp-plain, {arm}"] = ("mlp-plain", arm)
    lines = []
    for name, (predictor, row) in names.items():
        every, cold = found.get((predictor, row, "all")), found.get((predictor, row, "cold"))
        if every is None:
            continue
        lines.append(
            (
                name,
                number_text(every.auc, ".4f"),
                interval_text(every.auc_low, every.auc_high, ".4f"),
                number_text(every.logloss, ".4f"),
                number_text(cold.auc if cold else None, ".4f"),
                number_text(cold.logloss if cold else None, ".4f"),
                number_text(PAPER_AUC.get(name), ".4f"),
            )
        )
    header = ("model", "AUC", "AUC, 95 %", "LogLoss", "cold AUC", "cold LogLoss", "AUC in the paper, other data")
    return [
        f"### {title_of(data)}, the baselines of the journal version",
        cells_table(header, lines),
        f"FT-LLM tunes, and BIGRec reads, this experiment's own generator ({inline(data.config.reference_arm)}) where "
        f"the paper takes a model of billions of parameters; BERT stands for the MLP over "
        f"{inline(data.prepared.encoder)}.",
    ]


def _k_table(data: DataResults) -> list[str]:
    """Lift against cost, by k. Tokens are those of k JDs, of the mean JD's length."""
    rows = [(row, pooled(row.row)) for row in data.rows if row.slice == "all"]
    found = [(row, one) for row, one in rows if one is not None]
    if not found or data.config.samples is None:
        return []
    arm = data.prepared.arms[data.config.samples]
    a_jd = arm.tokens_a_cv / arm.contract.sampling.n
    lines = [
        (
            row.predictor,
            one.pooling,
            str(one.k),
            number_text(row.auc, ".4f"),
            number_text(row.auc_gain, "+.4f"),
            interval_text(row.auc_gain_low, row.auc_gain_high, "+.4f"),
            row.verdict or "",
            f"{one.k * a_jd:.0f}",
            str(1 if one.pooling in ("mean", "dispersion") else one.k),
            f"{data.seconds[Cell(row.predictor, row.row)]:.1f}",
        )
        for row, one in sorted(found, key=lambda item: (item[0].predictor, item[1].pooling, item[1].k))
    ]
    header = (
        *("predictor", "pooling", "k", "AUC", "gain over base", "gain, 95 %", "verdict"),
        *("tokens a CV", "vectors served", "s a fit"),
    )
    return [f"### {title_of(data)}, k generated JDs a CV", cells_table(header, lines)]
