"""How much a generated JD could add on the sample market: AUC of the encoder's cosines against the truth.

    python benchmarks/sample_market.py --json docs/results/sample_market.json

In place of a generator stands an ideal one: the JD of the job that fits the seeker's CV best, taken from *another*
block than the seeker's own, so that it never is the very text under decision. Its shuffled twin belongs to some other
seeker: what its cosine is above .5 is popularity alone (demand differs by trade, remote jobs suit everybody), and
a ranker that sees CV and JD has no use for it. The last three rows are logistic regressions on element-wise products
and cosines, trained on the decisions between the 55 % and the 82 % quantile of time and tested after the 88 %: they
say what is left to add once a ranker has learnt from CV and JD alone.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from girl_features import schema
from girl_features.encoder import DEFAULT_ENCODER, SentenceTransformerEncoder
from girl_features.sample.market import BLOCK_SEEKERS, Jobs, People, simulate_block, true_fit
from girl_features.sample.tables import block_tables, write_sample

TRAIN_FROM, TRAIN_UNTIL, TEST_FROM = 0.55, 0.82, 0.88  # quantiles of decided_at


class Market(NamedTuple):
    """n decisions: the three texts of each, as rows of `texts`, and what came of it."""

    texts: list[str]
    cv: np.ndarray  # (n,) rows of texts
    jd: np.ndarray  # (n,)
    best: np.ndarray  # (n,)
    probability: np.ndarray  # (n,)
    matched: np.ndarray  # (n,) bool
    decided_at: np.ndarray  # (n,) days
    n_seekers: int


def simulate(n_blocks: int, seed: int) -> Market:
    texts: dict[str, int] = {}
    blocks = [simulate_block(seed, block) for block in range(n_blocks)]
    tables = [block_tables(seed, block, BLOCK_SEEKERS, 0) for block in range(n_blocks)]
    columns = []
    for block, market in enumerate(blocks):
        other = (block + 1) % n_blocks
        decisions, people = market.decisions, market.versions.people
        offered = Jobs(*(column[None, :] for column in blocks[other].jobs))
        best = true_fit(People(*(column[:, None] for column in people)), offered).argmax(axis=1)
        picked = (
            (tables[block]["job_seekers"][schema.CV], decisions.version),
            (tables[block]["jobs"][schema.JD], decisions.job),
            (tables[other]["jobs"][schema.JD], best[decisions.version]),
        )
        rows = [[texts.setdefault(t, len(texts)) for t in column.take(at).to_pylist()] for column, at in picked]
        columns.append((*rows, decisions.probability, decisions.matched, decisions.decided_at))
    joined = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Market(list(texts), *joined, n_blocks * BLOCK_SEEKERS)


def measure(market: Market, vectors: np.ndarray, seed: int) -> dict[str, float]:
    """AUC by row name."""
    c, j, best = vectors[market.cv], vectors[market.jd], vectors[market.best]
    shuffled = best[np.random.default_rng(seed).permutation(len(best))]
    y = market.matched
    rows = {
        "cosine(cv, jd)": roc_auc_score(y, (c * j).sum(axis=1)),
        "cosine(ideal jd, jd)": roc_auc_score(y, (best * j).sum(axis=1)),
        "cosine(shuffled ideal jd, jd)": roc_auc_score(y, (shuffled * j).sum(axis=1)),
        "true probability": roc_auc_score(y, market.probability),
    }
    train_from, train_until, test_from = np.quantile(market.decided_at, (TRAIN_FROM, TRAIN_UNTIL, TEST_FROM))
    train = (market.decided_at >= train_from) & (market.decided_at < train_until)
    test = market.decided_at >= test_from
    features = {
        "logistic(cv x jd)": (c,),
        "logistic(cv x jd, ideal jd x jd)": (c, best),
        "logistic(cv x jd, shuffled ideal jd x jd)": (c, shuffled),
    }
    for name, sides in features.items():
        x = np.hstack([part for side in sides for part in _products(side, j)])
        model = LogisticRegression(C=3.0, max_iter=1000).fit(x[train], y[train])
        rows[name] = roc_auc_score(y[test], model.decision_function(x[test]))
    return {name: round(float(auc), 4) for name, auc in rows.items()}


def _products(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    product = a * b
    return 20.0 * product, 5.0 * product.sum(axis=1, keepdims=True)  # about unit scale


def seekers_per_cpu_second(seed: int, n_seekers: int = 16 * BLOCK_SEEKERS) -> int:
    """How fast `write_sample` writes."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        write_sample(Path(folder), n_seekers=n_seekers, seed=seed)
        return round(n_seekers / (time.process_time() - began))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seekers", type=int, default=2000, help="rounded up to blocks of 512, at least two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    market = simulate(max(2, -(-arguments.seekers // BLOCK_SEEKERS)), arguments.seed)
    print(f"encoding {len(market.texts)} texts ...", file=sys.stderr)
    encoded = SentenceTransformerEncoder(arguments.encoder).encode(market.texts)
    report = {
        "n_seekers": market.n_seekers,
        "n_decisions": len(market.matched),
        "match_rate": round(float(market.matched.mean()), 4),
        "n_texts_truncated": int(encoded.truncated.sum()),
        "seekers_per_cpu_second": seekers_per_cpu_second(arguments.seed),
        "seed": arguments.seed,
        "encoder": arguments.encoder,
        "machine": platform.platform(),
        "auc": measure(market, encoded.vectors, arguments.seed),
    }
    for name, value in report.items():
        if name != "auc":
            print(f"{name:<20} {value}")
    print(f"\n{'AUC of':<45}")
    for name, auc in report["auc"].items():
        print(f"{name:<45}{auc:.3f}")
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
