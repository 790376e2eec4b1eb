"""Fits of pairs, kept on disk: nothing is scored twice, nothing is mixed up, and a stopped run goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from girl_features.config import SFTConfig
from girl_features.errors import InterruptedRunError
from girl_features.lab.experiment.rows import pair_fits
from girl_features.lab.pair_fits import PAIRS_AT_ONCE, PairFits
from tests.experiment_world import prepared_for, steps_for


class Lengths:
    """Gives the lengths of both texts, and counts the calls and pairs. It stops at the pair `stop_at`."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.n_opened, self.n_scored, self._stop_at = 0, 0, stop_at

    def open(self) -> Lengths:
        self.n_opened += 1
        return self

    def score(self, cvs: Sequence[str], jds: Sequence[str]) -> np.ndarray:
        if self._stop_at is not None and self.n_scored + len(cvs) > self._stop_at:
            raise KeyboardInterrupt
        self.n_scored += len(cvs)
        return np.array([[len(cv), len(jd)] for cv, jd in zip(cvs, jds, strict=True)], np.float32)


CVS = ["a" * (i % 90) for i in range(700)]
JDS = ["b" * (i % 7) for i in range(700)]
WANTED = np.array([[i % 90, i % 7] for i in range(700)], np.float32)


def test_fits_are_kept_and_in_order(tmp_path: Path) -> None:
    first, second = Lengths(), Lengths()
    np.testing.assert_array_equal(PairFits(first.open, tmp_path).of(CVS, JDS), WANTED)
    assert first.n_scored == len(set(zip(CVS, JDS, strict=True))) < len(CVS), "equal pairs are scored once"
    np.testing.assert_array_equal(PairFits(second.open, tmp_path).of(CVS[::-1], JDS[::-1]), WANTED[::-1])
    assert second.n_opened == 0, "the model is not even opened"
    more = PairFits(second.open, tmp_path).of(["ab"], ["a"])  # not the same pair as a and ba
    assert more.tolist() == [[2, 1]] and PairFits(second.open, tmp_path).of(["a"], ["ba"]).tolist() == [[1, 2]]


def test_a_stopped_run_goes_on(tmp_path: Path) -> None:
    stopped, rest = Lengths(stop_at=400), Lengths()
    with pytest.raises(KeyboardInterrupt):
        PairFits(stopped.open, tmp_path).of(CVS, JDS)
    assert stopped.n_scored >= PAIRS_AT_ONCE
    np.testing.assert_array_equal(PairFits(rest.open, tmp_path).of(CVS, JDS), WANTED)
    assert rest.n_scored == len(set(zip(CVS, JDS, strict=True))) - stopped.n_scored


def test_a_run_stops_where_it_is_asked_to(tmp_path: Path) -> None:
    scorer = Lengths()
    with pytest.raises(InterruptedRunError):
        PairFits(scorer.open, tmp_path, lambda: scorer.n_scored > 0).of(CVS, JDS)
    kept = scorer.n_scored
    rest = Lengths()
    np.testing.assert_array_equal(PairFits(rest.open, tmp_path).of(CVS, JDS), WANTED)
    assert kept > 0 and rest.n_scored == len(set(zip(CVS, JDS, strict=True))) - kept


def test_the_folder_is_named_by_all_that_decides_a_fit(tmp_path: Path) -> None:
    generator = prepared_for(tmp_path, "market").generators["girl"]
    steps, contract = steps_for(), generator.contract
    longer = generator.config.model_copy(update={"sft": SFTConfig(max_jd_tokens=50)})
    others = [
        (steps._replace(fit_recipe=2), generator),
        (steps, generator._replace(config=longer)),
        *(
            (steps, generator._replace(contract=contract.model_copy(update={name: value})))
            for name, value in (("weights_sha256", "other"), ("adapter_sha256", "some"), ("max_cv_tokens", 7))
        ),
    ]
    names = set()
    for asked, given in [(steps, generator), *others]:
        scored = asked._replace(open_fit_scorer=lambda *_, **__: Lengths())
        folder = tmp_path / "kept"
        pair_fits(given, folder, scored, lambda: False).of(["a"], ["b"])
        names |= {path.name for path in (folder / "fits").iterdir()}
    assert len(names) == 6


def test_a_damaged_file_is_scored_again(tmp_path: Path) -> None:
    PairFits(Lengths().open, tmp_path).of(CVS, JDS)
    damaged = sorted(tmp_path.glob("part-*.parquet"))[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    again = Lengths()
    np.testing.assert_array_equal(PairFits(again.open, tmp_path).of(CVS, JDS), WANTED)
    assert 0 < again.n_scored < len(CVS)
