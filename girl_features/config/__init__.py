"""The settings of `girl.yaml` as one frozen model, `GirlConfig`, and the functions that load and write it."""

from girl_features.config.loading import load_config, write_resolved
from girl_features.config.settings import (
    NAME_PATTERN,
    EngineSetting,
    FeastConfig,
    GateConfig,
    GeneratorConfig,
    GirlConfig,
    LookupConfig,
    PPOConfig,
    RayConfig,
    RewardConfig,
    SamplingConfig,
    SFTConfig,
    StudentConfig,
    TableConfig,
    TablesConfig,
    TinyConfig,
    WindowsConfig,
)
from girl_features.config.times import EPOCH_FORMATS

__all__ = [
    "EPOCH_FORMATS",
    "NAME_PATTERN",
    "EngineSetting",
    "FeastConfig",
    "GateConfig",
    "GeneratorConfig",
    "GirlConfig",
    "LookupConfig",
    "PPOConfig",
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
