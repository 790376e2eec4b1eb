"""A workspace with a Feast repo over a packed store and fake models, for tests of look-ups and serving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from girl_features.batch.publish import publish_contract
from girl_features.batch.worker import Worker
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.generator.opening import LoadedModels
from girl_features.init_repo import write_repo
from girl_features.lookup import FeatureClient, open_queue
from girl_features.lookup.bundle import Bundle
from girl_features.lookup.generation_queue import BackgroundQueue
from girl_features.lookup.vector_map import VectorMap
from girl_features.store.parts import PartsStore
from girl_features.store.repo import apply_repo
from girl_features.vectors.similarity import unit_rows
from tests.fakes import HashingEncoder, TemplateGenerator, feature_contract
from tests.feast_repos import OUR_SQLITE
from tests.input_tables import write_tables

CONTRACT = feature_contract()
PATIENT_MS = 60_000.0  # a deadline that a busy machine can keep
UNIT_VECTORS = np.eye(8, dtype=np.float32)  # of the dimension of CONTRACT


class ServedMarket(NamedTuple):
    """An applied repo, with the models that fill it."""

    config: GirlConfig
    generator: TemplateGenerator
    contract: FeatureContract

    @property
    def store(self) -> PartsStore:
        return PartsStore(self.config.store_dir)

    def worker(self) -> Worker:
        models = LoadedModels(HashingEncoder(), self.generator, self.contract)
        return Worker(self.config, models, open_queue(self.config))

    def client(self, **settings: Any) -> FeatureClient:
        queue = BackgroundQueue(open_queue(self.config))
        given = {"queue": queue, "deadline_ms": PATIENT_MS, **settings}
        return FeatureClient(self.config.feast_repo, self.contract.fingerprint, **given)

    def publish(self) -> None:
        publish_contract(self.config, self.store, self.contract)


def served_market(
    folder: Path,
    *,
    online: dict[str, Any] | None = None,
    cvs: Sequence[tuple[Any, ...]] | None = None,
    generator: TemplateGenerator | None = None,
    contract: FeatureContract = CONTRACT,
) -> ServedMarket:
    """Apply a repo without rows. `cvs` are the rows of the job seekers table, if not the usual ones."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = write_tables(folder, {} if cvs is None else {"job_seekers": cvs, "interactions": []})
    config = GirlConfig(workspace=folder / "workspace", tables=tables)
    store = PartsStore(config.store_dir)
    store.save_contract(contract)
    write_repo(config.feast_repo, store.root, "girl")
    path = config.feast_repo / "feature_store.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["online_store"] = online or {"type": OUR_SQLITE, "path": "data/packed.db"}
    path.write_text(yaml.safe_dump(settings))
    apply_repo(config.feast_repo)
    return ServedMarket(config, generator or TemplateGenerator(), contract)


def bundle(contract: FeatureContract = CONTRACT) -> Bundle:
    """Return a bundle that knows three CVs. Its student adds one to the first entry and scales to length 2."""
    e = UNIT_VECTORS
    return Bundle(
        contract=contract,
        prior=0.5 * e[7],
        cv_mean=0.25 * e[6],
        student=VectorMap.linear(np.eye(len(e)), e[0], 2.0),
        neighbours_cv=unit_rows(e[:3]),
        neighbours_generated=e[3:6],
    )
