"""What an experiment's page shows beside the rankers: grounding, and the judge or, without one, its measures."""

from __future__ import annotations

from typing import Any, NamedTuple

from girl_features.evaluation import judge_run
from girl_features.evaluation.experiment_config import Arm, ExperimentConfig
from girl_features.evaluation.experiment_prepare import arm_config
from girl_features.evaluation.experiment_rows import Steps
from girl_features.evaluation.grounding_run import grounding_table, measure_run, rows_as_json
from girl_features.evaluation.judge import as_json
from girl_features.evaluation.report import cells_table, inline


class Extras(NamedTuple):
    """Of one data set: Markdown blocks, and the same as plain values."""

    blocks: list[str]
    values: dict[str, Any]


def make_extras(config: ExperimentConfig, data: str, steps: Steps) -> Extras:
    """Grounding by the reference generator, and a comparison of two generators' JDs, where the experiment asks for it.

    Raises:
        GirlError: as `girl ground` and `girl judge` do.
    """
    own = config.on(data)
    blocks: list[str] = []
    values: dict[str, Any] = {}
    title = f"{data}{' (simulation)' if config.data[data].simulation else ''}"
    if own.ground_queries is not None:
        girl = arm_config(config, data, own.generators[own.reference_arm])
        rows = measure_run(girl, steps.make_ranker, limit=own.ground_queries)
        values["grounding"] = rows_as_json(rows)
        size = f"{rows[0].n_queries} matched test decisions of {rows[0].n_seekers} seekers"
        blocks += [
            f"### {title}, from generated JD to real jobs: {own.reference_arm}, {size}",
            cells_table(*grounding_table(rows)),
            "Among all jobs open at the time; matcher and reward model order the hundred nearest by distance.",
        ]
    if own.judge is not None:
        girl = arm_config(config, data, Arm())
        sides = judge_run.read_sides(girl, *own.judge, judge_run.N_CVS)
        chat = judge_run.choose_chat(None, girl.workspace / "judge")
        if chat is None:
            measures = judge_run.run_measures(girl, sides)
            lines, title_of = judge_run.measures_lines(measures, sides), "reference-free measures, no judge"
            values["measures"] = [measure._asdict() for measure in measures.measures]
        else:
            report = judge_run.run_judge(chat, sides)
            lines, title_of = judge_run.judge_lines(report, sides), "judge"
            values["judge"] = as_json(report)
        blocks += [f"### {title}, {title_of}", "\n".join(f"- {inline(line)}" for line in lines)]
    return Extras(blocks, values)
