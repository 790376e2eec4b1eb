"""How much of a generated JD's gain is left for seekers nobody has generated for yet, tier by tier.

    python benchmarks/cold_start.py --json docs/results/cold_start.json --markdown docs/results/cold_start.md
    python benchmarks/cold_start.py --config market/girl.yaml     # also on data of your own, materialized before

Every ranker is trained as ever, on generated vectors with tier dropout; the pairs of cold-start seekers (no decision
in the training window) are then scored as each tier of a look-up would answer them. The student and the neighbours
know no cold-start seeker. `none` is a ranker trained without generated JDs.

The built-in market is a SIMULATION, and its generator is an ideal one, as a small language model has shown no gain: it
writes the JD of the job that fits the CV best, from another block of the market than the seeker's own. So its tables
say what the stand-ins keep of a gain that is there, not that there is one. A second ideal generator, which writes the
second-best job's, stands for a new contract in the last table: what a ranker of the first loses on mapped vectors.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from girl_features.config import GirlConfig, StudentConfig, load_config
from girl_features.contract import FeatureContract, SamplingContract
from girl_features.encoder import SentenceTransformerEncoder
from girl_features.errors import GirlError
from girl_features.evaluation.bootstrap import percentile_interval
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.evaluation.machine import machine_description
from girl_features.evaluation.results import EvaluationSlice, Measured, make_slice, measure
from girl_features.input.splits import cut_windows, ranking_split
from girl_features.input.tables import open_tables
from girl_features.integrations.rankers.registry import make_ranker
from girl_features.lookup.bundle import Bundle
from girl_features.lookup.vector_map import unit_rows
from girl_features.mapping.fit import SharedCVs, fit_map
from girl_features.mapping.losses import compare_mapped
from girl_features.pairs import join_pairs
from girl_features.progress import Progress
from girl_features.ranker import PairFeatures
from girl_features.sample.market import BLOCK_SEEKERS, SPAN_DAYS, Jobs, People, simulate_block, true_fit
from girl_features.sample.tables import block_tables
from girl_features.schema import CV, JD, Tier
from girl_features.store.parts import PartsStore
from girl_features.tiers import at_tier, bundle_stand_ins
from girl_features.trainers.student import RankedPairs, StudentData, fit_student, read_student_data

TRAIN_FROM, TRAIN_UNTIL, TEST_FROM = 0.55, 0.82, 0.88  # shares of the decisions, by time: the default windows
TIER_DROPOUT = 0.3
N_NEIGHBOURS = 10
RANKER_WEIGHT = 0.3  # of the student that also learns a dot ranker's loss
SHARE_NEEDS = "the generated tier's own gain to be shown"


class Data(NamedTuple):
    """One data set, split by time, and what a student may learn from."""

    name: str
    simulation: bool
    parts: RankingParts
    taught: StudentData  # without the test part's cold-start seekers
    contract: FeatureContract
    renewed: RankingParts | None = None  # the same pairs under a second generator
    both: SharedCVs | None = None  # CVs under both, without seekers of the test part


class Gain(NamedTuple):
    """One tier of one predictor on the cold-start pairs."""

    data: str
    predictor: str
    tier: str
    n_pairs: int
    n_seekers: int
    auc: float
    auc_seed_sd: float
    logloss: float
    auc_gain: float | None  # over `none`
    auc_gain_low: float | None
    auc_gain_high: float | None
    logloss_gain: float | None
    logloss_gain_low: float | None
    logloss_gain_high: float | None
    auc_kept: float | None  # share of the generated tier's gain in AUC; None where that is not shown
    auc_kept_low: float | None
    auc_kept_high: float | None
    logloss_kept: float | None


# the simulated market


def market(seed: int, n_blocks: int, encoder: SentenceTransformerEncoder, cache: Path) -> Data:
    """A simulated market with two ideal generators."""
    blocks = [simulate_block(seed, block) for block in range(n_blocks)]
    tables = [block_tables(seed, block, BLOCK_SEEKERS, 0) for block in range(n_blocks)]
    texts: dict[str, int] = {}

    def rows(column: Any, at: np.ndarray) -> np.ndarray:
        return np.array([texts.setdefault(text, len(texts)) for text in column.take(at).to_pylist()])

    versions, decisions = [], []
    for block, own in enumerate(blocks):
        other = (block + 1) % n_blocks
        offered = Jobs(*(column[None, :] for column in blocks[other].jobs))
        fits = true_fit(People(*(column[:, None] for column in own.versions.people)), offered)
        order = np.argsort(-fits, axis=1, kind="stable")
        n = len(order)
        seeker = np.array([f"{block}-{i}" for i in own.versions.seeker.tolist()])
        cv = rows(tables[block]["job_seekers"][CV], np.arange(n))
        best, second = (rows(tables[other]["jobs"][JD], order[:, place]) for place in (0, 1))
        versions.append((seeker, cv, best, second, own.versions.updated_at))
        d = own.decisions
        jd = rows(tables[block]["jobs"][JD], d.job)
        decisions.append(
            (seeker[d.version], cv[d.version], jd, best[d.version], second[d.version], d.matched, d.decided_at)
        )
    vectors = encoded(list(texts), encoder, cache / f"market-{seed}-{n_blocks}.npy")
    return _market_data(seed, vectors, *(_joined(rows) for rows in (versions, decisions)), encoder)


def _joined(rows: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def _market_data(
    seed: int, vectors: np.ndarray, versions: list[np.ndarray], decisions: list[np.ndarray], encoder: Any
) -> Data:
    seeker, cv, jd, best, second, matched, decided_at = decisions
    ends = np.quantile(decided_at, (TRAIN_FROM, TRAIN_UNTIL, TEST_FROM))
    contracts = [_ideal(encoder, name) for name in ("ideal", "second-best")]
    warm = set(seeker[(decided_at >= ends[0]) & (decided_at < ends[1])].tolist())
    is_cold = np.array([name not in warm for name in seeker.tolist()])

    def parts(generated: np.ndarray, contract: FeatureContract) -> RankingParts:
        tier = np.full(len(cv), Tier.GENERATED, np.int8)
        features = PairFeatures(vectors[cv], vectors[jd], vectors[generated], tier, contract.fingerprint)
        masks = [
            (decided_at >= low) & (decided_at < high)
            for low, high in zip(ends, [*ends[1:], SPAN_DAYS + 1], strict=True)
        ]
        return RankingParts(*(LabelledPairs(features.take(m), matched[m], seeker[m], is_cold[m]) for m in masks))

    in_test = set(seeker[decided_at >= ends[2]].tolist())
    of, of_cv, of_best, of_second, updated_at = versions
    known = (updated_at < ends[1]) & np.array([name not in in_test or name in warm for name in of.tolist()])
    untested = np.array([name not in in_test for name in of.tolist()])
    taught = StudentData(of[known].tolist(), vectors[of_cv[known]], vectors[of_best[known]])
    both = SharedCVs(of[untested], vectors[of_second[untested]], vectors[of_best[untested]])
    old, new = (parts(generated, c) for generated, c in zip((best, second), contracts, strict=True))
    return Data(f"market {seed}", True, old, taught, contracts[0], new, both)


def _ideal(encoder: SentenceTransformerEncoder, name: str) -> FeatureContract:
    return FeatureContract(
        generator=name,
        weights_sha256="0" * 64,
        adapter_sha256=None,
        trained_until=datetime(2000, 1, 1, tzinfo=UTC),
        prompt_version=name,
        max_cv_tokens=1,
        sampling=SamplingContract(n=1, temperature=0, top_p=1, max_new_tokens=1, seed=0),
        encoder=encoder.contract,
    )


def encoded(texts: list[str], encoder: SentenceTransformerEncoder, cache: Path) -> np.ndarray:
    """(n, d) vectors of the texts, from the file `cache` where it has them."""
    if cache.is_file():
        vectors = np.load(cache, allow_pickle=False)
        if len(vectors) == len(texts):
            return np.asarray(vectors)
    parts = []
    with Progress("encode", len(texts), "texts") as progress:
        for start in range(0, len(texts), 256):
            parts.append(encoder.encode(texts[start : start + 256]).vectors)
            progress.advance(len(parts[-1]))
    cache.parent.mkdir(parents=True, exist_ok=True)
    np.save(cache, np.concatenate(parts), allow_pickle=False)
    return np.concatenate(parts)


# data of a config, materialized before


def materialized(config: GirlConfig, simulation: bool) -> Data:
    """The ranking windows of a config under the newest contract of its store."""
    store = PartsStore(config.store_dir)
    contract = store.newest_contract()
    with open_tables(config) as tables:
        split = ranking_split(tables, cut_windows(tables, config.windows))
    parts = RankingParts(*(LabelledPairs.of(join_pairs(config.feast_repo, contract, part), part) for part in split))
    cold = set(parts.test.seeker_ids[parts.test.is_cold_start].tolist())
    taught = read_student_data(store, contract, config.student.max_rows)
    taught = taught.take(np.array([i for i, name in enumerate(taught.seeker_ids) if name not in cold]))
    return Data(config.name, simulation, parts, taught, contract)


# measuring


def measure_data(data: Data, predictors: list[str], seeds: list[int], n_bootstrap: int) -> dict[str, Any]:
    """Rows of Gain, the students' own measures, and what mapped vectors cost where there is a second generator."""
    train = data.parts.train
    pairs = RankedPairs(train.features.cv, train.features.jd, train.labels)
    students = {
        "student": fit_student(data.taught, StudentConfig()),
        "student + ranker's loss": fit_student(data.taught, StudentConfig(ranker_weight=RANKER_WEIGHT), pairs),
    }
    bundle = Bundle(
        contract=data.contract,
        prior=data.taught.generated.mean(axis=0),
        cv_mean=data.taught.cvs.mean(axis=0),
        student=students["student"].student,
        neighbours_cv=unit_rows(data.taught.cvs),
        neighbours_generated=data.taught.generated,
    )
    stand_ins = bundle_stand_ins(bundle, N_NEIGHBOURS)
    test = data.parts.test
    lower = stand_ins(test.features)
    views = {
        "prior": at_tier(test.features, Tier.PRIOR, lower[Tier.PRIOR]),
        "neighbours": at_tier(test.features, Tier.NEIGHBOURS, lower[Tier.NEIGHBOURS]),
        "student": at_tier(test.features, Tier.STUDENT, lower[Tier.STUDENT]),
        "student + ranker's loss": at_tier(
            test.features, Tier.STUDENT, students["student + ranker's loss"].student(test.features.cv)
        ),
        "generated": test.features,
    }
    part = make_slice("cold", test.labels, test.seeker_ids, test.is_cold_start, n_bootstrap, 0)
    rows: list[Gain] = []
    with Progress("rankers", 2 * len(predictors) * len(seeds), "fits") as progress:
        for predictor in predictors:
            scores: dict[str, list[np.ndarray]] = {name: [] for name in ("none", *views)}
            for seed in seeds:
                base = make_ranker(predictor, "base", seed)
                base.fit(train.features, train.labels, data.parts.valid.features, data.parts.valid.labels)
                scores["none"].append(base.score(test.features))
                progress.advance()
                ranker = make_ranker(predictor, "enhanced", seed, TIER_DROPOUT, stand_ins)
                ranker.fit(train.features, train.labels, data.parts.valid.features, data.parts.valid.labels)
                for name, features in views.items():
                    scores[name].append(ranker.score(features))
                progress.advance()
            rows += gains(data.name, predictor, scores, part)
    losses = []
    if data.renewed is not None and data.both is not None:
        fitted = fit_map(data.both)
        for loss in compare_mapped(data.parts, data.renewed, fitted.map, predictors, seeds, n_bootstrap, make_ranker):
            losses.append({"data": data.name, "kind": fitted.kind, "cosine": fitted.cosine, **loss._asdict()})
    return {
        "rows": [row._asdict() for row in rows],
        "students": [{"data": data.name, "name": name, **fitted.measures} for name, fitted in students.items()],
        "losses": losses,
    }


def gains(data: str, predictor: str, scores: dict[str, list[np.ndarray]], part: EvaluationSlice) -> list[Gain]:
    """A row for each tier, `none` first."""
    measured = {name: measure(np.stack(own), part) for name, own in scores.items()}
    none, generated = measured["none"], measured["generated"]
    if none is None or generated is None:
        raise GirlError(f"the cold-start pairs of {data} are of one class; simulate more seekers")
    whole = _over(generated, none)
    is_shown = whole["auc"][1] is not None and whole["auc"][1] > 0
    rows = []
    for name, own in measured.items():
        assert own is not None
        auc, loss = (None, None, None), (None, None, None)
        kept: tuple[float | None, ...] = (None, None, None)
        loss_kept = None
        if name != "none":
            over = _over(own, none)
            auc, loss = over["auc"], over["logloss"]
            if is_shown and own.resampled_auc is not None and none.resampled_auc is not None:
                assert generated.resampled_auc is not None
                ratio = (own.resampled_auc - none.resampled_auc) / (generated.resampled_auc - none.resampled_auc)
                kept = (auc[0] / whole["auc"][0], *percentile_interval(ratio))
                loss_kept = loss[0] / whole["logloss"][0]
        sd = float(own.auc.std(ddof=1)) if len(own.auc) > 1 else 0.0
        values = (float(own.auc.mean()), sd, float(own.log_loss.mean()))
        rows.append(
            Gain(data, predictor, name, len(part.labels), part.n_seekers, *values, *auc, *loss, *kept, loss_kept)
        )
    return rows


def _over(own: Measured, none: Measured) -> dict[str, tuple[Any, Any, Any]]:
    found = {}
    for name, a, b, ra, rb in (
        ("auc", own.auc, none.auc, own.resampled_auc, none.resampled_auc),
        ("logloss", own.log_loss, none.log_loss, own.resampled_log_loss, none.resampled_log_loss),
    ):
        ends = (None, None) if ra is None or rb is None else percentile_interval(ra - rb)
        found[name] = (float(a.mean() - b.mean()), *ends)
    return found


# showing


def markdown(result: dict[str, Any], command: str) -> str:
    lines = ["# Cold start: what each tier keeps", "", f"    {command}", ""]
    lines += [f"- **Date:** {datetime.now(UTC).date()}", f"- **Machine:** {machine_description()}"]
    lines += [f"- **Rankers:** seeds {result['seeds']}, tier dropout {TIER_DROPOUT}", ""]
    lines += [
        "Pairs of seekers without a decision in the training window. Gains are over `none`, a ranker without any",
        "",
    ]
    lines[-2:] = [
        "Pairs of seekers without a decision in the training window. Gains are over `none`, a ranker trained without",
        "generated JDs; intervals are 95 %, seekers resampled, seeds averaged. *Kept* is the share of the generated",
        f"tier's gain, and needs {SHARE_NEEDS}. The student and the neighbours have seen none of these seekers.",
        "",
    ]
    for data in result["data"]:
        name = data["name"] + (" (SIMULATION, ideal generator)" if data["ideal"] else "")
        rows = [row for row in result["rows"] if row["data"] == data["name"]]
        lines += [f"## {name}: {rows[0]['n_pairs']} pairs of {rows[0]['n_seekers']} seekers", ""]
        lines += ["| predictor | tier | AUC | gain | gain, 95 % | LogLoss | gain | kept, AUC | 95 % | kept, LogLoss |"]
        lines += ["|---" * 10 + "|"]
        for row in rows:
            cells = [row["predictor"], row["tier"], f"{row['auc']:.4f} ± {row['auc_seed_sd']:.4f}"]
            cells += [_signed(row["auc_gain"]), _between(row["auc_gain_low"], row["auc_gain_high"])]
            cells += [f"{row['logloss']:.4f}", _signed(row["logloss_gain"]), _percent(row["auc_kept"])]
            ends = (row["auc_kept_low"], row["auc_kept_high"])
            cells += [" to ".join(map(_percent, ends)) if ends[0] is not None else "", _percent(row["logloss_kept"])]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
        lines += ["| student | CVs | parameters | cosine | linear | neighbours | prior |", "|---" * 7 + "|"]
        for one in result["students"]:
            if one["data"] == data["name"]:
                cosines = (one[f"cosine_{key}"] for key in ("student", "linear", "neighbours", "prior"))
                shown = " | ".join(f"{cosine:.3f}" for cosine in cosines)
                lines.append(f"| {one['name']} | {one['n_cvs']} | {one['n_parameters']} | {shown} |")
        lines += ["", "(Cosines to the generator's own vectors, on held-out seekers.)", ""]
    if result["losses"]:
        lines += ["## A ranker of an old contract on mapped vectors of a new one (SIMULATION)", ""]
        lines += ["| data | predictor | map | cosine | AUC, old | AUC, mapped | AUC, trained again | cost | 95 % |"]
        lines += ["|---" * 9 + "|"]
        for loss in result["losses"]:
            cells = [loss["data"], loss["predictor"], loss["kind"], f"{loss['cosine']:.3f}"]
            cells += [f"{loss[key]:.4f}" for key in ("auc_old", "auc_mapped", "auc_retrained")]
            cells += [_signed(loss["auc_loss"]), _between(loss["auc_loss_low"], loss["auc_loss_high"])]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.4f}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:+.4f}, {high:+.4f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small market, one predictor and seed")
    parser.add_argument("--seekers", type=int, default=2048, help="of each simulated market, in blocks of 512")
    parser.add_argument("--markets", type=int, default=3, help="simulated markets, each of a seed of its own")
    parser.add_argument(
        "--config", type=Path, action="append", default=[], help="a girl.yaml, materialized; repeatable"
    )
    parser.add_argument("--predictors", nargs="+", default=["mlp", "lightgbm"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache", type=Path, default=Path(".girl/cold-start"), help="keeps encoded texts")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    given = parser.parse_args()
    n_blocks, n_markets = max(2, -(-given.seekers // BLOCK_SEEKERS)), given.markets
    predictors, seeds, n_bootstrap = given.predictors, given.seeds, 1000
    if given.quick:
        n_blocks, n_markets, predictors, seeds, n_bootstrap = 2, 1, ["lightgbm"], [0], 200
    result: dict[str, Any] = {"seeds": seeds, "data": [], "rows": [], "students": [], "losses": []}
    encoder = SentenceTransformerEncoder()
    work = [lambda seed=seed: market(seed, n_blocks, encoder, given.cache) for seed in range(n_markets)]
    work += [lambda path=path: materialized(load_config(path), False) for path in given.config]
    for load in work:
        data = load()
        found = measure_data(data, predictors, seeds, n_bootstrap)
        result["data"].append({"name": data.name, "ideal": data.simulation, "contract": data.contract.fingerprint})
        for name in ("rows", "students", "losses"):
            result[name] += found[name]
        print(f"{data.name}: done", file=sys.stderr)
    page = markdown(result, "python benchmarks/cold_start.py " + " ".join(sys.argv[1:]))
    print(page)
    for path, text in ((given.json, json.dumps(result, indent=1)), (given.markdown, page)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
