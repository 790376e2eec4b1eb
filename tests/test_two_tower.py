"""Two-tower rankers: the Ranker suite, the paper's formulas by hand, calibration, and what is saved."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from girl_features.errors import CheckpointError, ConfigError, ContractMismatchError
from girl_features.evaluation.metrics import auc
from girl_features.integrations.rankers import two_tower_networks as networks
from girl_features.integrations.rankers.pair_inputs import columns, fit_scaler, scaled_columns
from girl_features.integrations.rankers.registry import RANKERS, load_ranker, make_ranker
from girl_features.integrations.rankers.two_tower import DESIGNS, WEIGHTS, TrainingSettings, TwoTowerRanker
from girl_features.ranker import PairFeatures
from girl_features.schema import Tier
from girl_features.vectors.regression import Calibration, fit_calibration, fit_logistic
from tests.contracts import CONTRACT, OTHER_CONTRACT, Labelled, MakeRanker, RankerContract, fit, planted

FAST = TrainingSettings(max_epochs=15, batch_size=32, dropout=0.1)


class TestTwoTowerContract(RankerContract):
    @pytest.fixture(scope="class", params=["mlp", "mlp-plain", "dot", "dot-plain"])
    @classmethod
    def make(cls, request: pytest.FixtureRequest) -> MakeRanker:
        return lambda row, seed: TwoTowerRanker(request.param, row, seed, FAST)


def pair(cv: list[float], jd: list[float], generated: list[float] | None) -> PairFeatures:
    tier = Tier.PRIOR if generated is None else Tier.GENERATED
    vectors = (np.array([v], np.float32) for v in (cv, jd, generated or [0.0] * len(cv)))
    return PairFeatures(*vectors, np.array([tier], np.int8), CONTRACT)


def network_inputs(cv: list[float], jd: list[float], mlp: list[float]) -> networks.NetworkInputs:
    nothing = torch.zeros(1, 0)
    return networks.NetworkInputs(torch.tensor([cv]), torch.tensor([jd]), torch.tensor([mlp]), nothing, nothing)


def test_dot_base_is_the_dot_product_of_equation_11() -> None:
    ranker = fit(TwoTowerRanker("dot-plain", "base"), planted(40, 0, 2), planted(40, 1, 2))
    assert isinstance(ranker, TwoTowerRanker)
    # (1, 2) . (3, -1) = 3 - 2 = 1
    assert ranker.raw_score(pair([1, 2], [3, -1], None)).tolist() == [1.0]


def test_dot_base_has_nothing_but_its_calibration_to_train() -> None:
    valid, test = planted(40, 1), planted(20, 2)
    one = fit(TwoTowerRanker("dot-plain", "base", 0), planted(40, 0), valid)
    two = fit(TwoTowerRanker("dot-plain", "base", 5), planted(60, 7), valid)
    np.testing.assert_array_equal(one.score(test.features), two.score(test.features))


def test_dot_enhanced_is_equations_14_and_15() -> None:
    network = networks.PlainDotTower(networks.Widths(vector=2, mlp=4, jd_tower=0, linear=0, hidden=1), dropout=0.5)
    _, first, _, _, second = network.cv_tower
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 2.0]]))
        first.bias.fill_(-1.0)
        second.weight.copy_(torch.tensor([[2.0], [-1.0]]))
        second.bias.copy_(torch.tensor([0.5, 0.0]))
    # hidden = relu(1*1 + 2*3 - 1) = 6; c' = (2*6 + 0.5, -6) = (12.5, -6); c' . (2, 1) = 25 - 6 = 19
    logits = network.eval()(network_inputs(cv=[1.0, 0.0], jd=[2.0, 1.0], mlp=[1.0, 0.0, 0.0, 3.0]))
    assert logits.tolist() == [19.0]


def test_plain_mlps_read_the_vectors_of_equations_10_and_13() -> None:
    assert DESIGNS["mlp-plain", "base"].mlp == ("cv", "jd")
    assert DESIGNS["mlp-plain", "enhanced"].mlp == ("cv", "jd", "generated_jd")
    features = pair([1, 2], [3, 4], [5, 6])
    assert columns(features, DESIGNS["mlp-plain", "enhanced"].mlp).tolist() == [[1, 2, 3, 4, 5, 6]]


def test_interaction_columns_by_hand() -> None:
    blocks = ("cv_times_jd", "generated_jd_times_jd", "cos_cv_jd", "cos_generated_jd_jd", "cos_cv_generated_jd")
    got = columns(pair([1, 0], [3, 4], [0, 2]), blocks)
    # c*j = (3, 0); j'*j = (0, 8); cos(c, j) = 3/5; cos(j', j) = 8/(2*5); cos(c, j') = 0
    np.testing.assert_allclose(got, [[3, 0, 0, 8, 0.6, 0.8, 0]], rtol=1e-6)


def test_every_tier_but_the_best_has_a_column() -> None:
    features = planted(5, 0).features._replace(tier=np.array(list(Tier), np.int8))
    # generated, stale, student, neighbours, prior
    wanted = [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert columns(features, ("tier",)).tolist() == wanted


def test_a_missing_generated_jd_stands_at_the_training_mean() -> None:
    cv, jd = np.ones((3, 1), np.float32), np.ones((3, 1), np.float32)
    generated = np.array([[1], [3], [0]], np.float32)
    features = PairFeatures(cv, jd, generated, np.array([0, 0, Tier.PRIOR], np.int8), CONTRACT)
    scaler = fit_scaler(features, ("generated_jd", "tier"))
    assert scaler.mean[0] == 2.0  # (1 + 3) / 2: the third pair has none
    # (1 - 2) / 1, (3 - 2) / 1 and the mean; of the tiers only the last varies: mean 1/3, spread sqrt(2)/3
    wanted = [[-1, 0, 0, 0, -(0.5**0.5)], [1, 0, 0, 0, -(0.5**0.5)], [0, 0, 0, 0, 2**0.5]]
    np.testing.assert_allclose(scaled_columns(features, ("generated_jd", "tier"), scaler), wanted, rtol=1e-5)


def test_a_column_that_never_varied_in_training_says_nothing_later() -> None:
    train = planted(30, 0, share_generated=1.0).features
    scaler = fit_scaler(train, ("tier",))
    later = planted(30, 1, share_generated=0.0).features
    assert not scaled_columns(later, ("tier",), scaler).any()


def test_platt_scaling_by_hand() -> None:
    scores = np.array([1.0] * 4 + [-1.0] * 4)
    labels = np.array([True, True, True, False, True, False, False, False])
    # Platt's targets are (4 + 1) / (4 + 2) = 5/6 and 1 / (4 + 2) = 1/6. The mean target at +1 is
    # (3 * 5/6 + 1/6) / 4 = 2/3, at -1 it is 1/3; two points are met exactly: slope = log(2), intercept = 0
    slope, intercept = fit_calibration(scores, labels)
    assert slope == pytest.approx(np.log(2), abs=1e-4) and intercept == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(Calibration(slope, intercept).probabilities(np.array([1.0, -1.0])), [2 / 3, 1 / 3], 1e-4)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.booleans()), min_size=2, max_size=30))
def test_calibration_keeps_the_order_and_stays_between_0_and_1(rows: list[tuple[float, bool]]) -> None:
    scores, labels = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    labels[:2] = [True, False]
    calibration = fit_calibration(scores, labels)
    probabilities = calibration.probabilities(scores)
    assert calibration.slope > 0
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert (np.diff(probabilities[np.argsort(scores)]) >= 0).all()


def test_logistic_regression_by_hand() -> None:
    # at x = 0 one of two matches: intercept = logit(1/2) = 0; at x = 1 three of four: weight = logit(3/4) = log(3)
    x = np.array([[0.0], [0], [1], [1], [1], [1]])
    weights = fit_logistic(x, np.array([1, 0, 1, 1, 1, 0], bool), ridge=1e-9)
    np.testing.assert_allclose(weights, [np.log(3), 0], atol=1e-6)


def cosine_planted(n: int, seed: int) -> Labelled:
    """Pairs that match where CV and JD point the same way."""
    pairs = planted(n, seed, dimension=24)
    rng = np.random.default_rng(seed)
    cv, jd = (rng.normal(size=(n, 24)).astype(np.float32) for _ in range(2))
    jd[pairs.labels] += 0.5 * cv[pairs.labels]
    return pairs._replace(features=pairs.features._replace(cv=cv, jd=jd))


@pytest.mark.parametrize("predictor", ["mlp", "dot"])
def test_interaction_forms_do_at_least_as_well_as_the_cosine(predictor: str) -> None:
    train, valid, test = cosine_planted(400, 0), cosine_planted(200, 1), cosine_planted(400, 2)
    scores = fit(make_ranker(predictor, "base", 0), train, valid).score(test.features)
    cosine_auc = auc(test.labels, columns(test.features, ("cos_cv_jd",))[:, 0])
    assert cosine_auc > 0.8
    assert auc(test.labels, scores) > cosine_auc - 0.01


def test_another_seed_gives_other_scores() -> None:
    test = planted(30, 2).features
    one, two = (
        fit(TwoTowerRanker("mlp-plain", "enhanced", seed, FAST), planted(200, 0), planted(100, 1)).score(test)
        for seed in (0, 1)
    )
    assert (one != two).any()


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    fit(TwoTowerRanker("mlp", "base", 0, FAST), planted(60, 0), planted(60, 1))
    assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize(("predictor", "row"), list(DESIGNS))
def test_a_saved_ranker_scores_the_same(tmp_path: Path, predictor: str, row: str) -> None:
    ranker = fit(TwoTowerRanker(predictor, row, 4, FAST), planted(100, 0), planted(60, 1))  # type: ignore[arg-type]
    assert isinstance(ranker, TwoTowerRanker)
    ranker.save(tmp_path / "new" / "folder")
    loaded = load_ranker(tmp_path / "new" / "folder")
    assert isinstance(loaded, TwoTowerRanker)
    assert (loaded.predictor, loaded.row, loaded.seed) == (predictor, row, 4)
    test = planted(30, 2, share_generated=0.5).features
    np.testing.assert_array_equal(loaded.score(test), ranker.score(test))
    with pytest.raises(ContractMismatchError):
        loaded.score(test._replace(contract=OTHER_CONTRACT))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    ranker = fit(TwoTowerRanker("mlp", "base", 0, FAST), planted(60, 0), planted(60, 1))
    assert isinstance(ranker, TwoTowerRanker)
    ranker.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("where", [0, 100, -1])
def test_a_flipped_bit_of_the_weights_is_seen(saved: Path, where: int) -> None:
    weights = bytearray((saved / WEIGHTS).read_bytes())
    weights[where] ^= 1
    (saved / WEIGHTS).write_bytes(weights)
    with pytest.raises(CheckpointError, match="not the file its manifest was written for"):
        TwoTowerRanker.load(saved)


def test_absent_weights_are_named(saved: Path) -> None:
    (saved / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is absent"):
        TwoTowerRanker.load(saved)


class Canary:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self.path),)  # type: ignore[return-value]

    def __init__(self, path: Path) -> None:
        self.path = path


def test_pickles_are_refused_and_never_opened(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes(pickle.dumps(Canary(saved / "ran")))
    _rewrite_hash(saved)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_ranker(saved)
    (saved / "manifest.json").unlink()
    (saved / "model.pkl").write_bytes(pickle.dumps(Canary(saved / "ran")))
    with pytest.raises(CheckpointError, match=r"no manifest.json.*model.pkl.*never pickles"):
        load_ranker(saved)
    assert not (saved / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version"),
        ({"format": "pickle"}, "format"),
        ({"predictor": "oracle"}, "'oracle' ranker"),
        ({"predictor": "lightgbm"}, "should list the files"),
        ({"row": "best"}, "row"),
        ({"slope": "nan"}, "slope"),
        ({"surprise": 1}, "surprise"),
        ({"dimension": 7}, "of another ranker"),
        ({"dimension": 10**12}, "dimension"),
        ({"sha256": {"../../etc/passwd": "0"}}, "should list the files"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(saved: Path, change: dict[str, object], message: str) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(CheckpointError, match=message):
        load_ranker(saved)


def test_half_a_manifest_is_refused(saved: Path) -> None:
    text = (saved / "manifest.json").read_bytes()
    (saved / "manifest.json").write_bytes(text[: len(text) // 2])
    with pytest.raises(CheckpointError, match="no manifest this version reads"):
        load_ranker(saved)


def test_an_absent_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_ranker(tmp_path / "nowhere")


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=f"no predictor 'ncf'; known are: {', '.join(RANKERS)}"):
        make_ranker("ncf", "base", 0)
    with pytest.raises(ConfigError, match=r"'mlp' 'best'; known are: .*mlp base"):
        make_ranker("mlp", "best", 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("predictor", list(RANKERS))
def test_every_registered_predictor_makes_both_rows(predictor: str) -> None:
    for row in ("base", "enhanced"):
        make_ranker(predictor, row, 0)  # type: ignore[arg-type]


def _rewrite_hash(folder: Path) -> None:
    from girl_features.contract import sha256_of_files

    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = {WEIGHTS: sha256_of_files([folder / WEIGHTS])}
    (folder / "manifest.json").write_text(json.dumps(manifest))
