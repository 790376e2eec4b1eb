"""GirlConfig, all settings of one workspace, after the sections of `girl.yaml` that it consists of."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from girl_features.config.times import EPOCH_FORMATS, check_time_format, check_time_zone

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"  # names become folders and Feast projects, so only safe characters are allowed


class Section(BaseModel):
    """A part of `girl.yaml`: its values never change, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _as_utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


UTCTime = Annotated[datetime, AfterValidator(_as_utc)]  # a time without a zone is read as UTC


class TableConfig(Section):
    """Location of one input table: a Parquet or CSV file, a glob of such files, or a query that DuckDB runs."""

    path: str | None = None  # Parquet or CSV file, or a glob; may contain ${VARIABLE}
    # SELECT that DuckDB runs, instead of a path; may contain ${VARIABLE}, between the quotes of a string
    query: str | None = None
    database: str | None = None  # DuckDB file that the query reads, opened read-only; may contain ${VARIABLE}
    columns: dict[str, str] = Field(default_factory=dict)  # our column name -> the table's column name
    quoting: Literal["csv", "none"] | None = None  # of CSV and TSV files; "none" is that of databases, with escapes
    # pattern of times that are texts in another format than ISO, or the unit of times that are numbers since 1970
    time_format: Annotated[str, AfterValidator(check_time_format)] | None = None
    time_zone: Annotated[str, AfterValidator(check_time_zone)] | None = None  # of times without a zone; default: UTC
    strip_html: bool = False  # remove tags from the table's texts, and replace entities by their characters

    @model_validator(mode="after")
    def _path_or_query(self) -> TableConfig:
        if (self.path is None) == (self.query is None):
            raise ValueError("give either `path` or `query`, not both or neither")
        if self.database is not None and self.query is None:
            raise ValueError("`database` goes with `query`")
        if self.quoting is not None and self.path is None:
            raise ValueError("`quoting` goes with `path`")
        if self.time_zone is not None and self.time_format in EPOCH_FORMATS:
            raise ValueError(f"`time_format: {self.time_format}` counts from 1970 in UTC; leave out `time_zone`")
        return self


class TablesConfig(Section):
    """The three input tables."""

    job_seekers: TableConfig
    jobs: TableConfig
    interactions: TableConfig


class WindowsConfig(Section):
    """Ends of the five time windows before the test window, or the shares of decisions that set these ends.

    The windows follow each other: SFT, reward, RL, ranking train, ranking valid, ranking test. Each ends
    where the next begins; an end is exclusive.
    """

    sft_share: float = Field(0.40, gt=0, lt=1)  # share of all decisions, by time, for SFT
    reward_share: float = Field(0.10, ge=0, lt=1)
    rl_share: float = Field(0.05, ge=0, lt=1)
    train_share: float = Field(0.27, gt=0, lt=1)
    valid_share: float = Field(0.06, gt=0, lt=1)
    sft_end: UTCTime | None = None  # give all five ends, or none to use the shares
    reward_end: UTCTime | None = None
    rl_end: UTCTime | None = None
    train_end: UTCTime | None = None
    valid_end: UTCTime | None = None

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


TierName = Literal["generated", "stale", "student", "neighbours", "prior"]
TuningSetting = Literal["auto", "full", "lora"]
PrecisionSetting = Literal["auto", "float32", "bfloat16"]
TINY_BASES = ("tiny", "tiny-pretrained")  # small decoders with a prompt of their own
PromptStyle = Literal["full", "short"]
EngineSetting = Literal["auto", "transformers", "openvino", "openvino-float32", "vllm"]


class TinyConfig(Section):
    """Shape of the small built-in decoder, which is trained on the user's own tables."""

    vocab_size: int = Field(8192, ge=300, le=65536)
    hidden_size: int = Field(128, ge=16)
    n_layers: int = Field(4, ge=1)
    n_heads: int = Field(4, ge=1)
    pretrain_epochs: float = Field(2, ge=0)  # passes over the SFT window's CVs and JDs before SFT
    pretrain_learning_rate: float = Field(3e-3, gt=0)
    # sentence encoder whose word vectors initialize the token vectors; null: random
    embeddings_from: str | None = "all-MiniLM-L6-v2"

    @model_validator(mode="after")
    def _heads_divide(self) -> TinyConfig:
        if self.hidden_size % self.n_heads or (self.hidden_size // self.n_heads) % 2:
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of n_heads {self.n_heads}")
        return self


class GeneratorConfig(Section):
    """The language model that writes JDs."""

    base: str = "tiny"  # `tiny`, a base that `girl bases` lists, or a Hugging Face causal LM by path or name
    engine: EngineSetting = "auto"  # auto: vllm on GPUs, openvino on CPUs where it is installed, else transformers
    threads: int | None = Field(None, ge=1)  # CPU threads; default: one for small models, else all cores
    checkpoint: Path | None = None  # a trained generator; default: the newest one in the workspace
    # use the newest generator of this stage, if there are several; untuned: the base as it is
    stage: Literal["untuned", "sft", "ppo", "rloo", "grpo", "dpo"] | None = None
    trained_until: UTCTime | None = None  # day after which the base has read nothing; known for the bases we list
    max_cv_tokens: int = Field(320, ge=8)  # number of first tokens of the CV that the prompt keeps
    prompt: PromptStyle = "full"  # short: a title, duties and skills in three lines; not for `tiny`
    tiny: TinyConfig = TinyConfig()
    batch_size: int | None = Field(None, ge=1)  # JDs generated at once; default: 32, with vllm as many as fit in memory

    @model_validator(mode="after")
    def _tiny_has_one_prompt(self) -> GeneratorConfig:
        if self.base in TINY_BASES and self.prompt != "full":
            raise ValueError(f"the prompt of {self.base!r} has no words; for shorter JDs lower `sft.max_jd_tokens`")
        return self


class SamplingConfig(Section):
    """How JDs are sampled from the generator."""

    n: int = Field(1, ge=1, le=64)  # JDs per CV
    best_of: int | None = Field(None, ge=2, le=256)  # JDs sampled per CV, from which the reward model keeps the best n
    temperature: float = Field(0.7, ge=0)  # 0 is greedy
    top_p: float = Field(0.95, gt=0, le=1)
    # a JD cut at this length is not stored; should be at least sft.max_jd_tokens
    max_new_tokens: int = Field(192, ge=1)
    # share of a JD's runs of 8 words that may stand in the CV; a JD with more is drawn again, and then not stored
    max_copied: float | None = Field(None, ge=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _more_than_kept(self) -> SamplingConfig:
        if self.best_of is not None and self.best_of <= self.n:
            raise ValueError(f"best_of is {self.best_of}, but n = {self.n} of them are kept; draw more than that")
        return self


class EncoderConfig(Section):
    """The sentence encoder that makes the vectors."""

    name: str = "all-MiniLM-L6-v2"  # sentence-transformers model by path or name
    batch_size: int = Field(64, ge=1)
    # auto: bfloat16 on CPUs with AMX, float32 elsewhere, or the dtype of the stored vectors
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


class EncoderTuningConfig(Section):
    """Tuning of the sentence encoder on matched CV-JD pairs: `girl train encoder`, and the control `tuned`."""

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=2)  # pairs; the others of a batch are the negatives
    learning_rate: float = Field(2e-5, gt=0)
    max_tokens: int = Field(96, ge=8)  # read of each text while tuning; afterwards the encoder reads its full length
    temperature: float = Field(0.05, gt=0)  # the cosines are divided by it
    max_pairs: int = Field(20_000, ge=20)  # the newest matched decisions; so many take an hour on two cores
    holdout: float = Field(0.05, gt=0, lt=0.5)  # share of seekers held out to measure `girl train encoder`
    seed: int = 0


class GateConfig(Section):
    """The quality gate of a generator: below it nothing is published. docs/adr/0020 says where the numbers are from."""

    sample: int = Field(64, ge=1)  # CVs for which the generator writes a JD, once for each contract
    min_usable: float = Field(0.5, ge=0, le=1)  # share of these CVs that get a JD fit to store
    # bits a character of held-out JDs, divided by those of a model that knows how often words occur, but no order
    max_held_out_bits: float = Field(0.9, gt=0)
    min_real_words: float = Field(0.9, ge=0)  # share of words that real texts have too; 1 is the share of real JDs
    min_word_order: float = Field(0.25, ge=0)  # neighbours as in real texts, shuffled words taken off; 1 is as real JDs
    # AUC of a JD's own CV against other seekers' CVs, lower end of the 95 % interval; .5: the JD ignores the CV
    min_own_cv: float = Field(0.5, ge=0, le=1)
    min_same_script: float = Field(0.95, ge=0, le=1)  # share of JDs in the script of the JDs that such seekers match
    max_copied: float = Field(1.0, ge=0, le=1)  # share of the JDs' runs of 8 words that stand in the CV
    max_unknown_script: float = Field(0.05, ge=0, le=1)  # share of CVs in a script that the tokenizer does not know


class RayConfig(Section):
    """The cluster and the workers of `girl materialize --on ray`."""

    address: str | None = None  # address of a cluster; default: RAY_ADDRESS, else a new one on this machine
    # each worker loads the models once; default: as many as the cluster has room for
    workers: int | None = Field(None, ge=1)
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0)


class SFTConfig(Section):
    """Stage 1: supervised fine-tuning on matched CV-JD pairs."""

    tuning: TuningSetting = "auto"  # auto: lora for bases from 30 M parameters on, else full
    lora_rank: int = Field(16, ge=1)
    epochs: float = Field(4, gt=0)
    # null: 1e-3 for `tiny`; for a pretrained base 4e-4 with lora, and 5e-5 with full
    learning_rate: float | None = Field(None, gt=0)
    precision: PrecisionSetting = "auto"  # auto: bfloat16 on GPUs and, for large bases, on CPUs with its instructions
    batch_size: int = Field(8, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    max_jd_tokens: int = Field(192, ge=8)
    holdout: float = Field(0.05, ge=0, lt=0.5)  # share of seekers held out to choose the epoch; 0 keeps the last epoch
    patience: int = Field(2, ge=1)  # epochs without a better held-out loss after which training stops
    seed: int = 0
    max_steps: int = -1  # number of steps after which training stops; -1: no limit


class RewardConfig(Section):
    """Stage 2: the reward model, trained on matched and mismatched JDs of one CV."""

    base: str | None = None  # a model by path or name; default: the trunk of the SFT generator
    tuning: TuningSetting = "auto"  # auto: lora for bases from 30 M parameters on, else full
    lora_rank: int = Field(16, ge=1)
    epochs: float = Field(2, gt=0)
    # null: 3e-4 for `tiny`; for a pretrained base 4e-4 with lora, and 5e-5 with full
    learning_rate: float | None = Field(None, gt=0)
    precision: PrecisionSetting = "auto"  # as in stage 1
    batch_size: int = Field(16, ge=1)  # pairs per step
    # largest number of pairs of one CV, since its pairs share a few JDs; null: all pairs
    pairs_per_cv: int | None = Field(4, ge=1)
    # weight of the term that pulls the mean score of a pair to 0: docs/adr/0009
    center_weight: float = Field(0.03, ge=0)
    max_jd_tokens: int = Field(192, ge=8)
    holdout: float = Field(0.15, gt=0, lt=0.5)  # share of seekers held out to measure accuracy
    seed: int = 0


class PPOConfig(Section):
    """Stage 3: PPO from recruiter feedback (GIRL, Algorithm 1; docs/adr/0009 lists where it departs from it)."""

    algo: Literal["ppo", "rloo", "grpo", "dpo"] = "ppo"  # all but `ppo` use TRL's trainers
    n_generations: int = Field(4, ge=2)  # JDs per CV that are compared with each other (rloo, grpo)
    dpo_beta: float = Field(0.3, gt=0)
    tuning: TuningSetting = "auto"  # auto: lora for bases from 30 M parameters on, else full
    lora_rank: int = Field(16, ge=1)
    iterations: int = Field(60, ge=1)  # rounds of sampling and learning
    batch_size: int = Field(64, ge=2)  # CVs sampled per iteration
    minibatch_size: int = Field(16, ge=1)
    epochs: int = Field(2, ge=1)  # passes over the samples of one iteration
    learning_rate: float = Field(5e-5, gt=0)
    critic_learning_rate: float = Field(3e-4, gt=0)
    clip: float = Field(0.2, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    kl_weight: float = Field(0.05, ge=0)  # lambda, in reward per nat
    kl_penalty: Literal["k1", "k3", "paper_kl"] = "k1"
    ratio: Literal["behaviour", "frozen"] = "behaviour"
    advantage: Literal["whitened", "plain"] = "whitened"
    # nats per JD; lambda is adapted to reach this value; null: lambda is fixed
    target_kl: float | None = Field(2.0, gt=0)
    stop_kl: float = Field(5.0, gt=0)  # nats per JD at which the run stops
    critic_warmup: int = Field(2, ge=0)  # first iterations, in which only the critic is trained
    temperature: float = Field(1.0, gt=0)  # sampling temperature in training; log-probabilities are computed at it too
    unfinished_penalty: float = Field(1.0, ge=0)  # subtracted from the score of a JD without an end token
    defect_penalty: float = Field(1.0, ge=0)  # subtracted from the score of an empty or looping JD
    evaluate_every: int = Field(5, ge=1)  # iterations between evaluations and checkpoints
    holdout: float = Field(0.1, gt=0, lt=0.5)  # share of seekers held out to choose the checkpoint
    seed: int = 0


class FeastConfig(Section):
    """The Feast repo that receives the features."""

    repo: Path | None = None  # folder of feature_store.yaml; default: workspace/feature_repo
    online: bool = True  # write the newest row of each seeker to the online store


class LookupConfig(Section):
    """How the look-ups of a service answer."""

    # tiers that may answer; prior is always one of them
    tiers: tuple[TierName, ...] = ("generated", "stale", "student", "neighbours", "prior")
    deadline_ms: float = Field(50.0, gt=0)  # time limit of one whole look-up
    n_neighbours: int = Field(10, ge=1)  # stored CVs whose generated vectors are averaged
    bundle: Path | None = None  # folder of `girl train student`; default: in the workspace
    max_queued: int = Field(100_000, ge=1)  # largest number of CVs that wait for generation


class StudentConfig(Section):
    """The student model: it predicts the generated-JD vector from the CV vector, for seekers who have none."""

    hidden_size: int = Field(256, ge=0)  # width of the hidden layer; 0 for a linear map
    epochs: int = Field(30, ge=1)  # largest number of epochs; the best by held-out cosine is kept
    learning_rate: float = Field(1e-3, gt=0)
    batch_size: int = Field(256, ge=1)
    ranker_weight: float = Field(0.0, ge=0)  # weight of a dot ranker's loss on the ranking train window
    holdout: float = Field(0.1, gt=0, lt=0.5)  # share of seekers held out to choose the epoch and to measure
    max_rows: int = Field(100_000, ge=100)  # newest CVs that are learned from and kept as neighbours
    seed: int = 0


class RankerConfig(Section):
    """How rankers meet the tiers of a look-up in training."""

    # share of training pairs moved to a lower tier, if `girl train student` has been run
    tier_dropout: float = Field(0.2, ge=0, le=1)


class EvaluateConfig(Section):
    """How `girl evaluate` compares rankers."""

    predictors: tuple[str, ...] = ("mlp", "dot", "lightgbm", "mlp-plain", "dot-plain", "lightgbm-plain")
    seeds: tuple[int, ...] = (0, 1, 2)
    n_bootstrap: int = Field(1000, ge=100)
    controls: tuple[Literal["lexical", "style", "popularity", "tuned"], ...] = ()  # columns that every row reads too


class _InWorkspace:
    """A path below the workspace, as a read-only attribute of GirlConfig."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, config: GirlConfig, config_type: type[GirlConfig]) -> Path:
        return config.workspace / self._name


class GirlConfig(Section):
    """All settings of `girl`: the defaults, then girl.yaml, then `--set`."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = "girl"
    workspace: Path = Path(".girl")  # folder of checkpoints, the store and run records
    tables: TablesConfig
    strict: bool = False  # a single rejected row is an error
    clock_skew_minutes: float = Field(10, ge=0)  # times later than now by more than this are rejected
    windows: WindowsConfig = WindowsConfig()
    generator: GeneratorConfig = GeneratorConfig()
    sft: SFTConfig = SFTConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    sampling: SamplingConfig = SamplingConfig()
    encoder: EncoderConfig = EncoderConfig()
    encoder_tuning: EncoderTuningConfig = EncoderTuningConfig()
    gate: GateConfig = GateConfig()
    chunk_size: int = Field(256, ge=1)  # CVs generated, encoded and written at a time
    ray: RayConfig = RayConfig()
    feast: FeastConfig = FeastConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    ranker: RankerConfig = RankerConfig()
    lookup: LookupConfig = LookupConfig()
    student: StudentConfig = StudentConfig()

    store_dir: ClassVar = _InWorkspace("store")  # the Parquet parts
    runs_dir: ClassVar = _InWorkspace("runs")  # records of batch runs
    generators_dir: ClassVar = _InWorkspace("generators")  # trained generators, one subfolder each
    bases_dir: ClassVar = _InWorkspace("bases")  # pretrained `tiny` bases, one subfolder each
    gates_dir: ClassVar = _InWorkspace("gates")  # measures of the quality gate, one file per contract
    encoders_dir: ClassVar = _InWorkspace("encoders")  # tuned sentence encoders, one subfolder each
    exports_dir: ClassVar = _InWorkspace("exports")  # generators for OpenVINO; a deleted one is exported again
    rewards_dir: ClassVar = _InWorkspace("rewards")  # trained reward models, one subfolder each
    students_dir: ClassVar = _InWorkspace("students")  # bundles for ranking hosts, one subfolder per contract
    trained_rankers_dir: ClassVar = _InWorkspace("rankers")  # one subfolder per predictor and contract
    queue_path: ClassVar = _InWorkspace("queue.db")  # the CVs that wait for generation

    @model_validator(mode="after")
    def _tiny_is_tuned_in_full(self) -> GirlConfig:
        if self.generator.base == "tiny" and self.sft.tuning == "lora":
            raise ValueError("`tiny` has no pretrained weights for an adapter to add to: leave out sft.tuning")
        return self

    @property
    def feast_repo(self) -> Path:
        """Folder of feature_store.yaml."""
        return self.feast.repo or self.workspace / "feature_repo"
