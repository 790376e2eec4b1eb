"""LightGBM rankers: the Ranker suite, their columns, and what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from girl_features.contract import sha256_of_files
from girl_features.errors import CheckpointError, ContractMismatchError
from girl_features.evaluation.metrics import auc
from girl_features.integrations.rankers.lightgbm_ranker import ARRAYS, TREE_COLUMNS, TREES, LightGBMRanker
from girl_features.integrations.rankers.registry import load_ranker
from girl_features.vectors.projection import fit_pca
from tests.contracts import OTHER_CONTRACT, Labelled, MakeRanker, RankerContract, fit, planted


class TestLightGBMContract(RankerContract):
    @pytest.fixture(scope="class", params=["lightgbm", "lightgbm-plain"])
    @classmethod
    def make(cls, request: pytest.FixtureRequest) -> MakeRanker:
        return lambda row, seed: LightGBMRanker(request.param, row, seed)


def test_cosines_find_what_raw_vectors_do_not() -> None:
    train, valid, test = aligned(600, 0), aligned(200, 1), aligned(400, 2)
    whole, plain = (
        auc(test.labels, fit(LightGBMRanker(name, "base"), train, valid).score(test.features))
        for name in ("lightgbm", "lightgbm-plain")
    )
    assert whole > 0.75 and whole > plain + 0.1


def aligned(n: int, seed: int) -> Labelled:
    """Pairs that match where CV and JD point the same way in 20 dimensions."""
    pairs, rng = planted(n, seed, dimension=20), np.random.default_rng(seed)
    cv, jd = (rng.normal(size=(n, 20)).astype(np.float32) for _ in range(2))
    jd[pairs.labels] += 0.6 * cv[pairs.labels]
    return pairs._replace(features=pairs.features._replace(cv=cv, jd=jd))


def test_trees_stop_early() -> None:
    ranker = fit(LightGBMRanker("lightgbm", "enhanced"), planted(300, 0), planted(200, 1))
    assert isinstance(ranker, LightGBMRanker) and ranker._fitted is not None
    assert 1 <= ranker._fitted.trees.num_trees() < 1000


@pytest.mark.parametrize(("predictor", "row"), list(TREE_COLUMNS))
def test_a_saved_ranker_scores_the_same(tmp_path: Path, predictor: str, row: str) -> None:
    ranker = fit(LightGBMRanker(predictor, row, 4), planted(200, 0), planted(100, 1))  # type: ignore[arg-type]
    assert isinstance(ranker, LightGBMRanker)
    ranker.save(tmp_path)
    loaded = load_ranker(tmp_path)
    test = planted(30, 2, share_generated=0.5).features
    np.testing.assert_array_equal(loaded.score(test), ranker.score(test))
    with pytest.raises(ContractMismatchError):
        loaded.score(test._replace(contract=OTHER_CONTRACT))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    ranker = fit(LightGBMRanker("lightgbm", "base"), planted(200, 0), planted(100, 1))
    assert isinstance(ranker, LightGBMRanker)
    ranker.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", [TREES, ARRAYS])
def test_altered_or_absent_files_are_seen(saved: Path, name: str) -> None:
    whole = (saved / name).read_bytes()
    (saved / name).write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=f"{name} is not the file"):
        load_ranker(saved)
    (saved / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is absent"):
        load_ranker(saved)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"tree\nversion=v4\nnum_class=1\n"])
def test_a_tree_file_of_another_format_is_refused(saved: Path, content: bytes) -> None:
    (saved / TREES).write_bytes(content)
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["sha256"][TREES] = sha256_of_files([saved / TREES])
    (saved / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="not a LightGBM text model"):
        load_ranker(saved)


def test_principal_components_by_hand() -> None:
    # on the line y = x about (2, 2): the first component is (1, 1) / sqrt(2), coordinates -sqrt(2), 0, sqrt(2)
    pca = fit_pca(np.array([[1, 1], [2, 2], [3, 3]], np.float32), 1)
    np.testing.assert_allclose(pca.components, [[0.5**0.5, 0.5**0.5]], rtol=1e-6)
    coordinates = pca.project(np.array([[1, 1], [2, 2], [3, 3]], np.float32))
    np.testing.assert_allclose(coordinates[:, 0], [-(2**0.5), 0, 2**0.5], atol=1e-6)


@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_all_components_together_keep_every_distance(n: int, dimension: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(n, dimension)).astype(np.float32)
    coordinates = fit_pca(vectors, dimension).project(vectors)
    np.testing.assert_allclose(
        np.linalg.norm(coordinates[0] - coordinates, axis=1), np.linalg.norm(vectors[0] - vectors, axis=1), atol=1e-4
    )
