"""The steps of the product as functions of one config: what the commands call, and what Python users can."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from girl_features.batch.estimate import Estimate, Plan, estimate, make_plan
from girl_features.batch.local import MaterializeReport, materialize
from girl_features.batch.run_log import RunLog
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract, SamplingContract
from girl_features.encoder import SentenceTransformerEncoder, TextEncoder, settle_dtype
from girl_features.errors import CheckpointError, ConfigError, LeakageError, StoreError, UnknownContractError
from girl_features.generator import Generator, RewardModel
from girl_features.generator.checkpoint import (
    RECORD_NAME,
    REWARD_RECORD_NAME,
    GeneratorRecord,
    base_folder,
    peek_record,
    read_record,
    trained_generators,
    trained_reward_models,
    weights_hash,
)
from girl_features.generator.engines import open_engine, settle_engine
from girl_features.input.splits import Windows, cut_windows
from girl_features.input.tables import Tables, load_tables
from girl_features.progress import Progress
from girl_features.store.failpoints import failpoint
from girl_features.store.parts import PartsStore


class OpenGenerator(NamedTuple):
    """A generator ready to write, and the contract its vectors will carry."""

    generator: Generator
    contract: FeatureContract
    reward_model: RewardModel | None  # where `sampling.best_of` is set
    engine: str  # what runs it, kept in every row


class Models(NamedTuple):
    """All that one process needs to turn CVs into features."""

    encoder: TextEncoder
    opened: OpenGenerator


CarryOut = Callable[[Tables, str], MaterializeReport]  # from tables and the id of the run


def open_tables(config: GirlConfig) -> Tables:
    """Read and check the three tables of `config`; close what comes back."""
    skew = timedelta(minutes=config.clock_skew_minutes)
    erased = PartsStore(config.store_dir).erased
    return load_tables(config.tables, now=datetime.now(UTC), clock_skew=skew, strict=config.strict, erased=erased)


def open_encoder(config: GirlConfig) -> SentenceTransformerEncoder:
    """The sentence encoder of `config`."""
    name, known = config.encoder.name, PartsStore(config.store_dir).contracts().values()
    dtype = settle_dtype(config.encoder.dtype, name, [contract.encoder for contract in known])
    return SentenceTransformerEncoder(name, batch_size=config.encoder.batch_size, dtype=dtype)


def find_generator(config: GirlConfig) -> tuple[Path, GeneratorRecord]:
    """Folder and record of the generator to use: `generator.checkpoint`, else the newest trained as the config says.

    `generator.stage` narrows that to one stage. Without either, an untuned `generator.base` is used, if
    `generator.trained_until` says what it may know.

    Raises:
        CheckpointError: there is none, or its weights do not match its record.
    """
    settings = config.generator
    if settings.checkpoint is not None:
        return settings.checkpoint, read_record(settings.checkpoint)
    trained = trained_generators(config.generators_dir, settings.stage)
    for folder in trained:
        if was_trained_as(config, folder):
            return folder, read_record(folder)
    if trained and (settings.base == "tiny" or settings.trained_until is None):
        raise CheckpointError(
            f"none of the generators in {config.generators_dir} ({', '.join(f.name for f in trained)}) was trained "
            f"with these settings; run `girl train sft`, or set `generator.checkpoint` to the one you mean"
        )
    if settings.stage is not None:
        raise CheckpointError(
            f"no trained generator of stage {settings.stage} in {config.generators_dir}; "
            f"run `girl train {settings.stage}` first"
        )
    if settings.base == "tiny":
        raise CheckpointError(f"no trained generator in {config.generators_dir}; run `girl train sft` first")
    return _untuned(config)


def was_trained_as(config: GirlConfig, folder: Path) -> bool:
    """Whether the generator in `folder` was made from the config's base and, at stage 1, with its settings."""
    record = peek_record(folder)
    if record.get("base") != config.generator.base:
        return False
    return record.get("stage") != "sft" or record.get("settings") == config.sft_settings


def find_reward_model(config: GirlConfig) -> tuple[Path, GeneratorRecord]:
    """Folder and record of the newest reward model.

    Raises:
        CheckpointError: there is none, or its weights do not match its record.
    """
    trained = trained_reward_models(config.rewards_dir)
    if not trained:
        raise CheckpointError(f"no reward model in {config.rewards_dir}; run `girl train reward` first")
    return trained[0], read_record(trained[0], REWARD_RECORD_NAME)


def contract_of(config: GirlConfig, record: GeneratorRecord, encoder: TextEncoder) -> FeatureContract:
    """The contract of vectors made by the recorded generator with the config's sampling, engine and `encoder`.

    With `sampling.best_of` the reward model is part of it, and the vectors know what that one has seen too.
    """
    sampling = SamplingContract(**config.sampling.model_dump())
    trained_until = record.trained_until
    if sampling.best_of is not None:
        _, reward = find_reward_model(config)
        sampling = sampling.model_copy(update={"reward_sha256": reward.weights_sha256})
        trained_until = max(trained_until, reward.trained_until)
    contract = FeatureContract(
        generator=Path(record.base).name,
        weights_sha256=record.weights_sha256,
        adapter_sha256=record.adapter_sha256,
        trained_until=trained_until,
        prompt_version=record.prompt_version,
        max_cv_tokens=record.max_cv_tokens,
        sampling=sampling,
        encoder=encoder.contract,
    )
    return settle_engine(config.generator.engine, contract, PartsStore(config.store_dir).contracts().values())


def open_generator(config: GirlConfig, encoder: TextEncoder) -> OpenGenerator:
    """Load the generator to use, with its contract."""
    folder, record = find_generator(config)
    contract = contract_of(config, record, encoder)
    generator = open_engine(
        contract,
        folder,
        batch_size=config.generator.batch_size,
        threads=config.generator.threads,
        exports=config.exports_dir,
    )
    if generator.prompt_version != record.prompt_version:
        raise CheckpointError(
            f"{folder} was trained on prompt {record.prompt_version!r}, but this version writes "
            f"{generator.prompt_version!r}; train again with `girl train sft`"
        )
    reward_model = None
    if config.sampling.best_of is not None:
        from girl_features.generator.reward_model import TransformersRewardModel

        reward_model = TransformersRewardModel(find_reward_model(config)[0])
    return OpenGenerator(generator, contract, reward_model, contract.engine_name)


def open_models(config: GirlConfig) -> Models:
    """Load encoder and generator."""
    encoder = open_encoder(config)
    return Models(encoder, open_generator(config, encoder))


def settle_contract(config: GirlConfig) -> FeatureContract:
    """The contract that `open_models` would come to on this machine, without loading the generator."""
    return contract_of(config, find_generator(config)[1], open_encoder(config))


def run_materialize(
    config: GirlConfig,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    retry_failed: bool = False,
    new_run: bool = False,
    narrow: Callable[[Tables], None] = lambda tables: None,
) -> MaterializeReport:
    """The whole batch job: store up to date, Feast repo applied, online store published.

    Args:
        should_stop: asked between chunks; True ends the job, to be resumed by another call.
        retry_failed: try CVs again that no earlier run found a good JD for.
        new_run: give up unfinished runs of other contracts, which are refused otherwise.
        narrow: takes rows out of the tables as they were read, so that nothing is made for them.

    Raises:
        ConfigError: a run of another contract did not finish.
        StoreLockedError: another run is under way.
    """
    encoder, opened = open_models(config)
    return run_batch(
        config, encoder, opened, should_stop=should_stop, retry_failed=retry_failed, new_run=new_run, narrow=narrow
    )


def run_batch(
    config: GirlConfig,
    encoder: TextEncoder,
    opened: OpenGenerator,
    *,
    should_stop: Callable[[], bool] = lambda: False,
    retry_failed: bool = False,
    new_run: bool = False,
    narrow: Callable[[Tables], None] = lambda tables: None,
) -> MaterializeReport:
    """`run_materialize` with an encoder and a generator that are open already."""
    store = PartsStore(config.store_dir)

    def carry_out(tables: Tables, run: str) -> MaterializeReport:
        narrow(tables)
        return materialize(
            tables,
            opened.generator,
            encoder,
            opened.contract,
            store,
            chunk_size=config.chunk_size,
            run=run,
            engine=opened.engine,
            should_stop=should_stop,
            reward_model=opened.reward_model,
            retry_failed=retry_failed,
        )

    return run_recorded(config, opened.contract, opened.engine, carry_out, new_run=new_run)


def run_recorded(
    config: GirlConfig, contract: FeatureContract, engine: str, carry_out: CarryOut, *, new_run: bool = False
) -> MaterializeReport:
    """Have `contract`'s features made, under a record of the run, and publish them.

    Args:
        engine: what generates.
        carry_out: brings the store up to date.
        new_run: give up unfinished runs of other contracts, which are refused otherwise.
    """
    resolved = config.model_dump(mode="json")
    with RunLog(config.runs_dir).begin(contract.fingerprint, engine, resolved, new_run=new_run) as run:
        with open_tables(config) as tables:
            report = carry_out(tables, run.id)
        run.totals, run.stopped = vars(report), report.stopped
        if not report.stopped:
            failpoint("batch.before_publish")
            publish_contract(config, PartsStore(config.store_dir), contract)
    return report


def plan_materialize(
    config: GirlConfig, *, n_sample: int, cost_per_hour: float | None = None, retry_failed: bool = False
) -> tuple[Plan, Estimate | None]:
    """What the batch job would do, and what `n_sample` real generations say it would take; nothing is stored."""
    encoder = open_encoder(config)
    opened = open_generator(config, encoder)
    with open_tables(config) as tables:
        plan = make_plan(tables, opened.contract, PartsStore(config.store_dir), retry_failed=retry_failed)
        guess = estimate(
            tables,
            plan,
            opened.generator,
            encoder,
            opened.contract,
            n_sample=n_sample,
            reward_model=opened.reward_model,
            cost_per_hour=cost_per_hour,
        )
    return plan, guess


def publish_contract(config: GirlConfig, store: PartsStore, contract: FeatureContract) -> None:
    """Make the contract known to the Feast repo, if it is not yet, and publish the contract's newest rows.

    A repo in the workspace, or one that `girl init` wrote, is applied here. Any other is its owner's to apply.

    Raises:
        ConfigError: `feast.repo` names a folder without a Feast repo.
        StoreError: a repo that is not ours does not know the contract yet.
    """
    from girl_features.store.online.publishing import publish

    _apply_where_new(config, store, contract)
    if config.feast.online:
        with Progress("publish", 0, "rows") as progress:
            publish(config.feast_repo, store, contract, progress=progress.advance)


def _apply_where_new(config: GirlConfig, store: PartsStore, contract: FeatureContract) -> None:
    from girl_features.init_repo import DEFINITIONS, write_repo
    from girl_features.store.repo import apply_repo

    repo = config.feast_repo
    if not (repo / "feature_store.yaml").is_file():
        if config.feast.repo is not None:
            raise ConfigError(
                f"`feast.repo` names {repo}, which has no feature_store.yaml; `girl init {repo}` writes one"
            )
        write_repo(repo, config.store_dir, config.name)
    with suppress(StoreError):  # a registry that is just being written; without the lock, as a batch may hold it long
        if _is_known(repo, contract):
            return
    with store.lock():  # the registry has no lock of its own
        if _is_known(repo, contract):
            return
        if not (repo / DEFINITIONS).is_file():
            raise StoreError(
                f"the Feast repo {repo} does not know contract {contract.fingerprint!r} yet: run `feast apply` "
                f"there (with girl_feature_views({str(config.store_dir)!r}) in a definitions file), then "
                f"`girl materialize` again; nothing is generated twice"
            )
        apply_repo(repo)


def _is_known(repo: Path, contract: FeatureContract) -> bool:
    from girl_features.store.repo import contract_service, open_repo

    try:
        contract_service(open_repo(repo), contract.fingerprint)
    except UnknownContractError:
        return False
    return True


def check_no_leakage(windows: Windows, record: GeneratorRecord) -> None:
    """Raise LeakageError when the generator has seen decisions of the ranking windows."""
    if record.trained_until > windows.rl_end:
        raise LeakageError(
            f"the generator has seen data until {record.trained_until.isoformat()}, but ranking labels begin at "
            f"{windows.rl_end.isoformat()}; train a generator on the earlier windows with `girl train sft`, or "
            f"move `windows.rl_end`"
        )


def windows_of(config: GirlConfig, tables: Tables) -> Windows:
    """The time windows of `config` on these tables."""
    return cut_windows(tables, config.windows)


def _untuned(config: GirlConfig) -> tuple[Path, GeneratorRecord]:
    from transformers import AutoTokenizer

    from girl_features.generator.prompts import template_for

    settings = config.generator
    if settings.trained_until is None:
        raise CheckpointError(
            f"{settings.base!r} carries no {RECORD_NAME}, so what it has seen is unknown: set "
            f"`generator.trained_until` to its knowledge cut-off, or tune it with `girl train sft`"
        )
    folder = base_folder(settings.base)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    return folder, GeneratorRecord(
        stage="untuned",
        base=settings.base,
        prompt_version=template_for(tokenizer).version,
        max_cv_tokens=settings.max_cv_tokens,
        trained_until=settings.trained_until,
        n_pairs=0,
        inputs_sha256="",
        weights_sha256=weights_hash(folder),
        adapter_sha256=None,
        created_at=datetime.now(UTC),
        settings={},
        metrics={},
        versions={"transformers": version("transformers")},
    )
