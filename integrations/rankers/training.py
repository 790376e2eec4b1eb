"""`girl train ranker`: train a ranker on the ranking windows, save it for a service, measure it tier by tier."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.evaluation.compare import LabelledPairs
from girl_features.evaluation.metrics import auc, log_loss
from girl_features.evaluation.run import labelled_parts
from girl_features.input.splits import cut_windows, ranking_split
from girl_features.input.tables import open_tables
from girl_features.integrations.rankers.ranker_files import SavedRanker
from girl_features.integrations.rankers.registry import make_ranker, peek_ranker
from girl_features.ranker import Ranker
from girl_features.schema import Tier
from girl_features.store.user_files import keep_out_of_git
from girl_features.tiers import StandIns, at_tier, stand_ins_of


class TierResult(NamedTuple):
    """Metrics on the test window with every pair answered at one tier."""

    tier: str  # or `as_joined`: each pair at the tier the store has
    auc: float
    logloss: float  # nats per pair
    n: int  # test pairs


class TrainedRanker(NamedTuple):
    """Summary and metrics of a trained ranker."""

    folder: str
    predictor: str
    contract: str
    seed: int
    tier_dropout: float
    n_train: int
    n_valid: int
    tiers: list[TierResult]


def train_ranker(
    config: GirlConfig, contract: FeatureContract, predictor: str, folder: Path, seed: int = 0
) -> TrainedRanker:
    """Train `predictor` on the vectors of `contract`, save it to `folder` and measure it on the test window.

    Raises:
        CheckpointError: `folder` exists and does not hold a ranker.
        LeakageError: the generator was trained on decisions of the ranking windows.
        EmptyWindowError: a window has no decisions, or decisions of one class only.
        MissingVectorsError: a CV or JD is not in the store.
    """
    if folder.exists():
        peek_ranker(folder)  # refuses to replace anything but a ranker
    with open_tables(config) as tables:
        split = ranking_split(tables, cut_windows(tables, config.windows))
    train, valid, test = labelled_parts(config.feast_repo, contract, split)
    stand_ins = stand_ins_of(config.lookup, config.students_dir)
    ranker = make_ranker(predictor, "enhanced", seed, config.ranker.tier_dropout, stand_ins)
    ranker.fit(train.features, train.labels, valid.features, valid.labels)
    keep_out_of_git(config.workspace)
    _save(ranker, folder)
    return TrainedRanker(
        folder=str(folder),
        predictor=predictor,
        contract=contract.fingerprint,
        seed=seed,
        tier_dropout=config.ranker.tier_dropout,
        n_train=len(train.labels),
        n_valid=len(valid.labels),
        tiers=results_by_tier(ranker, test, stand_ins),
    )


def results_by_tier(ranker: Ranker, test: LabelledPairs, stand_ins: StandIns) -> list[TierResult]:
    """Measure AUC and log loss on the pairs as joined, and with the vectors of each lower tier in their place."""
    lower = stand_ins(test.features)
    features_at = {"as_joined": test.features}
    features_at |= {tier.name.lower(): at_tier(test.features, tier, lower[tier]) for tier in Tier if tier in lower}
    results = []
    for name, features in features_at.items():
        scores = ranker.score(features)
        results.append(TierResult(name, auc(test.labels, scores), log_loss(test.labels, scores), len(scores)))
    return results


def _save(ranker: SavedRanker, folder: Path) -> None:
    """Write to a temporary folder first, then rename, so that `folder` never holds a half-written ranker."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".ranker-", dir=folder.parent) as temporary:
        new_folder = Path(temporary) / "new"
        ranker.save(new_folder)
        if folder.exists():
            folder.rename(Path(temporary) / "old")
        new_folder.rename(folder)
