"""How much tier dropout a ranker should have: AUC and LogLoss by tier, for several shares.

    python benchmarks/tier_dropout.py market/girl.yaml [--json FILE]

Needs a workspace where `girl materialize` and `girl train student` have run. Means over the seeds, on the test window:
every pair as joined, and every pair answered at one tier.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from girl_features.config import load_config
from girl_features.integrations.rankers.registry import WITH_FALLBACK, make_ranker
from girl_features.integrations.rankers.training import ranking_parts, results_by_tier
from girl_features.store.parts import PartsStore
from girl_features.tiers import stand_ins_of

SHARES = (0.0, 0.1, 0.2, 0.35, 0.5)
SEEDS = (0, 1, 2)


def measure(path: Path) -> list[dict[str, Any]]:
    config = load_config(path)
    contract = PartsStore(config.store_dir).newest_contract()
    train, valid, test = ranking_parts(config, contract)
    stand_ins = stand_ins_of(config.lookup, config.students_dir)
    rows = []
    for predictor in WITH_FALLBACK:
        for share in SHARES:
            by_tier = defaultdict(list)
            for seed in SEEDS:
                ranker = make_ranker(predictor, "enhanced", seed, share, stand_ins)
                ranker.fit(train.features, train.labels, valid.features, valid.labels)
                for result in results_by_tier(ranker, test, stand_ins):
                    by_tier[result.tier].append((result.auc, result.logloss))
            for tier, values in by_tier.items():
                auc, logloss = np.mean(values, axis=0)
                row = {"predictor": predictor, "share": share, "tier": tier, "auc": auc, "logloss": logloss}
                rows.append({**row, "auc_seed_sd": np.std(values, axis=0, ddof=1)[0], "n": len(test.labels)})
                print(f"{predictor:10} {share:5.2f} {tier:11} AUC {auc:.4f}  LogLoss {logloss:.4f}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("config", type=Path)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args()
    rows = measure(arguments.config)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
