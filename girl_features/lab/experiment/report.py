"""Results page of an experiment: Markdown with tables and pictures, and the same numbers as Parquet."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from girl_features.evaluation.report import (
    AUC,
    AUC_INTERVAL,
    ECE,
    GAIN,
    GAIN_INTERVAL,
    HOW_TO_READ,
    LOGLOSS,
    PREDICTOR,
    ROW,
    VERDICT,
)
from girl_features.evaluation.tables import Column, bullets, frame_of, inline, markdown_table, write_blocks
from girl_features.lab.experiment.config import BASELINE_ROW, Cell, parse_pooling
from girl_features.lab.experiment.data import PARTS
from girl_features.lab.experiment.plots import plot_data
from girl_features.lab.experiment.results import DataResults, ExperimentResults
from girl_features.lab.experiment.summary import chance_line, distinct_slices, slice_title, summary_section, title_of

# AUC on JobRec in the journal version of the paper: another market, for orientation only
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
    "cv-twice": "[c; j; c]: the CV in the generated JD's place, so as wide as an enhanced row, without new content",
    "shuffled": "the generated JD of another seeker, by the reference generator",
    "regression": "j' predicted from c by a ridge regression on matched pairs of the generator's windows: no LLM",
    "neighbour": "mean JD of the five matched pairs of the generator's windows with the nearest CVs: no LLM",
    "contrastive": "base, with the text encoder tuned on the matched pairs of the generator's windows: no generation",
    "base-windows": "base, trained on the generator's windows too",
}
FEW_SEEDS = 5
_CELL_COLUMNS = [
    *(PREDICTOR, ROW, AUC, AUC_INTERVAL, GAIN, GAIN_INTERVAL, VERDICT, LOGLOSS, ECE),
    Column("SD, seeds", "auc_seed_sd", ".4f"),
]


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

    Args:
        results: of the experiment.
        page: Markdown file to write.
        command: the command that made the results, as typed.
        machine: see `girl_features.evaluation.machine.machine_description`.
        date: of the run.
        extras: further Markdown blocks, by data set.
    """
    config = results.config
    write_parquet_tables(results, config.workspace / config.name)
    pictures = page.with_suffix("")
    facts = [
        f"**Date:** {date.isoformat()}",
        f"**Machine:** {inline(machine)}",
        f"**Seeds:** {', '.join(map(str, config.seeds))} (rankers); 0 (bootstrap, {config.n_bootstrap} resamples of "
        f"test seekers). Each generator was trained once.",
    ]
    if len(config.seeds) < FEW_SEEDS:
        facts.append(f"**Fewer than {FEW_SEEDS} seeds**: a trial, not evidence.")
    blocks = [f"# Evidence: {inline(config.name)}", f"    {inline(command)}", bullets(facts)]
    blocks.append("## What is shown, and what is not")
    blocks += [summary_section(data, config.data[data.prepared.name].without) for data in results.data]
    blocks.append(chance_line(results))
    for data in results.data:
        blocks += [*_data_blocks(data, pictures), *(extras or {}).get(data.prepared.name, [])]
    blocks += [
        "## How to read this",
        HOW_TO_READ,
        bullets(f"`{name}`: {text}." for name, text in ROW_NOTES.items()),
        "Controls learn from every decision of the windows before the rankers' windows; a generator learns from those "
        "decisions at most. All scores are calibrated on the validation window in the same way before LogLoss and ECE.",
    ]
    write_blocks(page, blocks)


def write_parquet_tables(results: ExperimentResults, folder: Path) -> None:
    """Write results.parquet, claims.parquet and calibration.parquet, which DuckDB and polars can query."""
    folder.mkdir(parents=True, exist_ok=True)
    curves = [
        {"data": data.prepared.name, **cell._asdict(), "mean_probability": probability, "match_rate": rate, "n": n}
        for data in results.data
        for cell, curve in data.calibration.items()
        for probability, rate, n in zip(*(column.tolist() for column in curve), strict=True)
    ]
    frame_of(row for data in results.data for row in data.rows).write_parquet(folder / "results.parquet")
    frame_of(claim for data in results.data for claim in data.claims).write_parquet(folder / "claims.parquet")
    pl.DataFrame(curves, infer_schema_length=None).write_parquet(folder / "calibration.parquet")


def to_json(results: ExperimentResults) -> dict[str, Any]:
    """Return `{"rows": [...], "claims": [...], "fits": {...}}` of plain values."""
    return {
        "rows": [asdict(row) for data in results.data for row in data.rows],
        "claims": [asdict(claim) for data in results.data for claim in data.claims],
        "fits": {"made": results.n_fits, "kept": results.n_kept},
    }


def _data_blocks(data: DataResults, pictures: Path) -> list[str]:
    test = data.prepared.generators[data.config.reference_generator].parts.test
    size = f"{len(test.labels)} test pairs, {int(test.labels.sum())} matched, {data.rows[0].n_seekers} seekers"
    blocks = [f"## {title_of(data)}: {size}", _windows_table(data), _generators_table(data)]
    for slice_name in distinct_slices(data):
        blocks += _slice_blocks(data, slice_name)
    blocks += [*_journal_blocks(data), *_k_blocks(data)]
    blocks += [f"![{caption}]({pictures.name}/{file})" for file, caption in plot_data(data, pictures)]
    return blocks


def _windows_table(data: DataResults) -> str:
    history, ends = data.prepared.data.history, data.prepared.data.windows
    parts = data.prepared.generators[data.config.reference_generator].parts
    generators = {
        "window": "generators'",
        "until": f"{ends.rl_end:%Y-%m-%d}",
        "pairs": len(history.matched),
        "seekers": len(np.unique(history.job_seeker_ids)),
        "matched": int(history.matched.sum()),
    }
    rankers = [
        {
            "window": name,
            "until": f"{end:%Y-%m-%d}" if end else "",
            "pairs": len(part.labels),
            "seekers": len(np.unique(part.seeker_ids)),
            "matched": int(part.labels.sum()),
            "of cold-start seekers": int(part.is_cold_start.sum()),
        }
        for name, part, end in zip(PARTS, parts, (ends.train_end, ends.valid_end, None), strict=True)
    ]
    return markdown_table(pl.DataFrame([generators, *rankers]))


def _generators_table(data: DataResults) -> str:
    lines = [
        {
            "generator": name,
            "contract": generator.contract.fingerprint,
            "tokens a CV": f"{generator.tokens_a_cv:.0f}",
            "test pairs with a JD": f"{generator.parts.test.features.generated_jd.any(axis=1).mean():.1%}",
            "trained": "; ".join(note.removeprefix(f"{name}: ") for note in generator.notes),
        }
        for name, generator in data.prepared.generators.items()
    ]
    return markdown_table(pl.DataFrame(lines))


def _slice_blocks(data: DataResults, slice_name: str) -> list[str]:
    rows = [row for row in data.rows if row.slice == slice_name and row.row != BASELINE_ROW]
    title = f"### {title_of(data)}, {slice_title(slice_name)}, {rows[0].n} pairs of {rows[0].n_seekers} seekers"
    notes = dict.fromkeys(row.note for row in rows if row.note)
    return [title, markdown_table(frame_of(rows), _CELL_COLUMNS), *notes]


def _journal_blocks(data: DataResults) -> list[str]:
    """Compare the journal version's baselines with base and the generators, beside the paper's AUC on other data."""
    rows = {(row.predictor, row.row, row.slice): row for row in data.rows}
    models = {row.predictor: (row.predictor, BASELINE_ROW) for row in data.rows if row.row == BASELINE_ROW}
    if not models:
        return []
    models["mlp-plain, base (BERT)"] = ("mlp-plain", "base")
    for generator in data.prepared.generators:
        models[f"mlp-plain, {generator}"] = ("mlp-plain", generator)
    lines = []
    for model, (predictor, row_name) in models.items():
        row, cold = rows.get((predictor, row_name, "all")), rows.get((predictor, row_name, "cold"))
        if row is not None:
            lines.append(
                {
                    "model": model,
                    "paper_auc": PAPER_AUC.get(model),
                    "auc": row.auc,
                    "auc_low": row.auc_low,
                    "auc_high": row.auc_high,
                    "logloss": row.logloss,
                    "cold_auc": cold.auc if cold else None,
                    "cold_logloss": cold.logloss if cold else None,
                }
            )
    columns = [
        *(Column("model", "model"), AUC, AUC_INTERVAL, LOGLOSS),
        Column("cold AUC", "cold_auc", ".4f"),
        Column("cold LogLoss", "cold_logloss", ".4f"),
        Column("AUC in the paper, other data", "paper_auc", ".4f"),
    ]
    return [
        f"### {title_of(data)}, the baselines of the journal version",
        markdown_table(pl.DataFrame(lines, infer_schema_length=None), columns),
        f"FT-LLM tunes, and BIGRec reads, this experiment's own generator ({inline(data.config.reference_generator)}) "
        f"where the paper takes a model of billions of parameters; BERT is represented by the MLP over "
        f"{inline(data.prepared.encoder)}.",
    ]


def _k_blocks(data: DataResults) -> list[str]:
    """Compare lift and cost by k. Tokens are those of k JDs of mean length."""
    if data.config.samples is None:
        return []
    generator = data.prepared.generators[data.config.samples]
    tokens_a_jd = generator.tokens_a_cv / generator.contract.sampling.n
    lines = []
    for row in data.rows:
        pooling = parse_pooling(row.row)
        if pooling is not None and row.slice == "all":
            is_one_vector = pooling.pooling in ("mean", "dispersion")
            costs = {
                "tokens": pooling.k * tokens_a_jd,
                "vectors": 1 if is_one_vector else pooling.k,
                "seconds": data.seconds[Cell(row.predictor, row.row)],
            }
            lines.append({**asdict(row), **pooling._asdict(), **costs})
    if not lines:
        return []
    columns = [
        *(PREDICTOR, Column("pooling", "pooling"), Column("k", "k"), AUC),
        Column("gain over base", "auc_gain", "+.4f"),
        *(GAIN_INTERVAL, VERDICT),
        Column("tokens a CV", "tokens", ".0f"),
        Column("vectors served", "vectors"),
        Column("s a fit", "seconds", ".1f"),
    ]
    frame = pl.DataFrame(lines, infer_schema_length=None).sort("predictor", "pooling", "k", maintain_order=True)
    return [f"### {title_of(data)}, k generated JDs a CV", markdown_table(frame, columns)]
