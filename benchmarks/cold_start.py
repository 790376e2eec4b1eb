"""Measure how much of a generated JD's gain each tier keeps for seekers for whom nothing has been generated yet.

    python benchmarks/cold_start.py --json docs/results/cold_start.json --markdown docs/results/cold_start.md
    python benchmarks/cold_start.py --config market/girl.yaml     # also on your data, after `girl materialize`

Every ranker is trained as usual, on generated vectors with tier dropout. The pairs of cold-start seekers, who have no
decision in the training window, are then scored with the vectors that each tier of a look-up would return. The student
and the neighbours know no cold-start seeker. `none` is a ranker trained without generated JDs.

The built-in market is a SIMULATION. Its generator is an ideal one, because a small language model has shown no gain: it
writes the JD of the job that fits the CV best, from another block of the market than the seeker's. So the tables show
what the lower tiers keep of a gain that exists, not that the gain exists. A second ideal generator writes the JD of the
second-best job and plays a new contract in the last table: it shows what a ranker of the first contract loses on mapped
vectors.
"""

from __future__ import annotations

import argparse
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from cold_start_data import ColdStartData, market_data, stored_data
from measuring import page_head, write_json, write_page

from girl_features.config import StudentConfig, load_config
from girl_features.encoder import SentenceTransformerEncoder
from girl_features.errors import GirlError
from girl_features.evaluation.bootstrap import percentile_interval
from girl_features.evaluation.results import EvaluationSlice, Gains, SliceMetrics, gains_over, make_slice, measure_slice
from girl_features.evaluation.tables import Column, markdown_table
from girl_features.integrations.rankers.registry import make_ranker
from girl_features.lookup.bundle import Bundle
from girl_features.mapping.fit import fit_map
from girl_features.mapping.run import compare_mapped
from girl_features.progress import Progress
from girl_features.ranker import PairFeatures
from girl_features.sample.market import BLOCK_SEEKERS
from girl_features.schema import Tier
from girl_features.tiers import StandIns, at_tier, bundle_stand_ins
from girl_features.trainers.student import FittedStudent, RankedPairs, fit_student
from girl_features.vectors.similarity import unit_rows

PREDICTORS, SEEDS = ["mlp", "lightgbm"], [0, 1, 2]
CACHE = Path(".girl/cold-start")  # folder for encoded texts
TIER_DROPOUT = 0.3
N_NEIGHBOURS = 10
RANKER_WEIGHT = 0.3  # of the student that also learns a dot ranker's loss
WITH_RANKER_LOSS = "student + ranker's loss"
Row = dict[str, Any]

TIER_COLUMNS = [
    Column("predictor", "predictor"),
    Column("tier", "tier"),
    Column("AUC", "auc_text"),
    Column("gain", "auc_gain", "+.4f"),
    Column("gain 95 %", "auc_gain_low", "+.4f", "auc_gain_high"),
    Column("LogLoss", "logloss", ".4f"),
    Column("gain", "logloss_gain", "+.4f"),
    Column("kept AUC", "auc_kept_text"),
    Column("95 %", "interval_text"),
    Column("kept LogLoss", "logloss_kept_text"),
]
STUDENT_COLUMNS = [
    Column("student", "name"),
    Column("CVs", "n_cvs"),
    Column("parameters", "n_parameters"),
    Column("cosine", "cosine_student", ".3f"),
    Column("linear", "cosine_linear", ".3f"),
    Column("neighbours", "cosine_neighbours", ".3f"),
    Column("prior", "cosine_prior", ".3f"),
]
LOSS_COLUMNS = [
    Column("data", "data"),
    Column("predictor", "predictor"),
    Column("map", "kind"),
    Column("cosine", "cosine", ".3f"),
    Column("AUC old", "auc_old", ".4f"),
    Column("AUC mapped", "auc_mapped", ".4f"),
    Column("AUC trained again", "auc_retrained", ".4f"),
    Column("cost", "auc_loss", "+.4f"),
    Column("95 %", "auc_loss_low", "+.4f", "auc_loss_high"),
]
INTRODUCTION = """\
Pairs of seekers without a decision in the training window. Gains are over `none`, a ranker trained without
generated JDs; intervals are 95 %, seekers resampled, seeds averaged. *Kept* is the share of the generated
tier's gain. It is given only where that gain's interval is above zero. The student and the neighbours have
seen none of these seekers.
"""


def measure_data(data: ColdStartData, predictors: list[str], seeds: list[int], n_bootstrap: int) -> dict[str, Any]:
    """Measure one data set.

    Returns:
        `rows` by predictor and tier, `students` with their measures, and `losses` on mapped vectors, which are empty
        if the data has no second generator.
    """
    train, test = data.parts.train, data.parts.test
    pairs = RankedPairs(train.features.cv, train.features.jd, train.labels)
    students = {
        "student": fit_student(data.taught, StudentConfig()),
        WITH_RANKER_LOSS: fit_student(data.taught, StudentConfig(ranker_weight=RANKER_WEIGHT), pairs),
    }
    stand_ins = bundle_stand_ins(_bundle(data, students["student"]), N_NEIGHBOURS)
    part = make_slice("cold", test.labels, test.seeker_ids, test.is_cold_start, n_bootstrap, 0)
    views = _test_features_by_tier(data, stand_ins, students[WITH_RANKER_LOSS])
    rows: list[Row] = []
    with Progress("rankers", 2 * len(predictors) * len(seeds), "fits") as progress:
        for predictor in predictors:
            scores = _scores(data, predictor, seeds, stand_ins, views, progress)
            rows += tier_rows(data.name, predictor, scores, part)
    losses = []
    if data.second_parts is not None and data.both is not None:
        fitted = fit_map(data.both)
        for loss in compare_mapped(
            data.parts, data.second_parts, fitted.map, predictors, seeds, n_bootstrap, make_ranker
        ):
            losses.append({"data": data.name, "kind": fitted.kind, "cosine": fitted.cosine, **loss._asdict()})
    student_rows = [{"data": data.name, "name": name, **fitted.measures} for name, fitted in students.items()]
    return {"rows": rows, "students": student_rows, "losses": losses}


def _bundle(data: ColdStartData, fitted: FittedStudent) -> Bundle:
    return Bundle(
        contract=data.contract,
        prior=data.taught.generated.mean(axis=0),
        cv_mean=data.taught.cvs.mean(axis=0),
        student=fitted.student,
        neighbours_cv=unit_rows(data.taught.cvs),
        neighbours_generated=data.taught.generated,
    )


def _test_features_by_tier(data: ColdStartData, stand_ins: StandIns, other: FittedStudent) -> dict[str, PairFeatures]:
    features = data.parts.test.features
    vectors = stand_ins(features)
    return {
        "prior": at_tier(features, Tier.PRIOR, vectors[Tier.PRIOR]),
        "neighbours": at_tier(features, Tier.NEIGHBOURS, vectors[Tier.NEIGHBOURS]),
        "student": at_tier(features, Tier.STUDENT, vectors[Tier.STUDENT]),
        WITH_RANKER_LOSS: at_tier(features, Tier.STUDENT, other.student(features.cv)),
        "generated": features,
    }


def _scores(
    data: ColdStartData,
    predictor: str,
    seeds: list[int],
    stand_ins: StandIns,
    views: dict[str, PairFeatures],
    progress: Progress,
) -> dict[str, np.ndarray]:
    """Return (s, n) scores of the n test pairs by the rankers of s seeds, for `none` and each tier."""
    train, valid, test = data.parts
    fit_data = (train.features, train.labels, valid.features, valid.labels)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in ("none", *views)}
    for seed in seeds:
        base = make_ranker(predictor, "base", seed)
        base.fit(*fit_data)
        scores["none"].append(base.score(test.features))
        progress.advance()
        enhanced = make_ranker(predictor, "enhanced", seed, TIER_DROPOUT, stand_ins)
        enhanced.fit(*fit_data)
        for name, features in views.items():
            scores[name].append(enhanced.score(features))
        progress.advance()
    return {name: np.stack(by_seed) for name, by_seed in scores.items()}


def tier_rows(data: str, predictor: str, scores: dict[str, np.ndarray], part: EvaluationSlice) -> list[Row]:
    """Return a row for each tier, `none` first."""
    measured: dict[str, SliceMetrics] = {}
    for name, tier_scores in scores.items():
        tier = measure_slice(tier_scores, part)
        if tier is None:
            raise GirlError(f"the cold-start pairs of {data} are of one class; simulate more seekers")
        measured[name] = tier
    none, generated = measured["none"], measured["generated"]
    whole = gains_over(generated, none)
    rows = []
    for name, tier in measured.items():
        gains = Gains() if name == "none" else gains_over(tier, none)
        row: Row = {
            "data": data,
            "predictor": predictor,
            "tier": name,
            "n_pairs": len(part.labels),
            "n_seekers": part.n_seekers,
            "auc": float(tier.auc.mean()),
            "auc_seed_sd": float(tier.auc.std(ddof=1)) if len(tier.auc) > 1 else 0.0,
            "logloss": float(tier.log_loss.mean()),
            **{key: value for key, value in gains._asdict().items() if key not in ("auc_gain_seed_sd", "verdict")},
            **dict.fromkeys(("auc_kept", "auc_kept_low", "auc_kept_high", "logloss_kept")),
        }
        if name != "none" and whole.verdict == "better":
            ratios = (tier.resampled_auc - none.resampled_auc) / (generated.resampled_auc - none.resampled_auc)
            row["auc_kept_low"], row["auc_kept_high"] = percentile_interval(ratios)
            row["auc_kept"] = gains.auc_gain / whole.auc_gain
            row["logloss_kept"] = gains.logloss_gain / whole.logloss_gain
        rows.append(row)
    return rows


def page(result: dict[str, Any]) -> list[str]:
    """Return the lines of the results page."""
    rankers = f"seeds {result['seeds']}, tier dropout {TIER_DROPOUT}"
    lines = [*page_head("Cold start: what each tier keeps", {"Rankers": rankers}), INTRODUCTION]
    for data in result["data"]:
        rows = [row for row in result["rows"] if row["data"] == data["name"]]
        students = [student for student in result["students"] if student["data"] == data["name"]]
        name = data["name"] + (" (SIMULATION, ideal generator)" if data["ideal"] else "")
        lines += [f"## {name}: {rows[0]['n_pairs']} pairs of {rows[0]['n_seekers']} seekers", ""]
        lines += [markdown_table(pl.DataFrame(map(_with_texts, rows), infer_schema_length=None), TIER_COLUMNS), ""]
        lines += [markdown_table(pl.DataFrame(students), STUDENT_COLUMNS), ""]
        lines += ["(Cosines to the generator's own vectors, on held-out seekers.)", ""]
    if result["losses"]:
        lines += ["## A ranker of an old contract on mapped vectors of a new one (SIMULATION)", ""]
        lines.append(markdown_table(pl.DataFrame(result["losses"]), LOSS_COLUMNS))
    return lines


def _with_texts(row: Row) -> Row:
    texts = {"auc_text": f"{row['auc']:.4f} ± {row['auc_seed_sd']:.4f}"}
    for key in ("auc_kept", "auc_kept_low", "auc_kept_high", "logloss_kept"):
        texts[f"{key}_text"] = "" if row[key] is None else f"{100 * row[key]:.0f} %"
    if row["auc_kept_low"] is not None:
        texts["interval_text"] = f"{texts['auc_kept_low_text']} to {texts['auc_kept_high_text']}"
    return {"interval_text": "", **row, **texts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small market, one predictor and seed")
    parser.add_argument("--seekers", type=int, default=2048, help="of each simulated market, in blocks of 512")
    parser.add_argument("--markets", type=int, default=3, help="number of simulated markets; each has its own seed")
    parser.add_argument(
        "--config", type=Path, action="append", default=[], help="a girl.yaml whose CVs are materialized; repeatable"
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    n_blocks, n_markets = max(2, math.ceil(arguments.seekers / BLOCK_SEEKERS)), arguments.markets
    predictors, seeds, n_bootstrap = PREDICTORS, SEEDS, 1000
    if arguments.quick:
        n_blocks, n_markets, predictors, seeds, n_bootstrap = 2, 1, ["lightgbm"], [0], 200
    result: dict[str, Any] = {"seeds": seeds, "data": [], "rows": [], "students": [], "losses": []}
    encoder = SentenceTransformerEncoder()
    loaders = [partial(market_data, seed, n_blocks, encoder, CACHE) for seed in range(n_markets)]
    loaders += [partial(stored_data, load_config(path)) for path in arguments.config]
    for load in loaders:
        data = load()
        measured = measure_data(data, predictors, seeds, n_bootstrap)
        result["data"].append({"name": data.name, "ideal": data.is_simulation, "contract": data.contract.fingerprint})
        for name, rows in measured.items():
            result[name] += rows
        print(f"{data.name}: done", file=sys.stderr)
    lines = page(result)
    print("\n".join(lines))
    write_json(arguments.json, result)
    write_page(arguments.markdown, lines)


if __name__ == "__main__":
    main()
