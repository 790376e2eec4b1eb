"""A workspace with a Feast repo over a packed store and fakes in place of the models, for tests of what is served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from girl_features.batch.publish import publish_contract
from girl_features.batch.worker import Worker
from girl_features.config import GirlConfig
from girl_features.contract import FeatureContract
from girl_features.generator.opening import LoadedModels
from girl_features.init_repo import write_repo
from girl_features.lookup import FeatureClient, open_queue
from girl_features.lookup.generation_queue import BackgroundQueue
from girl_features.store.parts import PartsStore
from girl_features.store.repo import apply_repo
from tests.fakes import HashingEncoder, TemplateGenerator, feature_contract
from tests.feast_repos import OUR_SQLITE
from tests.input_tables import write_tables

CONTRACT = feature_contract()
PATIENT_MS = 60_000.0  # for a busy machine


class ServedMarket(NamedTuple):
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
    """An applied repo without rows; `cvs` are those of the input tables."""
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
