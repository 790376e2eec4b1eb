"""What people read: the terminal's tables, the results page, the machine's line and the picture."""

from __future__ import annotations

import datetime
import io
import platform
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from girl_features.errors import UndefinedMetricError
from girl_features.evaluation.plots import plot_gains
from girl_features.evaluation.report import chance_warning, findings, markdown_tables, print_comparison, write_markdown
from girl_features.evaluation.results import Comparison, ResultRow
from girl_features.machine import machine_description

BASE_ROW = ResultRow(
    data="careers",
    predictor="lightgbm-plain",
    row="base",
    slice="all",
    auc=0.8,
    auc_low=0.78123,
    auc_high=0.82,
    logloss=0.4,
    seeds=3,
    n=900,
    auc_gain=None,
    auc_gain_low=None,
    auc_gain_high=None,
    logloss_gain=None,
    logloss_gain_low=None,
    logloss_gain_high=None,
    auc_seed_sd=0.001,
    auc_gain_seed_sd=None,
    brier=0.12,
    ece=0.034,
    n_seekers=200,
    verdict=None,
    note=None,
)
BETTER = replace(
    BASE_ROW,
    row="girl-sft",
    auc=0.812,
    auc_gain=0.012,
    auc_gain_low=0.004,
    auc_gain_high=0.0205,
    logloss_gain=-0.01,
    logloss_gain_low=-0.02,
    logloss_gain_high=-0.001,
    auc_gain_seed_sd=0.002,
    verdict="better",
)
NOT_SHOWN = replace(BETTER, slice="cold", auc_gain_low=-0.003, verdict="not shown", n=300, n_seekers=90)
WORSE = replace(BETTER, auc_gain=-0.02, auc_gain_low=-0.03, auc_gain_high=-0.01, verdict="worse")
UNDEFINED = replace(
    NOT_SHOWN, auc=None, auc_gain=None, auc_gain_low=None, auc_gain_high=None, verdict=None, note="too few seekers"
)


def comparison_of(*rows: ResultRow, data: str = "careers", n_redrawn: int = 0) -> Comparison:
    part = {"n": 900, "n_matched": 180, "n_seekers": 200, "n_cold_start": 300, "n_with_generated_jd": 890}
    meta = {
        "data": data,
        "seeds": [0, 1, 2],
        "n_bootstrap": 1000,
        "bootstrap_seed": 7,
        "n_redrawn": {"all": 0, "cold": n_redrawn},
        "contracts": {"base": "a" * 12, "girl-sft": "a" * 12},
        "parts": {"train": part, "valid": part, "test": part},
    }
    return Comparison(list(rows), meta, pl.DataFrame())


def printed(comparison: Comparison, width: int, simulation: bool = False) -> str:
    out = io.StringIO()
    print_comparison(comparison, simulation, Console(file=out, width=width))
    return out.getvalue()


def page(tmp_path: Path, comparison: Comparison, simulation: bool = False, **kwargs) -> str:
    path = tmp_path / "results" / "careers.md"
    settings = {
        "command": "girl evaluate --config careers.yaml",
        "machine": "a machine of 2 cores",
        "date": datetime.date(2026, 1, 2),
        "windows": {"SFT": "until 2010-05-01, 10,000 decisions"},
        "contracts": {"girl-sft": "aaaaaaaaaaaa, tiny"},
    }
    write_markdown(path, comparison, simulation=simulation, **(settings | kwargs))
    return path.read_text(encoding="utf-8")


def test_a_row_fits_one_line_of_an_80_column_terminal():
    lines = printed(comparison_of(BASE_ROW, BETTER), width=80).splitlines()
    row = next(line for line in lines if "girl-sft" in line)
    assert row.split() == ["lightgbm-plain", "girl-sft", "0.8120", "+0.0120", "+0.0040,", "+0.0205", "0.4000", "better"]


def test_a_wide_terminal_shows_the_interval_of_the_auc_too():
    comparison = comparison_of(BASE_ROW, BETTER)
    assert "0.7812, 0.8200" in printed(comparison, width=110)
    assert "0.7812, 0.8200" not in printed(comparison, width=80)


def test_names_are_printed_as_they_are_not_read_as_markup():
    assert "[red]x" in printed(comparison_of(replace(BASE_ROW, predictor="[red]x")), width=110)


def test_there_is_a_table_for_each_slice_with_its_size():
    text = printed(comparison_of(BASE_ROW, BETTER, NOT_SHOWN), width=110)
    assert "all test pairs (as table III of GIRL), 900 pairs of 200 seekers" in text
    assert "cold-start seekers (as table IV of GIRL), 300 pairs of 90 seekers" in text


@pytest.mark.parametrize("simulation", [True, False])
def test_a_simulation_is_called_one_in_every_headline(tmp_path: Path, simulation: bool):
    comparison = comparison_of(BASE_ROW, BETTER, NOT_SHOWN)
    headlines = re.findall(r"^#.*careers.*$", page(tmp_path, comparison, simulation), re.MULTILINE)
    assert len(headlines) == 3
    assert all(("imulation" in line) == simulation for line in headlines)
    assert printed(comparison, 110, simulation).count("Simulation:") == (2 if simulation else 0)


def test_findings_say_lift_none_or_loss_for_each_slice():
    assert findings(comparison_of(BASE_ROW, BETTER, NOT_SHOWN)) == [
        "lightgbm-plain, girl-sft over base: a lift on all pairs (AUC +0.0120, 95 % interval +0.0040, +0.0205); "
        "no lift shown on cold-start seekers (AUC +0.0120, 95 % interval -0.0030, +0.0205)."
    ]
    assert "a loss on all pairs (AUC -0.0200" in findings(comparison_of(BASE_ROW, WORSE))[0]
    assert "nothing can be said on cold-start seekers (too few seekers)" in findings(comparison_of(UNDEFINED))[0]


def test_a_lift_on_one_seed_is_flagged():
    assert "one seed" not in findings(comparison_of(BETTER))[0]
    assert "one seed only" in findings(comparison_of(replace(BETTER, seeds=1, auc_gain_seed_sd=None)))[0]


def test_the_warning_counts_verdicts():
    # three verdicts, 3 * .05 = .15
    warning = chance_warning(comparison_of(BASE_ROW, BETTER, NOT_SHOWN, WORSE, UNDEFINED))
    assert warning.startswith("3 differences were tested") and "about 0.15 of them" in warning


def test_the_page_holds_what_made_it(tmp_path: Path):
    text = page(tmp_path, comparison_of(BASE_ROW, BETTER), notes=["one test market"], plot="gains.png")
    for wanted in (
        "# Results on careers\n\n    girl evaluate --config careers.yaml\n",
        "**Date:** 2026-01-02",
        "**Machine:** a machine of 2 cores",
        "**Seeds:** 0, 1, 2 (rankers); 7 (bootstrap, 1000 resamples)",
        "**Window, SFT:** until 2010-05-01, 10,000 decisions",
        "**Contract, girl-sft:** aaaaaaaaaaaa, tiny",
        "**Pairs, test:** 900 of 200 seekers, 180 matched, 300 cold-start, 890 with a generated JD",
        "](gains.png)",
        "- one test market",
    ):
        assert wanted in text


def test_the_tables_of_the_page_hold_every_number(tmp_path: Path):
    text = page(tmp_path, comparison_of(BASE_ROW, BETTER))
    assert "| lightgbm-plain | base | 0.8000 | 0.7812, 0.8200 |  |  | 0.4000 |  | 900 |" in text
    better = "| girl-sft | 0.8120 | 0.7812, 0.8200 | +0.0120 | +0.0040, +0.0205 | 0.4000 | better | 900 |"
    assert f"| lightgbm-plain {better}" in text
    spread = "| girl-sft | 0.0010 | 0.0020 | -0.0100 | -0.0200, -0.0010 | 0.1200 | 0.0340 |"
    assert f"| all | lightgbm-plain {spread}" in text


def test_notes_and_redrawn_resamples_stand_under_their_table():
    text = markdown_tables(comparison_of(BASE_ROW, BETTER, UNDEFINED, n_redrawn=4))
    cold = text[text.index("cold-start seekers") :]
    assert "- too few seekers" in cold and "- 4 resamples lacked a class" in cold
    assert "too few seekers" not in text[: text.index("cold-start seekers")]


def test_names_cannot_break_the_page(tmp_path: Path):
    nasty = "<script>alert(1)</script> | x\n# y"
    text = page(
        tmp_path, comparison_of(replace(BASE_ROW, predictor=nasty), data=nasty), notes=[nasty], command="a\n# b"
    )
    assert "<script>" not in text
    assert not re.search(r"^# [by]", text, re.MULTILINE)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; \\| x # y" in text
    assert "    a\n    # b\n" in text


def test_the_machine_is_described_without_its_name():
    text = machine_description()
    assert re.search(r"\d+ cores, [\d.]+ GiB memory, .*Python 3\.\d+\.\d+; girl-features \d.*numpy \d", text)
    assert platform.node() not in text


def test_the_picture_is_a_png_of_some_content(tmp_path: Path):
    path = tmp_path / "pictures" / "gains.png"
    outside = replace(WORSE, slice="cold", auc_gain=0.5)  # a point outside its interval is drawn, not refused
    plot_gains(comparison_of(BASE_ROW, BETTER, UNDEFINED, outside, replace(BETTER, row="girl")), path)
    from matplotlib.image import imread

    pixels = (imread(path)[..., :3] * 255).round().astype(int)
    for colour in ([0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00]):  # of the first two rows
        assert (pixels == colour).all(axis=-1).sum() > 100


def test_nothing_to_plot_is_an_error(tmp_path: Path):
    with pytest.raises(UndefinedMetricError, match="nothing to plot"):
        plot_gains(comparison_of(BASE_ROW), tmp_path / "gains.png")
