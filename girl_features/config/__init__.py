"""The settings of `girl.yaml` as one frozen model, `GirlConfig`, and the functions that load and write it."""

from girl_features.config.data import TableConfig, TablesConfig, WindowsConfig
from girl_features.config.generation import (
    EncoderConfig,
    EngineSetting,
    GeneratorConfig,
    RayConfig,
    SamplingConfig,
    TinyConfig,
)
from girl_features.config.loading import load_config, write_resolved
from girl_features.config.model import NAME_PATTERN, GirlConfig
from girl_features.config.ranking import EvaluateConfig, FeastConfig, LookupConfig, RankerConfig, StudentConfig
from girl_features.config.training import PPOConfig, RewardConfig, SFTConfig

__all__ = [
    "NAME_PATTERN",
    "EncoderConfig",
    "EngineSetting",
    "EvaluateConfig",
    "FeastConfig",
    "GeneratorConfig",
    "GirlConfig",
    "LookupConfig",
    "PPOConfig",
    "RankerConfig",
    "RayConfig",
    "RewardConfig",
    "SFTConfig",
    "SamplingConfig",
    "StudentConfig",
    "TableConfig",
    "TablesConfig",
    "TinyConfig",
    "WindowsConfig",
    "load_config",
    "write_resolved",
]
