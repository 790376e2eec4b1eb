"""girl.yaml -> one frozen model. Defaults, then the file, then `--set a.b=c`; unknown keys fail."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from girl_features.errors import ConfigError

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"  # names become folders and Feast projects: an allow-list


EngineSetting = Literal["auto", "transformers", "openvino", "openvino-float32", "vllm"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _as_utc(value: datetime | None) -> datetime | None:
    """The same moment in UTC; a time without a zone is read as UTC."""
    if value is None:
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class TableConfig(_Model):
    """Where one input table lies: a Parquet or CSV file (or glob), or a query, in DuckDB."""

    path: str | None = Field(None, description="Parquet or CSV file, or a glob of them")
    query: str | None = Field(None, description="SELECT run by DuckDB instead of a path")
    database: str | None = Field(None, description="DuckDB file the query reads; opened read-only")
    columns: dict[str, str] = Field(default_factory=dict, description="our column name -> yours")

    @model_validator(mode="after")
    def _path_or_query(self) -> TableConfig:
        if (self.path is None) == (self.query is None):
            raise ValueError("give either `path` or `query`, not both or neither")
        if self.database is not None and self.query is None:
            raise ValueError("`database` goes with `query`")
        return self


class TablesConfig(_Model):
    """The three input tables."""

    job_seekers: TableConfig
    jobs: TableConfig
    interactions: TableConfig


class WindowsConfig(_Model):
    """Ends of the five time windows before the test window, or the shares of decisions to cut them by.

    The windows follow each other: SFT, reward, RL, ranking train, ranking valid, ranking test. Each ends
    where the next begins; an end is exclusive.
    """

    sft_share: float = Field(0.40, gt=0, lt=1, description="share of all decisions, by time, for SFT")
    reward_share: float = Field(0.10, ge=0, lt=1)
    rl_share: float = Field(0.05, ge=0, lt=1)
    train_share: float = Field(0.27, gt=0, lt=1)
    valid_share: float = Field(0.06, gt=0, lt=1)
    sft_end: datetime | None = Field(None, description="give all five ends, or none for cuts by share")
    reward_end: datetime | None = None
    rl_end: datetime | None = None
    train_end: datetime | None = None
    valid_end: datetime | None = None

    @field_validator("sft_end", "reward_end", "rl_end", "train_end", "valid_end")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        return _as_utc(value)

    @model_validator(mode="after")
    def _check(self) -> WindowsConfig:
        ends = [self.sft_end, self.reward_end, self.rl_end, self.train_end, self.valid_end]
        given = [end for end in ends if end is not None]
        if given and len(given) < len(ends):
            raise ValueError("give all of sft_end, reward_end, rl_end, train_end, valid_end, or none of them")
        if given != sorted(given):
            raise ValueError("window ends must not go back in time: sft <= reward <= rl <= train <= valid")
        shares = self.sft_share + self.reward_share + self.rl_share + self.train_share + self.valid_share
        if shares >= 1:
            raise ValueError(f"the shares sum to {shares:.2f}; leave some for the test window")
        return self


class TinyConfig(_Model):
    """Shape of the embedded decoder, trained on the user's own tables."""

    vocab_size: int = Field(8192, ge=300, le=65536)
    hidden_size: int = Field(128, ge=16)
    n_layers: int = Field(4, ge=1)
    n_heads: int = Field(4, ge=1)
    pretrain_epochs: float = Field(2, ge=0, description="passes over the SFT window's CVs and JDs before SFT")
    pretrain_learning_rate: float = Field(3e-3, gt=0)
    embeddings_from: str | None = Field(
        "all-MiniLM-L6-v2", description="sentence encoder whose word vectors the token vectors start as; null: random"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> TinyConfig:
        if self.hidden_size % self.n_heads or (self.hidden_size // self.n_heads) % 2:
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of n_heads {self.n_heads}")
        return self


class GeneratorConfig(_Model):
    """Which language model writes the JDs."""

    base: str = Field("tiny", description="`tiny`, or a Hugging Face causal LM by path or name")
    engine: EngineSetting = Field(
        "auto", description="auto: vllm on GPUs, openvino on CPUs where installed, else transformers"
    )
    threads: int | None = Field(None, ge=1, description="of the CPU; default: one for small models, else all cores")
    checkpoint: Path | None = Field(None, description="a trained generator; default: the newest in workspace")
    stage: Literal["sft", "ppo", "rloo", "grpo", "dpo"] | None = Field(
        None, description="the newest of this stage, where there are several"
    )
    trained_until: datetime | None = Field(
        None, description="knowledge cut-off of an untuned base, used where there is no training record"
    )
    max_cv_tokens: int = Field(320, ge=8, description="the CV's first tokens kept in the prompt")
    tiny: TinyConfig = TinyConfig()
    batch_size: int | None = Field(
        None, ge=1, description="JDs written at once; default: 32, with vllm what it finds room for"
    )

    @field_validator("trained_until")
    @classmethod
    def _cutoff_utc(cls, value: datetime | None) -> datetime | None:
        return _as_utc(value)


class SFTConfig(_Model):
    """Stage 1: supervised fine-tuning on matched CV-JD pairs."""

    tuning: Literal["full", "lora"] = "full"
    lora_rank: int = Field(16, ge=1)
    epochs: float = Field(4, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(8, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    max_jd_tokens: int = Field(192, ge=8)
    holdout: float = Field(0.05, ge=0, lt=0.5, description="share of seekers kept to choose the epoch; 0: the last")
    patience: int = Field(2, ge=1, description="epochs with no better held-out loss after which training stops")
    seed: int = 0
    max_steps: int = Field(-1, description="stop after so many steps; -1 for all epochs")


class RewardConfig(_Model):
    """Stage 2: the reward model, on matched and mismatched JDs of one CV."""

    base: str | None = Field(None, description="a model by path or name; default: the SFT generator's trunk")
    tuning: Literal["full", "lora"] = "full"
    lora_rank: int = Field(16, ge=1)
    epochs: float = Field(2, gt=0)
    learning_rate: float = Field(3e-4, gt=0)
    batch_size: int = Field(16, ge=1, description="pairs a step")
    pairs_per_cv: int | None = Field(4, ge=1, description="at most: they share their few JDs; null: all")
    center_weight: float = Field(0.03, ge=0, description="pulls the scores of a pair to a mean of 0: docs/adr/0009")
    max_jd_tokens: int = Field(192, ge=8)
    holdout: float = Field(0.15, gt=0, lt=0.5, description="share of seekers kept to measure accuracy")
    seed: int = 0


class PPOConfig(_Model):
    """Stage 3: PPO from recruiter feedback (GIRL, Algorithm 1; docs/adr/0009 on where it departs)."""

    algo: Literal["ppo", "rloo", "grpo", "dpo"] = Field("ppo", description="all but `ppo` through TRL's trainers")
    n_generations: int = Field(4, ge=2, description="JDs a CV that are compared with each other (rloo, grpo)")
    dpo_beta: float = Field(0.3, gt=0)
    tuning: Literal["full", "lora"] = "full"
    lora_rank: int = Field(16, ge=1)
    iterations: int = Field(60, ge=1, description="rounds of sampling and learning")
    batch_size: int = Field(64, ge=2, description="CVs sampled an iteration")
    minibatch_size: int = Field(16, ge=1)
    epochs: int = Field(2, ge=1, description="passes over one iteration's samples")
    learning_rate: float = Field(5e-5, gt=0)
    critic_learning_rate: float = Field(3e-4, gt=0)
    clip: float = Field(0.2, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    kl_weight: float = Field(0.05, ge=0, description="lambda, reward a nat")
    kl_penalty: Literal["k1", "k3", "paper_kl"] = "k1"
    ratio: Literal["behaviour", "frozen"] = "behaviour"
    advantage: Literal["whitened", "plain"] = "whitened"
    target_kl: float | None = Field(2.0, gt=0, description="nats a JD that lambda is adapted towards; null: fixed")
    stop_kl: float = Field(5.0, gt=0, description="nats a JD at which the run stops")
    critic_warmup: int = Field(2, ge=0, description="first iterations that train the critic alone")
    temperature: float = Field(1.0, gt=0, description="of sampling in training; log-probabilities are taken at it")
    unfinished_penalty: float = Field(1.0, ge=0, description="off the score of a JD without an end token")
    defect_penalty: float = Field(1.0, ge=0, description="off the score of an empty or looping JD")
    evaluate_every: int = Field(5, ge=1, description="iterations between evaluations and checkpoints")
    holdout: float = Field(0.1, gt=0, lt=0.5, description="share of seekers whose CVs choose the checkpoint")
    seed: int = 0


class SamplingConfig(_Model):
    """How JDs are drawn."""

    n: int = Field(1, ge=1, le=64, description="JDs a CV")
    best_of: int | None = Field(None, ge=2, le=256, description="JDs drawn, of which the reward model keeps the best n")
    temperature: float = Field(0.7, ge=0, description="0 is greedy")
    top_p: float = Field(0.95, gt=0, le=1)
    max_new_tokens: int = Field(192, ge=1, description="a JD cut here is not stored: at least sft.max_jd_tokens")
    seed: int = 0

    @model_validator(mode="after")
    def _more_than_kept(self) -> SamplingConfig:
        if self.best_of is not None and self.best_of <= self.n:
            raise ValueError(f"best_of is {self.best_of}, but n = {self.n} of them are kept; draw more than that")
        return self


class EncoderConfig(_Model):
    """Which sentence encoder makes the vectors."""

    name: str = Field("all-MiniLM-L6-v2", description="sentence-transformers model by path or name")
    batch_size: int = Field(64, ge=1)
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 on CPUs with AMX, float32 elsewhere; a store keeps what it began with"
    )


class RayConfig(_Model):
    """Where, and on how many workers, `girl materialize --on ray` works."""

    address: str | None = Field(None, description="of a cluster; default: RAY_ADDRESS, else one on this machine alone")
    workers: int | None = Field(
        None, ge=1, description="each loads the models once; default: as many as there is room for"
    )
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)


class FeastConfig(_Model):
    """The Feast repo the features go to."""

    repo: Path | None = Field(None, description="folder of feature_store.yaml; default: workspace/feature_repo")
    online: bool = Field(True, description="write the newest row of each seeker to the online store")


class LookupConfig(_Model):
    """How a service's look-ups answer."""

    tiers: tuple[Literal["generated", "stale", "student", "neighbours", "prior"], ...] = Field(
        ("generated", "stale", "student", "neighbours", "prior"), description="those to use; prior always is"
    )
    deadline_ms: float = Field(50.0, gt=0, description="for all of one look-up")
    n_neighbours: int = Field(10, ge=1, description="stored CVs whose generated vectors are averaged")
    bundle: Path | None = Field(None, description="folder of `girl train student`; default: in the workspace")
    max_queued: int = Field(100_000, ge=1, description="CVs that may wait to be generated for")


class StudentConfig(_Model):
    """The student: a CV's vector to its generated JD's, for seekers without one."""

    hidden_size: int = Field(256, ge=0, description="of its hidden layer; 0 for a linear map")
    epochs: int = Field(30, ge=1, description="at most; the best by held-out cosine is kept")
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(256, ge=1)
    ranker_weight: float = Field(0.0, ge=0, description="of a dot ranker's loss on the ranking train window")
    holdout: float = Field(0.1, gt=0, lt=0.5, description="share of seekers kept to choose by and to measure on")
    max_rows: int = Field(100_000, ge=100, description="newest CVs to learn from, and to keep as neighbours")
    seed: int = 0


class RankerConfig(_Model):
    """How rankers meet the tiers of a look-up in training."""

    tier_dropout: float = Field(
        0.2, ge=0, le=1, description="share of training pairs at a lower tier, where `girl train student` has run"
    )


class EvaluateConfig(_Model):
    """How `girl evaluate` compares rows."""

    predictors: tuple[str, ...] = ("mlp", "dot", "lightgbm", "mlp-plain", "dot-plain", "lightgbm-plain")
    seeds: tuple[int, ...] = (0, 1, 2)
    n_bootstrap: int = Field(1000, ge=100)


class GirlConfig(_Model):
    """Everything `girl` needs to know, resolved."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = "girl"
    workspace: Path = Field(Path(".girl"), description="checkpoints, store and run records go here")
    tables: TablesConfig
    strict: bool = Field(False, description="any rejected row is an error")
    clock_skew_minutes: float = Field(10, ge=0, description="timestamps later than now by more are rejected")
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
    def _tiny_is_tuned_whole(self) -> GirlConfig:
        if self.generator.base == "tiny" and self.sft.tuning == "lora":
            raise ValueError("`tiny` has no weights an adapter could stand on: set sft.tuning to `full`")
        return self

    @property
    def store_dir(self) -> Path:
        """Where the Parquet parts lie."""
        return self.workspace / "store"

    @property
    def runs_dir(self) -> Path:
        """Where the records of batch runs lie."""
        return self.workspace / "runs"

    @property
    def feast_repo(self) -> Path:
        """Folder of feature_store.yaml."""
        return self.feast.repo or self.workspace / "feature_repo"

    @property
    def sft_settings(self) -> dict[str, object]:
        """What shapes the stage-1 generator besides its data, as its record keeps it."""
        tiny = self.generator.tiny.model_dump(mode="json") if self.generator.base == "tiny" else None
        return {**self.sft.model_dump(mode="json"), "max_cv_tokens": self.generator.max_cv_tokens, "tiny": tiny}

    @property
    def generators_dir(self) -> Path:
        """Where trained generators lie, one folder each."""
        return self.workspace / "generators"

    @property
    def bases_dir(self) -> Path:
        """Where pretrained `tiny` bases lie, one folder each."""
        return self.workspace / "bases"

    @property
    def exports_dir(self) -> Path:
        """Where generators in OpenVINO's format lie, one folder each; made again where it is deleted."""
        return self.workspace / "exports"

    @property
    def rewards_dir(self) -> Path:
        """Where trained reward models lie, one folder each."""
        return self.workspace / "rewards"

    @property
    def students_dir(self) -> Path:
        """Where bundles for ranking hosts lie, one folder a contract."""
        return self.workspace / "students"

    @property
    def trained_rankers_dir(self) -> Path:
        """Where rankers for a service lie, one folder a predictor and contract."""
        return self.workspace / "rankers"

    @property
    def queue_path(self) -> Path:
        """The file of CVs that wait to be generated for."""
        return self.workspace / "queue.db"


def load_config(path: Path, overrides: list[str] | None = None) -> GirlConfig:
    """Read girl.yaml, apply `a.b=c` overrides, check, and make its paths absolute (relative to the file).

    Raises:
        ConfigError: file absent, not YAML, unknown key, or a bad value; the message names each place.
    """
    if not path.is_file():
        raise ConfigError(f"no config at {str(path)!r}; `girl init DIR` writes one, or give --config FILE")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} should hold a mapping with at least `tables:`, found {type(raw).__name__}")
    for override in overrides or []:
        _apply_override(raw, override)
    try:
        config = GirlConfig.model_validate(raw)
    except ValidationError as error:
        places = "; ".join(
            f"{'.'.join(str(part) for part in e['loc']) or 'top level'}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(f"{path}: {places}") from error
    return resolve_paths(config, path.parent.resolve())


def resolve_paths(config: GirlConfig, base: Path) -> GirlConfig:
    """The same config with relative paths taken from `base`; a base model given by path too."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else (base / path.expanduser()).resolve()

    def table(t: TableConfig) -> TableConfig:
        update: dict[str, Any] = {}
        if t.path is not None:
            update["path"] = os.path.normpath(base / Path(t.path).expanduser())  # may be a glob: no resolve()
        if t.database is not None:
            update["database"] = str((base / Path(t.database).expanduser()).resolve())
        return t.model_copy(update=update)

    def model_name(name: str) -> str:
        local = base / Path(name).expanduser()
        return str(local.resolve()) if name != "tiny" and local.is_dir() else name

    tables = TablesConfig(
        job_seekers=table(config.tables.job_seekers),
        jobs=table(config.tables.jobs),
        interactions=table(config.tables.interactions),
    )
    encoder_of_tiny = config.generator.tiny.embeddings_from
    embeddings_from = None if encoder_of_tiny is None else model_name(encoder_of_tiny)
    generator = config.generator.model_copy(
        update={
            "checkpoint": absolute(config.generator.checkpoint),
            "base": model_name(config.generator.base),
            "tiny": config.generator.tiny.model_copy(update={"embeddings_from": embeddings_from}),
        }
    )
    encoder = config.encoder.model_copy(update={"name": model_name(config.encoder.name)})
    reward_base = config.reward.base
    reward = config.reward.model_copy(update={"base": model_name(reward_base) if reward_base else None})
    feast = config.feast.model_copy(update={"repo": absolute(config.feast.repo)})
    lookup = config.lookup.model_copy(update={"bundle": absolute(config.lookup.bundle)})
    return config.model_copy(
        update={
            "workspace": absolute(config.workspace),
            "tables": tables,
            "generator": generator,
            "encoder": encoder,
            "reward": reward,
            "feast": feast,
            "lookup": lookup,
        }
    )


def write_resolved(config: GirlConfig, path: Path) -> None:
    """Write what the run really used, every default filled in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes a.b=value, found {override!r}")
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: {parent!r} holds a value, not a mapping")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
