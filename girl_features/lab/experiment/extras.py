"""Sections of an experiment's page beside the rankers: grounding, and the judge or, without one, its measures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import polars as pl

from girl_features.errors import GirlError
from girl_features.evaluation.tables import bullets, inline, markdown_table
from girl_features.lab.experiment.results import DataResults
from girl_features.lab.experiment.rows import ExperimentSteps
from girl_features.lab.grounding.report import candidates_text, grounding_table, rows_as_json
from girl_features.lab.grounding.run import measure_run
from girl_features.lab.judge import run as judge_run
from girl_features.lab.judge.verdicts import as_json


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


def _grounding(data: DataResults, steps: ExperimentSteps) -> ExtraSections:
    name = data.config.reference_generator
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
        report = judge_run.run_judge(chat, sides)
        lines, title = judge_run.judge_lines(report, sides), "judge"
        values = {"judge": as_json(report)}
    return ExtraSections([f"### {data.title}, {title}", bullets(map(inline, lines))], values)
