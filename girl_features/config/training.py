"""Settings of the generator's three training stages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from girl_features.config.section import Section


class SFTConfig(Section):
    """Stage 1: supervised fine-tuning on matched CV-JD pairs."""

    tuning: Literal["full", "lora"] = "full"
    lora_rank: int = Field(16, ge=1)
    epochs: float = Field(4, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(8, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    max_jd_tokens: int = Field(192, ge=8)
    holdout: float = Field(
        0.05, ge=0, lt=0.5, description="share of seekers held out to choose the epoch; 0 keeps the last epoch"
    )
    patience: int = Field(2, ge=1, description="epochs without a better held-out loss after which training stops")
    seed: int = 0
    max_steps: int = Field(-1, description="number of steps after which training stops; -1: no limit")


class RewardConfig(Section):
    """Stage 2: the reward model, trained on matched and mismatched JDs of one CV."""

    base: str | None = Field(None, description="a model by path or name; default: the trunk of the SFT generator")
    tuning: Literal["full", "lora"] = "full"
    lora_rank: int = Field(16, ge=1)
    epochs: float = Field(2, gt=0)
    learning_rate: float = Field(3e-4, gt=0)
    batch_size: int = Field(16, ge=1, description="pairs per step")
    pairs_per_cv: int | None = Field(
        4, ge=1, description="largest number of pairs of one CV, since its pairs share a few JDs; null: all pairs"
    )
    center_weight: float = Field(
        0.03, ge=0, description="weight of the term that pulls the mean score of a pair to 0: docs/adr/0009"
    )
    max_jd_tokens: int = Field(192, ge=8)
    holdout: float = Field(0.15, gt=0, lt=0.5, description="share of seekers held out to measure accuracy")
    seed: int = 0


class PPOConfig(Section):
    """Stage 3: PPO from recruiter feedback (GIRL, Algorithm 1; docs/adr/0009 lists where it departs from it)."""

    algo: Literal["ppo", "rloo", "grpo", "dpo"] = Field("ppo", description="all but `ppo` use TRL's trainers")
    n_generations: int = Field(4, ge=2, description="JDs per CV that are compared with each other (rloo, grpo)")
    dpo_beta: float = Field(0.3, gt=0)
    tuning: Literal["full", "lora"] = "full"
    lora_rank: int = Field(16, ge=1)
    iterations: int = Field(60, ge=1, description="rounds of sampling and learning")
    batch_size: int = Field(64, ge=2, description="CVs sampled per iteration")
    minibatch_size: int = Field(16, ge=1)
    epochs: int = Field(2, ge=1, description="passes over the samples of one iteration")
    learning_rate: float = Field(5e-5, gt=0)
    critic_learning_rate: float = Field(3e-4, gt=0)
    clip: float = Field(0.2, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    kl_weight: float = Field(0.05, ge=0, description="lambda, in reward per nat")
    kl_penalty: Literal["k1", "k3", "paper_kl"] = "k1"
    ratio: Literal["behaviour", "frozen"] = "behaviour"
    advantage: Literal["whitened", "plain"] = "whitened"
    target_kl: float | None = Field(
        2.0, gt=0, description="nats per JD; lambda is adapted to reach this value; null: lambda is fixed"
    )
    stop_kl: float = Field(5.0, gt=0, description="nats per JD at which the run stops")
    critic_warmup: int = Field(2, ge=0, description="first iterations, in which only the critic is trained")
    temperature: float = Field(
        1.0, gt=0, description="sampling temperature in training; log-probabilities are computed at it too"
    )
    unfinished_penalty: float = Field(1.0, ge=0, description="subtracted from the score of a JD without an end token")
    defect_penalty: float = Field(1.0, ge=0, description="subtracted from the score of an empty or looping JD")
    evaluate_every: int = Field(5, ge=1, description="iterations between evaluations and checkpoints")
    holdout: float = Field(0.1, gt=0, lt=0.5, description="share of seekers held out to choose the checkpoint")
    seed: int = 0
