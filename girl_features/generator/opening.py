"""Find and load what a run needs: the encoder, the generator, the reward model, and the contract of their vectors."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from girl_features.config import GeneratorConfig, GirlConfig
from girl_features.contract import FeatureContract, SamplingContract
from girl_features.encoder import SentenceTransformerEncoder, TextEncoder, resolve_dtype
from girl_features.errors import CheckpointError
from girl_features.generator import Generator, RewardModel
from girl_features.generator.bases.catalogue import KNOWN_BASES
from girl_features.generator.bases.cut_off import earlier_cut_off, stated_cut_off
from girl_features.generator.bases.finding import find_base, present_base
from girl_features.generator.checkpoint import (
    RECORD_NAME,
    REWARD_RECORD_NAME,
    GeneratorRecord,
    is_adapter,
    n_parameters,
    peek_record,
    read_record,
    trained_base_hash,
    trained_generators,
    trained_reward_models,
    weights_hash,
)
from girl_features.generator.engines import open_engine, settle_engine
from girl_features.generator.tuning import LORA_FROM, sft_settings
from girl_features.progress import announce
from girl_features.store.parts import PartsStore


class LoadedModels(NamedTuple):
    """Everything that turns a CV into a feature, loaded, and the contract that the vectors carry."""

    encoder: TextEncoder
    generator: Generator
    contract: FeatureContract
    reward_model: RewardModel | None = None  # with `sampling.best_of` only
    folder: Path | None = None  # of the generator's checkpoint


def load_models(config: GirlConfig) -> LoadedModels:
    """Load the encoder and the generator that `config` names."""
    found = _find_announced(config)  # before the encoder is loaded, as there may be no generator
    return _load_found(config, load_encoder(config), *found)


def load_encoder(config: GirlConfig) -> SentenceTransformerEncoder:
    """Load the sentence encoder that `config` names."""
    name, stored = config.encoder.name, PartsStore(config.store_dir).contracts().values()
    announce(f"loading the encoder {name}")
    dtype = resolve_dtype(config.encoder.dtype, name, [contract.encoder for contract in stored])
    return SentenceTransformerEncoder(name, batch_size=config.encoder.batch_size, dtype=dtype)


def load_generator(config: GirlConfig, encoder: TextEncoder) -> LoadedModels:
    """Load the generator that `config` names, to go with an encoder that is loaded already."""
    return _load_found(config, encoder, *_find_announced(config))


def _find_announced(config: GirlConfig) -> tuple[Path, GeneratorRecord]:
    announce("finding the generator and checking its weights")
    return find_generator(config)


def _load_found(config: GirlConfig, encoder: TextEncoder, folder: Path, record: GeneratorRecord) -> LoadedModels:
    contract = make_contract(config, record, encoder)
    announce(f"loading the generator {folder.name}")
    batch_size, threads = config.generator.batch_size, config.generator.threads
    generator = open_engine(contract, folder, batch_size=batch_size, threads=threads, exports=config.exports_dir)
    if generator.prompt_version != record.prompt_version:
        raise CheckpointError(
            f"{folder} was trained on prompt {record.prompt_version!r}, but this version writes "
            f"{generator.prompt_version!r}; train again with `girl train sft`"
        )
    reward_model = None
    if config.sampling.best_of is not None:
        from girl_features.generator.reward_model import TransformersRewardModel

        reward_model = TransformersRewardModel(find_reward_model(config)[0])
    return LoadedModels(encoder, generator, contract, reward_model, folder)


def settle_contract(config: GirlConfig) -> FeatureContract:
    """Return the contract that `load_models` would give on this machine, without loading the generator."""
    _, record = _find_announced(config)
    return make_contract(config, record, load_encoder(config))


def make_contract(config: GirlConfig, record: GeneratorRecord, encoder: TextEncoder) -> FeatureContract:
    """Return the contract of the recorded generator with the sampling and engine of `config`, and `encoder`.

    With `sampling.best_of` the reward model is part of the contract, and `trained_until` covers its training too, as it
    covers that of a tuned encoder.
    """
    sampling = SamplingContract(**config.sampling.model_dump())
    trained_until = record.trained_until
    if sampling.best_of is not None:
        _, reward = find_reward_model(config)
        sampling = sampling.model_copy(update={"reward_sha256": reward.weights_sha256})
        trained_until = max(trained_until, reward.trained_until)
    if encoder.contract.trained_until is not None:
        trained_until = max(trained_until, encoder.contract.trained_until)
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


def find_generator(config: GirlConfig) -> tuple[Path, GeneratorRecord]:
    """Return the folder and the record of the generator to use.

    That is `generator.checkpoint` if it is set, else the newest generator trained with the settings of `config`
    (`generator.stage` narrows the search to one stage). If none was trained on the base and `generator.trained_until`
    says what it may know, or if `generator.stage` is `untuned`, it is `generator.base` as it is.

    Raises:
        CheckpointError: there is no such generator, or its weights do not match its record.
    """
    settings, generators_dir = config.generator, config.generators_dir
    if settings.checkpoint is not None:
        return settings.checkpoint, read_record(settings.checkpoint)
    if settings.stage == "untuned":
        return _untuned_base(config)
    trained = trained_generators(generators_dir, settings.stage)
    current, outdated = trained_on_base(config, settings.stage)
    if current:
        return current[0], _with_cut_off(settings, read_record(current[0]))
    if outdated:
        raise CheckpointError(
            f"{outdated[0]} was trained on other weights of {settings.base!r} than it has now; run `girl train sft` on "
            f"the new ones, put the old ones back, or set `generator.checkpoint` to the folder that you mean"
        )
    of_this_base = any(peek_record(folder).get("base") == settings.base for folder in trained)
    if trained and (of_this_base or settings.base == "tiny" or settings.trained_until is None):
        untuned = "" if settings.base == "tiny" else ", or `generator.stage` to `untuned` to use the base as it is"
        raise CheckpointError(
            f"none of the generators in {generators_dir} ({', '.join(f.name for f in trained)}) was trained "
            f"with these settings; run `girl train sft`, or set `generator.checkpoint` to the one you mean{untuned}"
        )
    if settings.stage is not None:
        command = "`girl train sft`" if settings.stage == "sft" else f"`girl train ppo --algo {settings.stage}`"
        missing = f"no trained generator of stage {settings.stage} in {generators_dir}"
        raise CheckpointError(f"{missing}; run {command} first")
    if settings.base == "tiny" or (settings.base in KNOWN_BASES and settings.trained_until is None):
        raise CheckpointError(f"no trained generator in {generators_dir}; run `girl train sft` first")
    return _untuned_base(config)


def _with_cut_off(settings: GeneratorConfig, record: GeneratorRecord) -> GeneratorRecord:
    """Return `record` with the cut-off of its base as it is known now, if that is later than when it was trained."""
    until = stated_cut_off(settings)
    if until is None or until <= record.trained_until:
        return record
    return record.model_copy(update={"trained_until": until})


def was_trained_as(config: GirlConfig, folder: Path) -> bool:
    """True if the generator in `folder` has the base of `config` and, at stage 1, was trained with its settings."""
    record = peek_record(folder)
    if record.get("base") != config.generator.base:
        return False
    return record.get("stage") != "sft" or record.get("settings") == sft_settings(
        config, _n_parameters_of_base(record, folder)
    )


def _n_parameters_of_base(record: dict[str, object], folder: Path) -> int:
    """Return the number of parameters of the base that a generator was trained on, as its record says.

    Earlier releases did not write it. For `tiny`, which is always tuned in full, it is not read.
    """
    metrics = record.get("metrics")
    if record.get("base") == "tiny":
        return 0
    if isinstance(metrics, dict) and "n_parameters" in metrics:
        return int(metrics["n_parameters"])
    return LORA_FROM if is_adapter(folder) else n_parameters(folder)  # the base of an adapter may be elsewhere


class TrainedOnBase(NamedTuple):
    """Folders of generators that were trained with the settings of a config, newest first."""

    current: list[Path]  # on the weights that the base has now, as far as their records and this machine tell
    outdated: list[Path]  # on other weights of the same name


def trained_on_base(config: GirlConfig, stage: str | None) -> TrainedOnBase:
    """Return the generators of a stage, or of all, with the settings of `config`, by the weights of their base."""
    folders = [f for f in trained_generators(config.generators_dir, stage) if was_trained_as(config, f)]
    known = {folder: trained_base_hash(peek_record(folder)) for folder in folders}
    base = present_base(config.generator.base, config.bases_dir) if any(known.values()) else None
    weights = weights_hash(base) if base is not None else None
    found = TrainedOnBase([], [])
    for folder in folders:
        is_current = weights is None or known[folder] in (None, weights)
        (found.current if is_current else found.outdated).append(folder)
    return found


def find_reward_model(config: GirlConfig) -> tuple[Path, GeneratorRecord]:
    """Return the folder and the record of the newest reward model.

    Raises:
        CheckpointError: there is none, or its weights do not match its record.
    """
    trained = trained_reward_models(config.rewards_dir)
    if not trained:
        raise CheckpointError(f"no reward model in {config.rewards_dir}; run `girl train reward` first")
    return trained[0], read_record(trained[0], REWARD_RECORD_NAME)


def _untuned_base(config: GirlConfig) -> tuple[Path, GeneratorRecord]:
    from girl_features.generator.prompts import template_for
    from girl_features.generator.tokens import load_tokenizer

    settings = config.generator
    if settings.base == "tiny":
        raise CheckpointError("`tiny` knows nothing before it is trained: run `girl train sft`")
    if settings.trained_until is None:
        raise CheckpointError(
            f"{settings.base!r} carries no {RECORD_NAME}, so what it has seen is unknown: set "
            f"`generator.trained_until` to its knowledge cut-off, or tune it with `girl train sft`"
        )
    folder, note = find_base(settings.base, config.bases_dir), earlier_cut_off(settings)
    return folder, GeneratorRecord(
        stage="untuned",
        base=settings.base,
        prompt_version=template_for(load_tokenizer(folder), settings.prompt).version,
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
        notes=() if note is None else (note,),
    )
