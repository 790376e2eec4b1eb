"""What an experiment's page shows beside the rankers: grounding, and the judge or, without one, its measures."""

from __future__ import annotations

from typing import Any, NamedTuple

from girl_features.errors import GirlError
from girl_features.evaluation.report import cells_table, inline
from girl_features.lab.experiment.rows import Steps
from girl_features.lab.experiment.run import DataResults
from girl_features.lab.grounding.report import candidates_text, grounding_table, rows_as_json
from girl_features.lab.grounding.run import measure_run
from girl_features.lab.judge import run as judge_run
from girl_features.lab.judge.verdicts import as_json


class Extras(NamedTuple):
    """Of one data set: Markdown blocks, and the same as plain values."""

    blocks: list[str]
    values: dict[str, Any]


def make_extras(data: DataResults, steps: Steps) -> Extras:
    """Grounding by the reference generator, and a comparison of two generators' JDs, where the experiment asks for it.

    One that fails leaves its error in its place: the rest of the page took hours.
    """
    name = data.prepared.name
    title = f"{name}{' (simulation)' if data.prepared.simulation else ''}"
    made = Extras([], {})
    for wanted, what, make in (
        (data.config.ground_queries, "from generated JD to real jobs", _grounding),
        (data.config.judge, "two generators' JDs compared", _judgement),
    ):
        if wanted is None:
            continue
        try:
            found = make(data, steps, title)
        except GirlError as error:
            found = Extras([f"### {title}, {what}", f"**Not made:** {inline(str(error))}"], {"not_made": str(error)})
        made.blocks.extend(found.blocks)
        made.values.update(found.values)
    return made


def _grounding(data: DataResults, steps: Steps, title: str) -> Extras:
    arm = data.config.reference_arm
    rows = measure_run(data.prepared.arms[arm].config, steps.make_ranker, limit=data.config.ground_queries)
    size = f"{rows[0].n_queries} matched test decisions of {rows[0].n_seekers} seekers"
    blocks = [
        f"### {title}, from generated JD to real jobs: {arm}, {size}",
        cells_table(*grounding_table(rows)),
        f"{candidates_text(rows)} Matcher and reward model order the hundred nearest by distance.",
    ]
    return Extras(blocks, {"grounding": rows_as_json(rows)})


def _judgement(data: DataResults, steps: Steps, title: str) -> Extras:
    assert data.config.judge is not None
    left, right = ((name, data.prepared.arms[name]) for name in data.config.judge)
    girl = right[1].config
    sides = judge_run.sides_of(
        girl,
        steps.open_encoder(data.prepared.encoder),
        (left[0], left[1].contract),
        (right[0], right[1].contract),
        judge_run.N_CVS,
    )
    chat = judge_run.choose_chat(None, girl.workspace / "judge")
    if chat is None:
        measures = judge_run.run_measures(girl, sides)
        lines, title_of = judge_run.measures_lines(measures, sides), "reference-free measures, no judge"
        values: dict[str, Any] = {"measures": [measure._asdict() for measure in measures.measures]}
    else:
        report = judge_run.run_judge(chat, sides)
        lines, title_of = judge_run.judge_lines(report, sides), "judge"
        values = {"judge": as_json(report)}
    return Extras([f"### {title}, {title_of}", "\n".join(f"- {inline(line)}" for line in lines)], values)
