"""Results page of an experiment: Markdown with tables and pictures, and the same numbers as Parquet."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from girl_features.errors import GirlError
from girl_features.evaluation.report import AUC, AUC_INTERVAL, GAIN, GAIN_INTERVAL, LOGLOSS, PREDICTOR, ROW, VERDICT
from girl_features.evaluation.results import SLICE_NAMES
from girl_features.evaluation.tables import Column, bullets, frame_of, inline, markdown_table, write_page
from girl_features.lab.experiment.config import BASELINE_ROW, SEEDLESS, Cell, known_models
from girl_features.lab.experiment.plots import plot_data
from girl_features.lab.experiment.results import DataResults, ExperimentResults, with_all_labels
from girl_features.lab.experiment.row_names import parse_pooling, parse_row
from girl_features.lab.experiment.rows import ExperimentSteps
from girl_features.lab.experiment.summary import chance_line, distinct_slices, slice_title, summary_section
from girl_features.lab.grounding.report import candidates_text, grounding_table, rows_as_json
from girl_features.lab.grounding.run import measure_run
from girl_features.lab.judge import run as judge_run
from girl_features.lab.judge.verdicts import as_json, judge_pairs
from girl_features.store.user_files import make_way

FEW_SEEDS = 5
_CELL_COLUMNS = [
    *(PREDICTOR, ROW, AUC, AUC_INTERVAL, GAIN, GAIN_INTERVAL, VERDICT, LOGLOSS),
    *(Column("ECE", "ece", ".4f"), Column("SD, seeds", "auc_seed_sd", ".4f")),
]
_JOURNAL_COLUMNS = [
    *(Column("model", "model"), AUC, AUC_INTERVAL, LOGLOSS),
    *(Column("cold AUC", "cold_auc", ".4f"), Column("cold LogLoss", "cold_logloss", ".4f")),
    Column("AUC in the paper, other data", "paper_auc", ".4f"),
]
_LABEL_COLUMNS = [
    *(PREDICTOR, ROW, Column("labelled decisions", "labels"), AUC, AUC_INTERVAL),
    *(GAIN._replace(heading="gain over base"), GAIN_INTERVAL, VERDICT, Column("SD, seeds", "auc_seed_sd", ".4f")),
]
_K_COLUMNS = [
    *(PREDICTOR, Column("pooling", "pooling"), Column("k", "k"), AUC),
    *(GAIN._replace(heading="gain over base"), GAIN_INTERVAL, VERDICT),
    Column("tokens a CV", "tokens", ".0f"),
    Column("vectors served", "vectors"),
    Column("s a fit", "seconds", ".1f"),
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

    `extras` are further Markdown blocks, by data set; `machine` is a `machine_description`.
    """
    config = results.config
    write_parquet_tables(results, config.workspace / config.name)
    facts = [
        f"**Date:** {date.isoformat()}",
        f"**Machine:** {inline(machine)}",
        f"**Seeds:** {', '.join(map(str, config.seeds))} (rankers); 0 (bootstrap, {config.n_bootstrap} resamples of "
        f"test seekers). Each generator was trained once.",
    ]
    if len(config.seeds) < FEW_SEEDS:
        facts.append(f"**Fewer than {FEW_SEEDS} seeds**: a trial, not evidence.")
    data_blocks = []
    for data in results.data:
        data_blocks += [*_data_blocks(data, page.with_suffix("")), *(extras or {}).get(data.prepared.name, [])]
    write_page(
        page,
        Path(__file__).with_name("page.md"),
        name=inline(config.name),
        command=inline(command),
        facts=bullets(facts),
        summaries="\n\n".join(summary_section(data, config.data[data.prepared.name].without) for data in results.data),
        chance=chance_line(results),
        data="\n\n".join(data_blocks),
    )


def write_parquet_tables(results: ExperimentResults, folder: Path) -> None:
    """Write results.parquet, claims.parquet and calibration.parquet, which DuckDB and polars can query.

    A file of such a name with other columns is the user's, and is kept as NAME.bak-TIME.

    Raises:
        StoreError: such a file cannot be renamed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    curves = [
        pl.DataFrame({"data": data.prepared.name, **cell._asdict(), **curve._asdict()})
        for data in results.data
        for cell, curve in data.calibration.items()
    ]
    frames = {
        "results": frame_of(row for data in results.data for row in data.rows),
        "claims": frame_of(claim for data in results.data for claim in data.claims),
        "calibration": pl.concat(curves),
    }
    for name, frame in frames.items():
        path = folder / f"{name}.parquet"
        make_way(path, partial(_has_columns, names=frame.columns))
        frame.write_parquet(path)


def _has_columns(path: Path, names: Sequence[str]) -> bool:
    return set(pq.read_schema(path).names) == set(names)


def to_json(results: ExperimentResults) -> dict[str, Any]:
    """Return `{"rows": [...], "claims": [...], "fits": {...}}` of plain values."""
    return {
        "rows": [asdict(row) for data in results.data for row in data.rows],
        "claims": [asdict(claim) for data in results.data for claim in data.claims],
        "fits": {"made": results.n_fits, "kept": results.n_kept},
    }


class ExtraSections(NamedTuple):
    """Further sections on one data set."""

    blocks: list[str]  # Markdown
    values: dict[str, Any]  # the same as plain values


def make_extras(data: DataResults, steps: ExperimentSteps) -> ExtraSections:
    """Make the grounding and the comparison of two generators' JDs, if the experiment asks for them.

    If one fails, its section holds the error instead: the rest of the page took hours and is not given up.
    """
    makers: dict[str, Callable[[DataResults, ExperimentSteps], ExtraSections]] = {}
    if data.config.ground_queries is not None:
        makers["from generated JD to real jobs"] = _grounding
    if data.config.judge is not None:
        makers["two generators' JDs compared"] = _judgement
    extras = ExtraSections([], {})
    for title, make in makers.items():
        try:
            section = make(data, steps)
        except GirlError as error:
            blocks = [f"### {data.title}, {title}", f"**Not made:** {inline(str(error))}"]
            section = ExtraSections(blocks, {"not_made": str(error)})
        extras = ExtraSections(extras.blocks + section.blocks, extras.values | section.values)
    return extras


def _data_blocks(data: DataResults, pictures: Path) -> list[str]:
    test = data.prepared.base.test
    size = f"{len(test.labels)} test pairs, {int(test.labels.sum())} matched, {data.rows[0].n_seekers} seekers"
    blocks = [f"## {data.title}: {size}", _windows_table(data), _generators_table(data)]
    for name in distinct_slices(data):
        rows = [row for row in with_all_labels(data.rows) if row.slice == name and row.row != BASELINE_ROW]
        blocks.append(f"### {data.title}, {slice_title(name)}, {rows[0].n} pairs of {rows[0].n_seekers} seekers")
        blocks += [markdown_table(frame_of(rows), _CELL_COLUMNS), *dict.fromkeys(row.note for row in rows if row.note)]
    blocks += [*_journal_blocks(data), *_k_blocks(data), *_label_blocks(data)]
    return blocks + [f"![{caption}]({pictures.name}/{file})" for file, caption in plot_data(data, pictures)]


def _windows_table(data: DataResults) -> str:
    history, ends = data.prepared.data.history, data.prepared.data.windows
    parts = data.prepared.base._asdict()
    n_seekers, n_matched = len(np.unique(history.job_seeker_ids)), int(history.matched.sum())
    rows: list[tuple[Any, ...]] = [("generators'", ends.rl_end, len(history.matched), n_seekers, n_matched, None)]
    for name, part in parts.items():
        counts = part.counts()
        end = ends.bounds(name).end
        rows.append((name, end, counts["n"], counts["n_seekers"], counts["n_matched"], counts["n_cold_start"]))
    names = ["window", "until", "pairs", "seekers", "matched", "of cold-start seekers"]
    frame = pl.DataFrame(rows, names, orient="row")
    return markdown_table(frame.with_columns(pl.col("until").dt.strftime("%Y-%m-%d")))


def _generators_table(data: DataResults) -> str:
    if not data.prepared.generators:
        return "No generator: every row is made from the real CVs and JDs."
    lines = [
        {
            "generator": name,
            "contract": generator.contract.fingerprint,
            "tokens a CV": f"{generator.tokens_per_cv:.0f}",
            "test pairs with a JD": f"{generator.parts.test.features.generated_jd.any(axis=1).mean():.1%}",
            "trained": generator.training,
        }
        for name, generator in data.prepared.generators.items()
    ]
    return markdown_table(pl.DataFrame(lines))


def _journal_blocks(data: DataResults) -> list[str]:
    """Compare the journal version's baselines with base and the generators, beside the paper's AUC on other data."""
    models = {name: Cell(name, BASELINE_ROW) for name in data.config.baselines}
    if not models:
        return []
    reference = str(data.config.reference_generator)  # baselines need one, which is checked with the config
    models["mlp-plain, base (BERT)"] = Cell("mlp-plain", "base")
    models |= {f"mlp-plain, {generator}": Cell("mlp-plain", generator) for generator in data.prepared.generators}
    cells, frame = ["predictor", "row"], frame_of(data.rows)
    cold = frame.filter(slice="cold").select(*cells, cold_auc="auc", cold_logloss="logloss")
    lines = (
        pl.DataFrame([(model, *cell) for model, cell in models.items()], ["model", *cells], orient="row")
        .join(frame.filter(slice="all"), on=cells, maintain_order="left")
        .join(cold, on=cells, how="left", maintain_order="left")
        .join(known_models(), on="model", how="left", maintain_order="left")
    )
    return [
        f"### {data.title}, the baselines of the journal version",
        markdown_table(lines, _JOURNAL_COLUMNS),
        f"FT-LLM tunes, and BIGRec reads, this experiment's own generator ({inline(reference)}) "
        f"where the paper takes a model of billions of parameters; BERT is represented by the MLP over "
        f"{inline(data.prepared.encoder)}.",
    ]


def _k_blocks(data: DataResults) -> list[str]:
    """Compare lift and cost by k. Tokens are those of k JDs of mean length."""
    if data.config.samples is None:
        return []
    generator = data.prepared.generators[data.config.samples]
    tokens_per_jd = generator.tokens_per_cv / generator.contract.sampling.n
    lines = []
    for row in data.rows:
        wanted = parse_pooling(row.row)
        if wanted is not None and row.slice == "all":
            costs = {
                "tokens": wanted.k * tokens_per_jd,
                "vectors": wanted.k if wanted.pooling in ("max", "attention") else 1,
                "seconds": data.seconds[Cell(row.predictor, row.row)],
            }
            lines.append({**asdict(row), **wanted._asdict(), **costs})
    if not lines:
        return []
    frame = pl.DataFrame(lines, infer_schema_length=None).sort("predictor", "pooling", "k", maintain_order=True)
    return [f"### {data.title}, k generated JDs a CV", markdown_table(frame, _K_COLUMNS)]


def _label_blocks(data: DataResults) -> list[str]:
    """Compare the rows by the number of labelled decisions that their rankers were trained on."""
    if all(parse_row(row.row).n_labels is None for row in data.rows):
        return []
    n_train = len(data.prepared.base.train.labels)
    blocks = []
    for name in distinct_slices(data):
        if name not in SLICE_NAMES:
            continue
        lines = {}
        for row in data.rows:
            base_name, _, labels = row.row.partition("@")
            if row.slice == name and row.predictor not in SEEDLESS and row.row != BASELINE_ROW:
                n_labels = int(labels) if labels else n_train
                lines[row.predictor, base_name, n_labels] = {**asdict(row), "row": base_name, "labels": n_labels}
        frame = pl.DataFrame([lines[key] for key in sorted(lines)], infer_schema_length=None)
        several = frame.filter(pl.len().over("predictor", "row") > 1)
        title = f"### {data.title}, {slice_title(name)}, by the number of labelled decisions"
        blocks += [title, markdown_table(several, _LABEL_COLUMNS)]
    return [
        *blocks,
        "Gains are over base with as many labelled decisions. Each seed draws other seekers, each with all decisions. "
        "A quarter as many decisions, at least 40, choose the epoch and calibrate. The labels are those of the "
        "rankers: the tuned encoder, the regression and a generator have learned from matches of earlier windows too. "
        "Cold-start seekers are those without a decision in the whole training window.",
    ]


def _grounding(data: DataResults, steps: ExperimentSteps) -> ExtraSections:
    name = data.config.reference_generator
    assert name is not None, "checked with the config"
    config = data.prepared.generators[name].config
    rows = measure_run(config, steps.make_ranker, limit=data.config.ground_queries)
    size = f"{rows[0].n_queries} matched test decisions of {rows[0].n_seekers} seekers"
    header, lines = grounding_table(rows)
    blocks = [
        f"### {data.title}, from generated JD to real jobs: {name}, {size}",
        markdown_table(pl.DataFrame(lines, schema=list(header), orient="row")),
        f"{candidates_text(rows)} Matcher and reward model order the hundred nearest by distance.",
    ]
    return ExtraSections(blocks, {"grounding": rows_as_json(rows)})


def _judgement(data: DataResults, steps: ExperimentSteps) -> ExtraSections:
    assert data.config.judge is not None
    left, right = ((name, data.prepared.generators[name].contract) for name in data.config.judge)
    config = data.prepared.generators[right[0]].config
    encoder = steps.open_encoder(data.prepared.encoder)
    sides = judge_run.sides_of(config, encoder, left, right, judge_run.N_CVS)
    chat = judge_run.choose_chat(None, config.workspace / "judge")
    if chat is None:
        measures = judge_run.run_measures(config, sides)
        lines, title = judge_run.measures_lines(measures, sides), "reference-free measures, no judge"
        values: dict[str, Any] = {"measures": [measure._asdict() for measure in measures.measures]}
    else:
        report = judge_pairs(chat, sides.pairs)
        lines, title = judge_run.judge_lines(report, sides), "judge"
        values = {"judge": as_json(report)}
    return ExtraSections([f"### {data.title}, {title}", bullets(map(inline, lines))], values)
