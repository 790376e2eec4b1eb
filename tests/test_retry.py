"""Best-of-N: what is drawn, what is kept, and when a defective JD is drawn again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from girl_features.config import SamplingConfig
from girl_features.contract import FeatureContract
from girl_features.generator.draw import generate_chunk
from girl_features.schema import CVVersion
from tests.fakes import TemplateGenerator, feature_contract
from tests.input_tables import day

CV = CVVersion("s1", "a cook", day(0), "0" * 16)


class WordReward:
    """A RewardModel that scores a JD by its number of words."""

    def score(self, cvs: Sequence[str], jds: Sequence[str]) -> np.ndarray:
        assert len(cvs) == len(jds)
        return np.array([len(jd.split()) for jd in jds], np.float32)


def _contract(n: int, best_of: int) -> FeatureContract:
    contract = feature_contract(n=n)
    sampling = contract.sampling.model_copy(update={"best_of": best_of, "reward_sha256": "4" * 64})
    return contract.model_copy(update={"sampling": sampling})


def _kept(script: list[str], n: int, best_of: int) -> tuple[list[str], int]:
    generator = TemplateGenerator({CV.cv: script})
    chunk = generate_chunk(generator, [CV], _contract(n, best_of), WordReward())
    return [text.text for text in chunk.texts[0]], len(generator.calls)


def test_the_best_n_are_kept_best_first() -> None:
    script = ["one two three", "one two three four five", "a b c", "one two three four"]
    assert _kept(script, 2, 4) == (["one two three four five", "one two three four"], 4)


def test_of_equal_ones_the_first_drawn_is_kept() -> None:
    assert _kept(["a b c", "d e f", "g h i"], 1, 3) == (["a b c"], 3)


def test_a_defective_jd_is_drawn_again_only_where_too_few_are_good() -> None:
    assert _kept(["x", "a b c", "d e f g"], 1, 3) == (["d e f g"], 3)
    assert _kept(["x", "y", "a b c", "d e f g", "no"], 2, 3) == (["a b c", "d e f g"], 5)


def test_a_cv_without_any_good_jd_fails_as_before() -> None:
    chunk = generate_chunk(TemplateGenerator({CV.cv: ["x"] * 6}), [CV], _contract(1, 3), WordReward())
    assert chunk.texts == [[]]
    assert chunk.failures == ["empty"]


def test_best_of_has_to_draw_more_than_it_keeps() -> None:
    assert SamplingConfig(n=2, best_of=3).best_of == 3
    with pytest.raises(ValueError, match="draw more than that"):
        SamplingConfig(n=3, best_of=3)
