"""The journal table's baselines: each on a case whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from girl_features.config import TinyConfig
from girl_features.errors import ConfigError
from girl_features.evaluation.metrics import auc
from girl_features.integrations.rankers.two_tower import TwoTowerRanker
from girl_features.lab.baselines.bigrec import BIGRecMLPRanker, BIGRecRanker
from girl_features.lab.baselines.language_model import LanguageModelEncoder, YesNoRanker, YesNoSettings
from girl_features.lab.baselines.registry import make_baseline
from girl_features.lab.baselines.text_networks import APJFNN, PJFNN
from girl_features.lab.baselines.text_rankers import NeuralTextRanker
from girl_features.lab.text_vectors import VectorTable
from girl_features.ranker import PairFeatures, PairTexts
from girl_features.schema import Tier
from girl_features.trainers.tiny import new_decoder, train_tokenizer
from tests.text_pairs import (
    FILLER,
    TRADES,
    LabelledTexts,
    TextRankerContract,
    auc_of,
    fit_texts,
    id_pairs,
    objects,
    trade_pairs,
)


@pytest.fixture(scope="module")
def language_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    tokenizer = train_tokenizer([" ".join((*TRADES, *FILLER, "yes no answer job match CV this"))] * 3, 400)
    shape = TinyConfig(vocab_size=400, hidden_size=32, n_layers=1, n_heads=2)
    new_decoder(tokenizer, shape, 128, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def table_for(*parts: LabelledTexts, dimension: int = 8) -> VectorTable:
    """A vector a text: one-hot of its trade, so that texts of one trade are near each other."""
    texts = list(dict.fromkeys(t for p in parts for c in (p.texts.cvs, p.texts.jds) for t in c))
    texts += [t for p in parts for own in p.texts.generated_jds for t in own]
    texts = list(dict.fromkeys(texts))
    vectors = np.full((len(texts), dimension), 0.1, np.float32)
    for row, text in enumerate(texts):
        vectors[row, [trade in text for trade in TRADES].index(True)] += 1
    return VectorTable({text: i for i, text in enumerate(texts)}, vectors)


SEEDS_USED = [(300, 0), (150, 1), (40, 2), (40, 3), (400, 9), (60, 0), (60, 1), (5, 0), (5, 2)]
TABLE = table_for(*(trade_pairs(n, seed) for n, seed in SEEDS_USED))


class TestNCF(TextRankerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def world(cls):  # type: ignore[no-untyped-def]
        return id_pairs

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):  # type: ignore[no-untyped-def]
        return lambda seed: NeuralTextRanker("ncf", seed)


class TestPJFNN(TextRankerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):  # type: ignore[no-untyped-def]
        return lambda seed: NeuralTextRanker("pjfnn", seed)


class TestAPJFNN(TextRankerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):  # type: ignore[no-untyped-def]
        return lambda seed: NeuralTextRanker("apjfnn", seed)


class TestFTLLM(TextRankerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls, language_model):  # type: ignore[no-untyped-def]
        return lambda seed: YesNoRanker(language_model, seed, YesNoSettings(max_epochs=1))


class TestBIGRec(TextRankerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):  # type: ignore[no-untyped-def]
        return lambda seed: BIGRecRanker(TABLE)


class TestBIGRecMLP(TextRankerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):  # type: ignore[no-untyped-def]
        return lambda seed: BIGRecMLPRanker(TABLE, seed)


def test_ncf_knows_ids_and_nothing_else() -> None:
    ranker = fit_texts(NeuralTextRanker("ncf"), id_pairs(1200, 0), id_pairs(300, 1))
    assert auc_of(ranker, id_pairs(600, 2)) > 0.8  # 0.9 at best
    of_texts = fit_texts(NeuralTextRanker("ncf"), trade_pairs(400, 0), trade_pairs(200, 1))
    assert 0.4 < auc_of(of_texts, trade_pairs(300, 2)) < 0.6, "all its ids are new"


@pytest.mark.parametrize("name", ["pjfnn", "apjfnn"])
def test_networks_of_words_find_a_shared_trade(name: str) -> None:
    ranker = fit_texts(NeuralTextRanker(name), trade_pairs(1000, 0), trade_pairs(200, 1))
    assert auc_of(ranker, trade_pairs(300, 2)) > 0.75  # 0.9 at best, and 0.5 for any sum of a CV's and a JD's score


@pytest.mark.parametrize("read", ["jds", "cvs"])
def test_ft_llm_learns_to_say_yes_from_both_texts(language_model: Path, read: str) -> None:
    settings = YesNoSettings(learning_rate=3e-3, max_epochs=5, patience=5, max_cv_tokens=16, max_jd_tokens=16)
    worlds = [_welding(read, n, seed) for n, seed in ((320, 0), (100, 1), (200, 2))]
    ranker = fit_texts(YesNoRanker(language_model, 0, settings), worlds[0], worlds[1])
    assert auc_of(ranker, worlds[2]) > 0.8  # 0.9 at best


def _welding(read: str, n: int, seed: int) -> LabelledTexts:
    """CVs, or JDs, of welding match, wrong one time in ten, whatever the other text: both have to be read."""
    pairs = trade_pairs(n, seed)
    wanted = np.array(["welding" in text for text in getattr(pairs.texts, read)])
    return pairs._replace(labels=wanted ^ (np.random.default_rng(seed).random(n) < 0.1))


def test_bigrec_orders_by_l2_distance() -> None:
    # generated at (0, 0); jobs at distances 1, 2 and 5, of which the nearest is the match
    table = VectorTable({"g": 0, "a": 1, "b": 2, "c": 3}, np.array([[0, 0], [1, 0], [0, 2], [3, 4]], np.float32))
    ids = np.array(["s"] * 3)
    texts = PairTexts(
        ids, np.array(["a", "b", "c"]), objects(["cv"] * 3), objects(["a", "b", "c"]), objects([("g",)] * 3)
    )
    labels = np.array([True, False, False])
    ranker = BIGRecRanker(table)
    ranker.fit(texts, labels, texts, labels)
    scores = ranker.score(texts)
    assert scores[0] > scores[1] > scores[2]
    assert ranker.gamma == 0


def test_bigrec_brings_popular_jobs_nearer_where_that_helps() -> None:
    # both jobs stand at distance 1; only job "often" was matched in training, and is again
    table = VectorTable({"g": 0, "x": 1, "y": 2}, np.array([[0, 0], [1, 0], [0, 1]], np.float32))
    n = 40
    jobs = np.array(["often", "seldom"] * n)
    texts = PairTexts(
        np.array(["s"] * 2 * n), jobs, objects(["cv"] * 2 * n), objects(["x", "y"] * n), objects([("g",)] * 2 * n)
    )
    labels = np.array([True, False] * n)
    plain, popular = BIGRecRanker(table), BIGRecRanker(table, popularity=True)
    for ranker in (plain, popular):
        ranker.fit(texts, labels, texts, labels)
    assert auc(labels, plain.score(texts)) == 0.5
    assert auc(labels, popular.score(texts)) == 1.0
    assert popular.gamma > 0


def test_bigrec_mlp_finds_a_shared_trade_and_stands_in_for_what_was_not_generated() -> None:
    train, valid, test = trade_pairs(700, 10), trade_pairs(200, 11), trade_pairs(300, 12)
    ranker = BIGRecMLPRanker(table_for(train, valid, test))
    fit_texts(ranker, train, valid)
    assert auc_of(ranker, test) > 0.8
    without = test.texts._replace(generated_jds=objects([()] * 300))
    assert np.isfinite(ranker.score(without)).all()


def test_bert_is_no_sum_of_a_seekers_and_a_jobs_score() -> None:
    """A scorer linear in [c; j] orders jobs alike for every seeker; the base MLP must not."""
    rng = np.random.default_rng(0)

    def world(n: int) -> tuple[PairFeatures, np.ndarray]:
        cv, jd = rng.choice([-1.0, 1.0], (2, n, 1)) * np.ones((2, n, 4))
        cv, jd = (x + rng.normal(0, 0.1, x.shape) for x in (cv, jd))
        blank = np.zeros((n, 4), np.float32)
        tier = np.full(n, Tier.PRIOR, np.int8)
        features = PairFeatures(cv.astype(np.float32), jd.astype(np.float32), blank, tier, "0123456789ab")
        return features, (cv[:, 0] > 0) == (jd[:, 0] > 0)

    (train, labels), (valid, valid_labels), (test, test_labels) = world(500), world(200), world(200)
    bert = TwoTowerRanker("mlp-plain", "base")
    bert.fit(train, labels, valid, valid_labels)
    assert auc(test_labels, bert.score(test)) > 0.95
    positive, negative = (np.full((1, 4), sign, np.float32) for sign in (1, -1))
    order = []
    for seeker in (positive, negative):
        jobs = np.concatenate([positive, negative])
        asked = PairFeatures(np.tile(seeker, (2, 1)), jobs, jobs * 0, np.full(2, Tier.PRIOR, np.int8), train.contract)
        order.append(int(bert.score(asked).argmax()))
    assert order == [0, 1], "each seeker's own job comes first"


def test_padding_says_nothing() -> None:
    cvs, jds = torch.tensor([[5, 6, 7]]), torch.tensor([[8, 9]])
    padded = torch.tensor([[5, 6, 7, 0, 0, 0]]), torch.tensor([[8, 9, 0, 0]])
    torch.manual_seed(0)
    network = APJFNN(20).eval()
    torch.testing.assert_close(network(cvs, jds), network(*padded))
    blank = PJFNN(20).eval()(torch.zeros((1, 1), dtype=torch.long), jds)
    assert torch.isfinite(blank).all()


def test_language_model_vectors_do_not_depend_on_the_batch(language_model: Path) -> None:
    encoder = LanguageModelEncoder(language_model, batch_size=3)
    texts = ["welding", "nursing degree english team", "", "welding " * 300]
    together = encoder.encode(texts)
    assert together.vectors.shape == (4, 32) and together.truncated.tolist() == [False, False, False, True]
    for row, text in enumerate(texts):
        np.testing.assert_allclose(encoder.encode([text]).vectors[0], together.vectors[row], atol=1e-5)


def test_an_unknown_baseline_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no baseline 'bpr'"):
        make_baseline("bpr", 0, tmp_path, TABLE)
    with pytest.raises(ConfigError, match="no text ranker 'bert'"):
        NeuralTextRanker("bert")
