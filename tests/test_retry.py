"""Best-of-N: what is drawn, what is kept, and when a defective JD is drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from girl_features.batch.run import MaterializeReport
from girl_features.cli import app
from girl_features.config import SamplingConfig
from girl_features.contract import FeatureContract
from girl_features.generator.draw import generate_chunk
from girl_features.schema import CVVersion, GeneratedText
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


def test_only_jds_that_are_lacking_in_the_end_count_as_unfinished() -> None:
    """1,500 CVs whose draws are good, cut or looping in any order, against a count by hand."""
    rng = np.random.default_rng(0)
    for n, best_of in ((1, None), (3, None), (2, 4)):
        contract = feature_contract(n=n) if best_of is None else _contract(n, best_of)
        for _ in range(500):
            outcomes = [str(one) for one in rng.choice(["good", "cut", "empty"], 2 * (best_of or n))]
            chunk = generate_chunk(_Scripted(outcomes), [CV], contract, WordReward())
            first, rest = outcomes[: best_of or n], outcomes[best_of or n :]
            n_bad = sum(one != "good" for one in first)
            second = rest[:n_bad] if len(first) - n_bad < n else []
            n_good = len(first) - n_bad + second.count("good")
            assert chunk.n_unfinished == min(max(n - n_good, 0), second.count("cut")), outcomes
            assert len(chunk.kept[0]) == min(n_good, n)
            if len(chunk.kept[0]) == n:
                assert chunk.n_unfinished == 0, "each JD that was cut was drawn again, and nothing is lacking"


class _Scripted:
    """Writes JDs with these outcomes, one after the other."""

    def __init__(self, outcomes: Sequence[str]) -> None:
        self._outcomes = iter(outcomes)

    def generate(self, cvs: Sequence[str], seeds: Sequence[Sequence[int]]) -> list[list[GeneratedText]]:
        return [[self._write() for _ in cv_seeds] for cv_seeds in seeds]

    def _write(self) -> GeneratedText:
        outcome = next(self._outcomes)
        text = "" if outcome == "empty" else "a cook for the night"
        return GeneratedText(text, "length" if outcome == "cut" else "stop", 9, 9, False)


@pytest.mark.parametrize(("n_cvs", "said"), [(0, ""), (4, "6 JDs are not stored: two draws of each were cut")])
def test_the_message_is_about_what_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_cvs: int, said: str
) -> None:
    report = MaterializeReport("contract", "run", "template", n_unfinished=6 if n_cvs else 0, n_retried=9)
    report.failures = {"unfinished": n_cvs} if n_cvs else {}
    monkeypatch.setattr("girl_features.batch.local.materialize", lambda *_, **__: report)
    config = tmp_path / "girl.yaml"
    config.write_text("tables: {job_seekers: {path: a}, jobs: {path: b}, interactions: {path: c}}")
    result = CliRunner().invoke(app, ["materialize", "--config", str(config)])
    assert result.exit_code == 0, result.output
    assert (said in result.stderr) if said else "not stored" not in result.output
    if said:
        assert f"{n_cvs} CVs have no JD for that reason" in result.stderr and "(192)" in result.stderr
