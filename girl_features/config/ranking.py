"""Settings of what uses the vectors: the Feast repo, look-ups, the student, rankers and their evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from girl_features.config.section import Section


class FeastConfig(Section):
    """The Feast repo that receives the features."""

    repo: Path | None = Field(None, description="folder of feature_store.yaml; default: workspace/feature_repo")
    online: bool = Field(True, description="write the newest row of each seeker to the online store")


class LookupConfig(Section):
    """How the look-ups of a service answer."""

    tiers: tuple[Literal["generated", "stale", "student", "neighbours", "prior"], ...] = Field(
        ("generated", "stale", "student", "neighbours", "prior"),
        description="tiers that may answer; prior is always one of them",
    )
    deadline_ms: float = Field(50.0, gt=0, description="time limit of one whole look-up")
    n_neighbours: int = Field(10, ge=1, description="stored CVs whose generated vectors are averaged")
    bundle: Path | None = Field(None, description="folder of `girl train student`; default: in the workspace")
    max_queued: int = Field(100_000, ge=1, description="largest number of CVs that wait for generation")


class StudentConfig(Section):
    """The student model: it predicts the generated-JD vector from the CV vector, for seekers who have none."""

    hidden_size: int = Field(256, ge=0, description="width of the hidden layer; 0 for a linear map")
    epochs: int = Field(30, ge=1, description="largest number of epochs; the best by held-out cosine is kept")
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(256, ge=1)
    ranker_weight: float = Field(0.0, ge=0, description="weight of a dot ranker's loss on the ranking train window")
    holdout: float = Field(
        0.1, gt=0, lt=0.5, description="share of seekers held out to choose the epoch and to measure"
    )
    max_rows: int = Field(100_000, ge=100, description="newest CVs that are learned from and kept as neighbours")
    seed: int = 0


class RankerConfig(Section):
    """How rankers meet the tiers of a look-up in training."""

    tier_dropout: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of training pairs moved to a lower tier, if `girl train student` has been run",
    )


class EvaluateConfig(Section):
    """How `girl evaluate` compares rankers."""

    predictors: tuple[str, ...] = ("mlp", "dot", "lightgbm", "mlp-plain", "dot-plain", "lightgbm-plain")
    seeds: tuple[int, ...] = (0, 1, 2)
    n_bootstrap: int = Field(1000, ge=100)
