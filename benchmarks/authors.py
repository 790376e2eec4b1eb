"""Rank test decisions by words, style and popularity alone, to see if one author wrote both CV and JD of a match.

    python benchmarks/authors.py --config benchmarks/careers.yaml --config benchmarks/decision.yaml --json FILE

Nothing is trained and nothing is encoded: the weights of words and style are counted on the windows before the
rankers' windows.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
from measuring import describe, write_json

from girl_features.config import GirlConfig, load_config
from girl_features.evaluation.compare import LabelledPairs
from girl_features.evaluation.controls.columns import author_warning, column_aucs, control_columns
from girl_features.input.decision_texts import DecisionTexts, decisions_with_texts
from girl_features.input.splits import cut_windows
from girl_features.input.tables import open_tables
from girl_features.machine import machine_description
from girl_features.ranker import PairFeatures

NAMES = ("lexical", "style", "popularity")


def measure(config: GirlConfig, n_bootstrap: int) -> dict[str, object]:
    """Return the AUC of each control on the test window, with intervals by job seeker, and if it warns."""
    with open_tables(config) as tables:
        windows = cut_windows(tables, config.windows)
        history = DecisionTexts.of(decisions_with_texts(tables, None, windows.rl_end))
        test = DecisionTexts.of(decisions_with_texts(tables, windows.valid_end, None))
    [columns] = control_columns(history, [test], NAMES, windows.rl_end, None)
    n = len(test.matched)
    nothing = np.zeros((n, 1), np.float32)
    features = PairFeatures(nothing, nothing, nothing, np.zeros(n, np.int8), "", columns)
    rows = column_aucs(LabelledPairs(features, test.matched, test.job_seeker_ids, np.zeros(n, bool)), n_bootstrap)
    figures: dict[str, object] = {"config": config.name, "n_pairs": n, "n_seekers": len(set(test.job_seeker_ids))}
    for row in rows:
        figures |= {row.name: row.auc, f"{row.name}_low": row.auc_low, f"{row.name}_high": row.auc_high}
    return {**figures, "warns": author_warning(rows) is not None}


def main() -> None:
    """Measure each config, print its figures, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, action="append", help="a girl.yaml; repeatable")
    parser.add_argument("--n-bootstrap", type=int, default=1000, help="resamples of the seekers (default: 1000)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    rows = []
    for path in arguments.config:
        rows.append(measure(load_config(path), arguments.n_bootstrap))
        print(describe(rows[-1]), flush=True)
    if arguments.json is not None:
        write_json(arguments.json, {"command": shlex.join(sys.argv), "machine": machine_description(), "rows": rows})


if __name__ == "__main__":
    main()
