"""Measure how much a generated JD can add on the sample market: AUC of the encoder's cosines against the truth.

    python benchmarks/sample_market.py [--json FILE]

The generator is an ideal one: it writes the JD of the job that fits the CV best. Its shuffled twin gives each decision
the ideal JD of another seeker. Whatever the shuffled twin's cosine reaches above .5 is popularity alone: demand differs
by trade, and remote jobs suit everybody. A ranker that sees CV and JD does not need that.

The last three rows are logistic regressions on element-wise products and cosines. They learn from the decisions between
the 55 % and the 82 % quantile of time and are tested on those after the 88 % quantile. They show what the ideal JD adds
to a ranker that has learnt from CV and JD alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from ideal_market import TEST_FROM, TRAIN_FROM, TRAIN_UNTIL, MarketDecisions, ideal_market, n_blocks_for
from results_page import write_json
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from girl_features.encoder import DEFAULT_ENCODER, SentenceTransformerEncoder
from girl_features.evaluation.machine import machine_description
from girl_features.sample.market import BLOCK_SEEKERS
from girl_features.sample.tables import write_sample


def measure(
    decisions: MarketDecisions, cv: np.ndarray, jd: np.ndarray, ideal: np.ndarray, seed: int
) -> dict[str, float]:
    """Return the AUC of each row.

    Args:
        decisions: n decisions.
        cv: (n, d) unit vectors, as `jd` and `ideal`.
        jd: vectors of the job decided on.
        ideal: vectors of the JD that an ideal generator writes for the CV.
        seed: of the shuffled twin.
    """
    shuffled = ideal[np.random.default_rng(seed).permutation(len(ideal))]
    matched = decisions.matched
    scores = {
        "cosine(cv, jd)": (cv * jd).sum(axis=1),
        "cosine(ideal jd, jd)": (ideal * jd).sum(axis=1),
        "cosine(shuffled ideal jd, jd)": (shuffled * jd).sum(axis=1),
        "true probability": decisions.probability,
    }
    rows = {name: roc_auc_score(matched, score) for name, score in scores.items()}
    train_from, train_until, test_from = np.quantile(decisions.decided_at, (TRAIN_FROM, TRAIN_UNTIL, TEST_FROM))
    train = (decisions.decided_at >= train_from) & (decisions.decided_at < train_until)
    test = decisions.decided_at >= test_from
    features = {
        "logistic(cv x jd)": [cv],
        "logistic(cv x jd, ideal jd x jd)": [cv, ideal],
        "logistic(cv x jd, shuffled ideal jd x jd)": [cv, shuffled],
    }
    for name, sides in features.items():
        x = np.hstack([_products(side, jd) for side in sides])
        model = LogisticRegression(C=3.0, max_iter=1000).fit(x[train], matched[train])
        rows[name] = roc_auc_score(matched[test], model.decision_function(x[test]))
    return {name: round(float(auc), 4) for name, auc in rows.items()}


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (n, d + 1) products and cosines, scaled so that each column has about unit variance."""
    product = a * b
    return np.hstack([20.0 * product, 5.0 * product.sum(axis=1, keepdims=True)])


def seekers_per_cpu_second(seed: int, n_seekers: int = 16 * BLOCK_SEEKERS) -> int:
    """Return how many seekers `write_sample` writes in a CPU second."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        write_sample(Path(folder), n_seekers=n_seekers, seed=seed)
        return round(n_seekers / (time.process_time() - start))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seekers", type=int, default=2000, help="rounded up to blocks of 512, at least two")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    market = ideal_market(n_blocks_for(arguments.seekers), arguments.seed)
    decisions = market.decisions
    numbers = np.stack([decisions.cv, decisions.jd, decisions.best])
    used, places = np.unique(numbers, return_inverse=True)
    print(f"encoding {len(used)} texts ...", file=sys.stderr)
    encoded = SentenceTransformerEncoder(arguments.encoder).encode([market.texts[i] for i in used])
    cv, jd, ideal = encoded.vectors[places.reshape(numbers.shape)]
    report = {
        "n_seekers": market.n_seekers,
        "n_decisions": len(decisions.matched),
        "match_rate": round(float(decisions.matched.mean()), 4),
        "n_texts_truncated": int(encoded.truncated.sum()),
        "seekers_per_cpu_second": seekers_per_cpu_second(arguments.seed),
        "seed": arguments.seed,
        "encoder": arguments.encoder,
        "machine": machine_description(),
    }
    for name, value in report.items():
        print(f"{name:<24}{value}")
    auc = measure(decisions, cv, jd, ideal, arguments.seed)
    print(f"\n{'AUC of':<45}")
    for name, value in auc.items():
        print(f"{name:<45}{value:.3f}")
    write_json(arguments.json, {**report, "auc": auc})


if __name__ == "__main__":
    main()
