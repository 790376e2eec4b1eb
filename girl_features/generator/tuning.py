"""Settings of training that depend on the base: full tuning or LoRA adapters, and the learning rate.

A base of 30 million parameters or more is tuned by LoRA, which takes less memory and time on CPUs: docs/adr/0021.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from girl_features.config import TINY_BASES, GirlConfig, PPOConfig, RewardConfig, SFTConfig

LORA_FROM = 30_000_000  # parameters
Settings = TypeVar("Settings", SFTConfig, RewardConfig, PPOConfig)


class _LearningRates(NamedTuple):
    tiny: float
    lora: float
    pretrained: float  # full tuning of a pretrained base


_SFT_RATES = _LearningRates(tiny=1e-3, lora=4e-4, pretrained=5e-5)
_REWARD_RATES = _LearningRates(tiny=3e-4, lora=4e-4, pretrained=5e-5)


def settle_tuning(settings: Settings, base: str, n_parameters: int) -> Settings:
    """Return `settings` with values in the place of `tuning: auto` and `learning_rate: null`.

    Args:
        settings: those of a stage.
        base: the base model, as the settings name it.
        n_parameters: number of parameters of the base.
    """
    tuning = settings.tuning
    if tuning == "auto":
        tuning = "lora" if base != "tiny" and n_parameters >= LORA_FROM else "full"
    learning_rate = settings.learning_rate
    if learning_rate is None:
        rates = _SFT_RATES if isinstance(settings, SFTConfig) else _REWARD_RATES
        learning_rate = rates.lora if tuning == "lora" else rates.tiny if base in TINY_BASES else rates.pretrained
    return settings.model_copy(update={"tuning": tuning, "learning_rate": learning_rate})


def recorded(settings: SFTConfig | RewardConfig | PPOConfig) -> dict[str, object]:
    """Return the settled settings of a stage as a training record keeps them.

    `precision: auto` is left out. It gives other values on other machines, on which the same generator is used.
    """
    values = settings.model_dump(mode="json")
    if values.get("precision") == "auto":
        del values["precision"]
    return values


def sft_settings(config: GirlConfig, n_parameters: int) -> dict[str, object]:
    """Return all settings, besides the data, that determine the stage-1 generator; its training record keeps them.

    The base has `n_parameters`.
    """
    base = config.generator.base
    settled = settle_tuning(config.sft, base, n_parameters)
    tiny = config.generator.tiny.model_dump(mode="json") if base == "tiny" else None
    style = {} if config.generator.prompt == "full" else {"prompt": config.generator.prompt}
    return {**recorded(settled), "max_cv_tokens": config.generator.max_cv_tokens, "tiny": tiny, **style}
