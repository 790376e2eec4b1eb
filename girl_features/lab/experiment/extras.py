"""Sections of an experiment's page beside the rankers: grounding, and the judge or, without one, its measures."""

from __future__ import annotations

from typing import Any, NamedTuple

import polars as pl

from girl_features.errors import GirlError
from girl_features.evaluation.tables import bullets, inline, markdown_table
from girl_features.lab.experiment.results import DataResults
from girl_features.lab.experiment.rows import ExperimentSteps
from girl_features.lab.experiment.summary import title_of
from girl_features.lab.grounding.report import candidates_text, grounding_table, rows_as_json
from girl_features.lab.grounding.run import measure_run
from girl_features.lab.judge import run as judge_run
from girl_features.lab.judge.verdicts import as_json, judge_pairs


class ExtraSections(NamedTuple):
    """Further sections on one data set."""

    blocks: list[str]  # Markdown
    values: dict[str, Any]  # the same as plain values


def make_extras(data: DataResults, steps: ExperimentSteps) -> ExtraSections:
    """Make the grounding and the comparison of two generators' JDs, if the experiment asks for them.

    If one fails, its section holds the error instead: the rest of the page took hours and is not given up.
    """
    sections = []
    if data.config.ground_queries is not None:
        try:
            sections.append(_grounding(data, steps))
        except GirlError as error:
            sections.append(_not_made(f"{title_of(data)}, from generated JD to real jobs", error))
    if data.config.judge is not None:
        try:
            sections.append(_judgement(data, steps, *data.config.judge))
        except GirlError as error:
            sections.append(_not_made(f"{title_of(data)}, two generators' JDs compared", error))
    return ExtraSections(
        [block for section in sections for block in section.blocks],
        {key: value for section in sections for key, value in section.values.items()},
    )


def _not_made(title: str, error: GirlError) -> ExtraSections:
    return ExtraSections([f"### {title}", f"**Not made:** {inline(str(error))}"], {"not_made": str(error)})


def _grounding(data: DataResults, steps: ExperimentSteps) -> ExtraSections:
    name = data.config.reference_generator
    config = data.prepared.generators[name].config
    rows = measure_run(config, steps.make_ranker, limit=data.config.ground_queries)
    size = f"{rows[0].n_queries} matched test decisions of {rows[0].n_seekers} seekers"
    header, lines = grounding_table(rows)
    blocks = [
        f"### {title_of(data)}, from generated JD to real jobs: {name}, {size}",
        markdown_table(pl.DataFrame(lines, schema=list(header), orient="row")),
        f"{candidates_text(rows)} Matcher and reward model order the hundred nearest by distance.",
    ]
    return ExtraSections(blocks, {"grounding": rows_as_json(rows)})


def _judgement(data: DataResults, steps: ExperimentSteps, left_name: str, right_name: str) -> ExtraSections:
    left, right = data.prepared.generators[left_name], data.prepared.generators[right_name]
    sides = judge_run.sides_of(
        right.config,
        steps.open_encoder(data.prepared.encoder),
        (left_name, left.contract),
        (right_name, right.contract),
        judge_run.N_CVS,
    )
    chat = judge_run.choose_chat(None, right.config.workspace / "judge")
    if chat is None:
        measures = judge_run.run_measures(right.config, sides)
        lines, title = judge_run.measures_lines(measures, sides), "reference-free measures, no judge"
        values: dict[str, Any] = {"measures": [measure._asdict() for measure in measures.measures]}
    else:
        report = judge_pairs(chat, sides.pairs)
        lines, title = judge_run.judge_lines(report, sides), "judge"
        values = {"judge": as_json(report)}
    return ExtraSections([f"### {title_of(data)}, {title}", bullets(map(inline, lines))], values)
