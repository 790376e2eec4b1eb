"""GirlConfig: all settings of one workspace, and where its files are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from girl_features.config.data import TablesConfig, WindowsConfig
from girl_features.config.generation import EncoderConfig, GeneratorConfig, RayConfig, SamplingConfig
from girl_features.config.ranking import EvaluateConfig, FeastConfig, LookupConfig, RankerConfig, StudentConfig
from girl_features.config.section import Section
from girl_features.config.training import PPOConfig, RewardConfig, SFTConfig

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"  # names become folders and Feast projects, so only safe characters are allowed


class GirlConfig(Section):
    """All settings of `girl`: the defaults, then girl.yaml, then `--set`."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = "girl"
    workspace: Path = Field(Path(".girl"), description="folder of checkpoints, the store and run records")
    tables: TablesConfig
    strict: bool = Field(False, description="a single rejected row is an error")
    clock_skew_minutes: float = Field(10, ge=0, description="times later than now by more than this are rejected")
    windows: WindowsConfig = WindowsConfig()
    generator: GeneratorConfig = GeneratorConfig()
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    sampling: SamplingConfig = SamplingConfig()
    encoder: EncoderConfig = EncoderConfig()
    chunk_size: int = Field(256, ge=1, description="CVs generated, encoded and written at a time")
    ray: RayConfig = RayConfig()
    feast: FeastConfig = FeastConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    ranker: RankerConfig = RankerConfig()
    lookup: LookupConfig = LookupConfig()
    student: StudentConfig = StudentConfig()

    @model_validator(mode="after")
    def _tiny_is_tuned_in_full(self) -> GirlConfig:
        if self.generator.base == "tiny" and self.sft.tuning == "lora":
            raise ValueError("`tiny` has no pretrained weights for an adapter to add to: set sft.tuning to `full`")
        return self

    @property
    def store_dir(self) -> Path:
        """Folder of the Parquet parts."""
        return self.workspace / "store"

    @property
    def runs_dir(self) -> Path:
        """Folder of the records of batch runs."""
        return self.workspace / "runs"

    @property
    def feast_repo(self) -> Path:
        """Folder of feature_store.yaml."""
        return self.feast.repo or self.workspace / "feature_repo"

    @property
    def sft_settings(self) -> dict[str, object]:
        """All settings, besides the data, that determine the stage-1 generator; its training record keeps them."""
        tiny = self.generator.tiny.model_dump(mode="json") if self.generator.base == "tiny" else None
        return {**self.sft.model_dump(mode="json"), "max_cv_tokens": self.generator.max_cv_tokens, "tiny": tiny}

    @property
    def generators_dir(self) -> Path:
        """Folder of trained generators, one subfolder each."""
        return self.workspace / "generators"

    @property
    def bases_dir(self) -> Path:
        """Folder of pretrained `tiny` bases, one subfolder each."""
        return self.workspace / "bases"

    @property
    def exports_dir(self) -> Path:
        """Folder of generators in OpenVINO's format, one subfolder each; a deleted one is exported again."""
        return self.workspace / "exports"

    @property
    def rewards_dir(self) -> Path:
        """Folder of trained reward models, one subfolder each."""
        return self.workspace / "rewards"

    @property
    def students_dir(self) -> Path:
        """Folder of the bundles for ranking hosts, one subfolder per contract."""
        return self.workspace / "students"

    @property
    def trained_rankers_dir(self) -> Path:
        """Folder of the rankers for a service, one subfolder per predictor and contract."""
        return self.workspace / "rankers"

    @property
    def queue_path(self) -> Path:
        """File of the CVs that wait for generation."""
        return self.workspace / "queue.db"
