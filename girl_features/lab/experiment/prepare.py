"""Preparation of a data set: its generators are trained, their JDs materialized, and its windows read.

The result of each step is kept, so a second run, or a run after a crash, does only the missing steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from girl_features.batch.local import materialize
from girl_features.config import FeastConfig, GirlConfig, load_config
from girl_features.contract import FeatureContract
from girl_features.errors import GeneratorFailedError, GirlError, InterruptedRunError
from girl_features.evaluation.run import labelled_parts
from girl_features.generator.opening import find_generator, load_encoder, make_contract
from girl_features.input.splits import check_no_leakage, cut_windows
from girl_features.input.tables import open_tables
from girl_features.lab.experiment.config import DataSource, ExperimentConfig
from girl_features.lab.experiment.data import generated_texts, keep_ranked_cvs, load_data
from girl_features.lab.experiment.rows import (
    ExperimentSteps,
    GeneratorFeatures,
    PreparedData,
    base_parts,
    encoded_parts,
)
from girl_features.lab.text_vectors import TextVectors
from girl_features.sample.tables import write_sample
from girl_features.sql import connected
from girl_features.store.parts import PartsStore
from girl_features.store.parts.tombstones import copy_tombstones
from girl_features.store.user_files import keep_out_of_git

StopCheck = Callable[[], bool]


def generator_config(girl_yaml: Path, folder: Path, changes: Sequence[str]) -> GirlConfig:
    """Load a data set's girl.yaml with one generator's changes (as `--set`), in a workspace inside `folder`.

    With a workspace of its own, an experiment publishes nothing, and the user's batch does not take the experiment's
    generators for its newest. Seekers who were erased from the user's store are erased in this one too.
    """
    user_config = load_config(girl_yaml, list(changes))
    config = user_config.model_copy(update={"workspace": folder / "work", "feast": FeastConfig(online=False)})
    copy_tombstones(user_config.store_dir, config.store_dir)
    return config


def prepare(
    name: str, config: ExperimentConfig, steps: ExperimentSteps, should_stop: StopCheck = lambda: False
) -> PreparedData:
    """Train every generator on data set `name`, generate for the CVs of its ranking windows, and read those windows.

    Raises:
        InterruptedRunError: `should_stop` returned True.
    """
    config, source, folder = config.on(name), config.data[name], config.folder_of(name)
    keep_out_of_git(config.workspace, [config.name])
    write_sample_market(source)
    configs = {  # all are read before the first generator trains, so that a bad one is found at once
        generator: generator_config(source.config, folder, settings.set)
        for generator, settings in config.generators.items()
    }
    first = next(iter(configs.values()), None) or generator_config(source.config, folder, ())
    encoder = load_encoder(first)
    if (until := encoder.contract.trained_until) is not None:
        with open_tables(first) as tables:
            check_no_leakage(cut_windows(tables, first.windows), until)
    for generator, settings in config.generators.items():
        configs[generator] = _train_and_materialize(
            name, generator, configs[generator], settings.stages, steps, should_stop
        )
    with open_tables(first) as tables:
        data = load_data(name, tables, cut_windows(tables, first.windows))
    features = {}
    for generator, girl_config in configs.items():
        checkpoint, record = find_generator(girl_config)
        contract = make_contract(girl_config, record, encoder)
        check_no_leakage(data.windows, contract.trained_until)
        store = PartsStore(girl_config.store_dir)
        features[generator] = GeneratorFeatures(
            config=girl_config,
            contract=contract,
            folder=checkpoint,
            parts=labelled_parts(girl_config.feast_repo, contract, data.decisions.values()),
            texts=generated_texts(data, store, contract),
            tokens_per_cv=_tokens_per_cv(store, contract),
            training="; ".join([f"stage {record.stage}, trained on {record.training_text()}", *record.notes]),
        )
    vectors = TextVectors(encoder, folder / "vectors")
    reference = features[config.reference_generator] if config.reference_generator else None
    base = base_parts(reference) if reference is not None else encoded_parts(data, encoder, vectors)
    return PreparedData(
        name, source.simulation, data, features, base, vectors, first.encoder.name, first.encoder_tuning, folder
    )


def _train_and_materialize(
    data: str, generator: str, config: GirlConfig, stages: Sequence[str], steps: ExperimentSteps, should_stop: StopCheck
) -> GirlConfig:
    """Return the config with the checkpoint of the last stage, so that no newer checkpoint is used in its place."""
    with open_tables(config) as tables:
        windows = cut_windows(tables, config.windows)
        checkpoint = None
        for stage in stages:
            if should_stop():
                raise InterruptedRunError
            try:
                trained = steps.train(stage, tables, windows, config)
            except GirlError as error:
                raise GeneratorFailedError(data, generator, stage, error) from error
            if stage != "reward":
                checkpoint = trained
    if checkpoint is not None:
        generator_settings = config.generator.model_copy(update={"checkpoint": checkpoint})
        config = config.model_copy(update={"generator": generator_settings})
    summary = materialize(
        config,
        should_stop=should_stop,
        new_run=True,
        narrow=lambda tables: keep_ranked_cvs(tables, windows),
        anyway=True,  # an experiment measures bad generators too, and publishes into a workspace of its own
    )
    if summary.stopped:
        raise InterruptedRunError
    return config


def write_sample_market(source: DataSource) -> None:
    """Write the sample market if the data set is one and is not written yet."""
    if source.sample_seekers is None:
        return
    path = load_config(source.config).tables.interactions.path
    assert path is not None, "a sample market is read from files"
    folder = Path(path).parent
    if not (folder / "oracle.parquet").is_file():
        write_sample(folder, n_seekers=source.sample_seekers, seed=source.sample_seed)  # never over other tables


def _tokens_per_cv(store: PartsStore, contract: FeatureContract) -> float:
    relation = store.scan("generated_jds", contract.fingerprint)
    assert relation is not None, "materialized above"
    with connected() as connection:
        return float(connection.execute(f"SELECT avg(n_new_tokens) FROM {relation}").pl().item() or 0)
