"""Training the student: what it learns, what it is measured by, and the bundle it comes in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from girl_features.config import GirlConfig, StudentConfig
from girl_features.errors import EmptyWindowError
from girl_features.lookup.bundle import read_bundle, read_bundle_manifest
from girl_features.store.parts import PartsStore
from girl_features.trainers.student import RankedPairs, StudentData, fit_student, read_student_data, train_student
from girl_features.vectors.similarity import mean_cosine, unit_rows
from tests.fakes import feature_contract
from tests.input_tables import day, write_tables
from tests.store_rows import Row, write_rows

D = 6
CONTRACT = feature_contract(dimension=D)
SETTINGS = StudentConfig(hidden_size=32, epochs=60, batch_size=32, holdout=0.2, learning_rate=5e-3)


def taught(n: int = 400, curve: float = 2.0, seed: int = 0) -> StudentData:
    """CVs on the sphere; the generator turns them, and bends what it turns."""
    rng = np.random.default_rng(seed)
    cvs = unit_rows(rng.normal(size=(n, D)))
    bent = np.roll(cvs, 1, axis=1) + curve * np.abs(cvs)
    return StudentData([f"s{i // 2}" for i in range(n)], cvs, unit_rows(bent))


def test_the_hidden_layer_learns_what_a_linear_map_cannot() -> None:
    student, measures = fit_student(taught(), SETTINGS)
    fresh = taught(seed=1)
    assert mean_cosine(student(fresh.cvs), fresh.generated) > measures["cosine_linear"] + 0.02
    assert measures["cosine_student"] > measures["cosine_linear"] > measures["cosine_prior"]
    assert measures["best_epoch"] > 0
    assert (measures["n_seekers"], measures["n_cvs"], measures["n_held_out"]) == (200, 400, 80)
    assert measures["n_parameters"] == D * D + D + D * 32 + 32 + 32 * D


def test_where_it_does_not_help_the_linear_map_is_kept() -> None:
    student, measures = fit_student(taught(curve=0.0), SETTINGS)
    assert measures["cosine_student"] == pytest.approx(1, abs=1e-4)
    linear, _ = fit_student(taught(curve=0.0), SETTINGS.model_copy(update={"hidden_size": 0}))
    assert mean_cosine(student(units := np.eye(D, dtype=np.float32)), linear(units)) > 0.999


def test_the_same_seed_trains_the_same_student() -> None:
    first, second = (fit_student(taught(60), SETTINGS).student for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_rankers_loss_moves_it_towards_what_ranks() -> None:
    rng = np.random.default_rng(0)
    data = taught(200)
    useless = data._replace(generated=unit_rows(np.ones((200, D)) + 0.1 * rng.normal(size=(200, D))))
    jds = unit_rows(rng.normal(size=(200, D)))
    pairs = RankedPairs(data.cvs, jds, (data.cvs * jds).sum(axis=1) > 0)  # a job matches whose vector is the CV's
    plain = fit_student(useless, SETTINGS).student
    ranked = fit_student(useless, SETTINGS.model_copy(update={"ranker_weight": 0.5, "epochs": 5}), pairs).student
    fresh = taught(200, seed=3).cvs
    assert mean_cosine(ranked(fresh), fresh) >= mean_cosine(plain(fresh), fresh)


@pytest.fixture
def config(tmp_path: Path) -> GirlConfig:
    return GirlConfig(workspace=tmp_path / "w", tables=write_tables(tmp_path), student=SETTINGS)


def test_the_bundle_has_student_means_and_neighbours(config: GirlConfig) -> None:
    store, data = PartsStore(config.store_dir), taught(60)
    store.save_contract(CONTRACT)
    cvs = [Row(f"s{i}", day(i), day(i), v.tolist()) for i, v in enumerate(data.cvs)]
    jds = [Row(f"s{i}", day(i), day(i), v.tolist()) for i, v in enumerate(data.generated)]
    write_rows(store, CONTRACT, cvs=cvs, generated=jds)
    folder = train_student(config, CONTRACT)
    bundle = read_bundle(folder, CONTRACT.fingerprint)
    assert folder == config.students_dir / CONTRACT.fingerprint
    assert bundle.prior == pytest.approx(data.generated.mean(axis=0), abs=1e-6)
    assert bundle.cv_mean == pytest.approx(data.cvs.mean(axis=0), abs=1e-6)
    assert bundle.neighbours_cv is not None
    assert bundle.neighbours_seeker is not None
    assert bundle.neighbours_seeker.tolist() == list(range(60)), "numbers, not ids"
    assert not any(b"s59" in path.read_bytes() for path in folder.iterdir())
    assert bundle.neighbours_cv[0] == pytest.approx(data.cvs[-1]), "the newest first"
    assert bundle.student is not None
    made = read_bundle_manifest(folder).made
    assert made["measures"]["n_seekers"] == made["n_neighbours"] == 60
    newest = read_student_data(store, CONTRACT, 25)
    assert newest.seeker_ids == [f"s{i}" for i in range(59, 34, -1)]


def test_versions_of_one_seeker_have_one_number() -> None:
    rows = np.zeros((4, 2), np.float32)
    assert StudentData(["b", "a", "b", "c"], rows, rows).seeker_numbers().tolist() == [0, 1, 0, 2]


def test_too_few_seekers_are_named(config: GirlConfig) -> None:
    store = PartsStore(config.store_dir)
    with pytest.raises(EmptyWindowError, match="0 seekers have a generated JD"):
        train_student(config, CONTRACT)
    store.save_contract(CONTRACT)
    rows = [Row(f"s{i}", day(1), day(1), [1.0] * D) for i in range(5)]
    write_rows(store, CONTRACT, cvs=rows, generated=rows)
    with pytest.raises(EmptyWindowError, match=r"5 seekers .* needs 20"):
        train_student(config, CONTRACT)
