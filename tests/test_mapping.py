"""From one contract's vectors to another's: the map, its rows, and what it costs a ranker."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from girl_features.contract import FeatureContract
from girl_features.errors import ConfigError, EmptyWindowError
from girl_features.evaluation.compare import LabelledPairs, RankingParts
from girl_features.lookup.vector_map import VectorMap
from girl_features.mapping.fit import SharedCVs, fit_map, read_shared_cvs, write_mapped
from girl_features.mapping.run import compare_mapped, run_map
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier
from girl_features.store.parts import PartsStore
from girl_features.vectors.similarity import unit_rows
from tests.fakes import ColumnRanker, feature_contract
from tests.input_tables import day
from tests.served_market import served_market
from tests.store_rows import Row, generated_table

D = 4
OLD = feature_contract(dimension=D)
NEW = feature_contract(dimension=D, seed=9, trained_until=day(50).isoformat())
NOW = datetime(2024, 1, 1, tzinfo=UTC)


def shared_cvs(n: int, noise: float, turned: bool = True, seed: int = 0) -> SharedCVs:
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(D, D)))
    new = unit_rows(rng.normal(size=(n, D)))
    old = new @ rotation if turned else new @ rng.normal(size=(D, D))
    return SharedCVs(np.array([f"s{i}" for i in range(n)]), new, unit_rows(old + noise * rng.normal(size=(n, D))))


def test_a_rotation_is_found_and_a_lopsided_truth_takes_the_ridge() -> None:
    turned = fit_map(shared_cvs(400, 0.0))
    assert turned.cosine > 0.9999
    assert turned.cosine_unmapped is not None
    assert turned.cosine_unmapped < 0.9
    lopsided = fit_map(shared_cvs(400, 0.01, turned=False))
    assert lopsided.kind == "ridge"
    assert lopsided.cosine > 0.98
    few = shared_cvs(60, 0.5)
    assert fit_map(few).n_seekers == 60


def write(store: PartsStore, contract: FeatureContract, rows: list[Row]) -> None:
    store.save_contract(contract)
    store.write_part("generated_jds", contract.fingerprint, generated_table(contract, rows))


def test_what_the_old_contract_lacks_is_written_and_says_so(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    write(store, NEW, [Row("early", day(1), NOW, [1.0, 0, 0, 0]), Row("late", day(60), NOW, [0, 1.0, 0, 0])])
    write(store, OLD, [Row("other", day(1), NOW, [0, 0, 0, 1.0])])
    doubled = VectorMap.linear(np.roll(np.eye(D), 1, axis=1), np.zeros(D), 2.0)
    assert write_mapped(store, NEW, OLD, doubled, NOW) == 2
    assert write_mapped(store, NEW, OLD, doubled, NOW) == 0, "a second time they are there"
    relation = store.scan("generated_jds", OLD.fingerprint)
    columns = "job_seeker_id, event_timestamp, contract, engine, generated_jd_vector"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = connection.execute(f"SELECT {columns} FROM {relation} WHERE run LIKE 'map-%' ORDER BY 1").fetchall()
    mapped = f"map:{NEW.fingerprint}"
    assert [(r[0], r[1].astimezone(UTC), *r[2:]) for r in rows] == [
        ("early", day(50), OLD.fingerprint, mapped, [0.0, 2.0, 0.0, 0.0]),  # known once the new generator was
        ("late", day(60), OLD.fingerprint, mapped, [0.0, 0.0, 2.0, 0.0]),
    ]
    with pytest.raises(EmptyWindowError, match="0 seekers have vectors of both"):
        read_shared_cvs(store, NEW, OLD)


def test_of_several_cvs_known_at_one_time_the_newest_is_mapped(tmp_path: Path) -> None:
    store = PartsStore(tmp_path / "store")
    older, newer = (feature_contract(dimension=D, seed=i, trained_until=day(i).isoformat()) for i in (10, 50))
    rows = [Row(name, day(at), NOW, [1.0, at, 0, 0]) for name in ("alone", "behind") for at in (20, 30, 60)]
    write(store, older, rows)
    write(store, newer, [Row("other", day(1), NOW, [0, 0, 0, 1.0]), Row("behind", day(40), NOW, [0, 0, 0, 1.0])])
    as_it_is = VectorMap.linear(np.eye(D), np.zeros(D), 1.0)
    assert write_mapped(store, older, newer, as_it_is, NOW) == 3
    assert write_mapped(store, older, newer, as_it_is, NOW) == 0
    relation = store.scan("generated_jds", newer.fingerprint)
    query = f"SELECT job_seeker_id, updated_at, event_timestamp FROM {relation} WHERE run LIKE 'map-%' ORDER BY ALL"
    found = [(name, at.astimezone(UTC), known.astimezone(UTC)) for name, at, known in duckdb.sql(query).fetchall()]
    assert found == [
        ("alone", day(30), day(50)),
        ("alone", day(60), day(60)),
        ("behind", day(60), day(60)),  # of day 40 there is a row that was made, not mapped
    ]


def parts(generated: np.ndarray, labels: np.ndarray, contract: str) -> RankingParts:
    n = len(labels)
    seekers = np.array([f"s{i // 4}" for i in range(n)])
    zeros = np.zeros((n, D), np.float32)
    features = PairFeatures(zeros, zeros, generated, np.full(n, Tier.GENERATED, np.int8), contract)
    one = LabelledPairs(features, labels, seekers, np.zeros(n, bool))
    return RankingParts(one, one, one)


def make_ranker(predictor: str, form: str, seed: int) -> Any:
    return ColumnRanker(form)  # ranks by the first entry of the generated vector


def test_the_loss_is_that_of_not_training_again() -> None:
    rng = np.random.default_rng(0)
    old = rng.normal(size=(400, D)).astype(np.float32)
    labels = old[:, 0] + 0.5 * rng.normal(size=400) > 0
    new = np.roll(old, 1, axis=1)  # what ranked was the first entry, and is the second now
    exact = VectorMap.linear(np.roll(np.eye(D), -1, axis=1), np.zeros(D), 1.0)
    lost = VectorMap.linear(np.eye(D), np.zeros(D), 1.0)
    arguments: Any = (("p",), (0,), 200, make_ranker)
    [good] = compare_mapped(parts(old, labels, "a" * 12), parts(new, labels, "b" * 12), exact, *arguments)
    [bad] = compare_mapped(parts(old, labels, "a" * 12), parts(new, labels, "b" * 12), lost, *arguments)
    assert good.auc_old > 0.85
    assert good.auc_mapped == pytest.approx(good.auc_old, abs=0.05)  # rows are scaled to one length
    assert bad.auc_mapped < 0.6
    # the ranker of fakes reads the first entry whatever it was trained on: here that is the new contract's
    assert bad.auc_loss == pytest.approx(bad.auc_retrained - bad.auc_mapped)
    assert bad.auc_loss_low is not None
    assert bad.auc_loss_low <= bad.auc_loss <= (bad.auc_loss_high or 0)


def test_mapping_a_contract_to_itself_is_refused(tmp_path: Path) -> None:
    market = served_market(tmp_path)
    with pytest.raises(ConfigError, match="both contracts are"):
        run_map(market.config, market.contract, market.contract, make_ranker)
