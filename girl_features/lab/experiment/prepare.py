"""From a data set's girl.yaml to what an experiment needs of it: generators trained, JDs materialized, windows read.

Every step is kept by what it was made from, so a second run, or one after a crash, does only what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from girl_features.batch.local import materialize
from girl_features.config import FeastConfig, GirlConfig, load_config
from girl_features.contract import FeatureContract
from girl_features.errors import GeneratorFailedError, GirlError, InterruptedRunError
from girl_features.generator.opening import find_generator, load_encoder, make_contract
from girl_features.input.splits import check_no_leakage, cut_windows
from girl_features.input.tables import open_tables
from girl_features.lab.experiment.config import Arm, DataSource, ExperimentConfig
from girl_features.lab.experiment.data import generated_texts, joined_parts, keep_ranked_cvs, load_data
from girl_features.lab.experiment.rows import ArmFeatures, Prepared, Steps
from girl_features.lab.text_vectors import TextVectors
from girl_features.sample.tables import write_sample
from girl_features.sql import connected
from girl_features.store.parts import PartsStore
from girl_features.store.parts.tombstones import copy_tombstones


def arm_config(config: ExperimentConfig, data: str, arm: Arm) -> GirlConfig:
    """The girl.yaml of a data set, as one generator departs from it, in a workspace of the experiment's own.

    So an experiment neither publishes anything nor changes which generator the user's own batch takes for the newest.
    Whoever is erased from the user's store is erased there too.
    """
    own = load_config(config.data[data].config, list(arm.set))
    moved = own.model_copy(
        update={"workspace": config.workspace / config.name / data / "work", "feast": FeastConfig(online=False)}
    )
    copy_tombstones(own.store_dir, moved.store_dir)
    return moved


def prepare(
    name: str, config: ExperimentConfig, steps: Steps, should_stop: Callable[[], bool] = lambda: False
) -> Prepared:
    """Train every generator on data set `name`, generate for the CVs of its ranking windows, and read those windows.

    Raises:
        InterruptedRunError: a stop was asked for.
        GirlError: as training, materializing and reading do.
    """
    config, source, folder = config.on(name), config.data[name], config.workspace / config.name / name
    write_sample_market(source)
    arms = {arm: arm_config(config, name, settings) for arm, settings in config.generators.items()}
    for arm, own in list(arms.items()):
        arms[arm] = _train_and_materialize(name, arm, own, config.generators[arm].stages, steps, should_stop)
    first = next(iter(arms.values()))
    encoder = load_encoder(first)
    with open_tables(first) as tables:
        data = load_data(name, tables, cut_windows(tables, first.windows))
    features = {}
    for arm, own in arms.items():
        generator, record = find_generator(own)
        contract = make_contract(own, record, encoder)
        check_no_leakage(data.windows, contract.trained_until)
        store = PartsStore(own.store_dir)
        features[arm] = ArmFeatures(
            config=own,
            contract=contract,
            folder=generator,
            parts=joined_parts(data, own, contract),
            texts=generated_texts(data, store, contract),
            tokens_a_cv=_tokens_a_cv(store, contract),
            notes=_notes(arm, record.stage, record.n_pairs, record.metrics),
        )
    vectors = TextVectors(encoder, folder / "vectors")
    return Prepared(name, source.simulation, data, features, vectors, first.encoder.name, folder)


def _train_and_materialize(
    data: str,
    arm_name: str,
    config: GirlConfig,
    stages: Sequence[str],
    steps: Steps,
    should_stop: Callable[[], bool],
) -> GirlConfig:
    """The config with the generator that the last stage made, so that another arm's, if newer, is not taken for it."""
    with open_tables(config) as tables:
        windows, made = cut_windows(tables, config.windows), None
        for stage in stages:
            if should_stop():
                raise InterruptedRunError
            try:
                folder = steps.train(stage, tables, windows, config)
            except GirlError as error:
                raise GeneratorFailedError(data, arm_name, stage, error) from error
            if stage != "reward":
                made = config.generator.model_copy(update={"checkpoint": folder})
    if made is not None:
        config = config.model_copy(update={"generator": made})
    if materialize(
        config, should_stop=should_stop, new_run=True, narrow=lambda tables: keep_ranked_cvs(tables, windows)
    ).stopped:
        raise InterruptedRunError
    return config


def write_sample_market(source: DataSource) -> None:
    """The sample market, where the data set is one and is not written yet."""
    if source.sample_seekers is None:
        return
    path = load_config(source.config).tables.interactions.path
    assert path is not None, "a sample market is read from files"
    folder = Path(path).parent
    if not (folder / "oracle.parquet").is_file():
        write_sample(folder, n_seekers=source.sample_seekers, seed=source.sample_seed)  # never over other tables


def _tokens_a_cv(store: PartsStore, contract: FeatureContract) -> float:
    relation = store.scan("generated_jds", contract.fingerprint)
    assert relation is not None, "materialized above"
    with connected() as connection:
        row = connection.execute(f"SELECT avg(n_new_tokens) FROM {relation}").fetchone()
    return float(row[0]) if row and row[0] is not None else 0.0


def _notes(arm: str, stage: str, n_pairs: int, metrics: dict[str, float]) -> tuple[str, ...]:
    figures = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    return (f"{arm}: stage {stage}, trained on {n_pairs} {'CVs' if stage == 'ppo' else 'pairs'}; {figures}",)


def default_jobs() -> int:
    """Worker processes: the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
