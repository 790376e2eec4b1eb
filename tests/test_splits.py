from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from girl_features.config import WindowsConfig
from girl_features.errors import EmptyWindowError
from girl_features.input.splits import (
    WINDOWS,
    Windows,
    cut_windows,
    preference_pairs,
    ranking_split,
    rl_cvs,
    sft_pairs,
    summarize,
)
from girl_features.input.tables import Tables
from girl_features.store.parts.tombstones import Tombstones, id_hash
from tests.input_tables import day, load, write_tables

FIXTURE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
Rows = dict[str, list[tuple[Any, ...]]]


def windows_at(*days: float) -> Windows:
    return Windows(*(day(n) for n in days))


class Decision(NamedTuple):
    job_seeker_id: str
    job_id: str
    matched: bool
    decided_at: datetime


class Market:
    """The slow, obvious oracle: plain loops over rows that are all usable."""

    def __init__(self, rows: Rows) -> None:
        self.cvs = {(seeker, at): cv for seeker, cv, at in rows["job_seekers"]}
        self.jds = {job: jd for job, jd, _ in rows["jobs"]}
        latest = {row[:2] + row[3:]: Decision(*row) for row in rows["interactions"]}  # the last of one key
        self.decisions = sorted(
            (d for d in latest.values() if self.version(d) is not None),
            key=lambda d: (d.decided_at, d.job_seeker_id, d.job_id),
        )

    def version(self, d: Decision) -> datetime | None:
        known = [at for seeker, at in self.cvs if seeker == d.job_seeker_id and at < d.decided_at]
        return max(known, default=None)

    def cv(self, d: Decision) -> str:
        return self.cvs[d.job_seeker_id, self.version(d)]

    def inside(self, windows: Windows, name: str) -> list[Decision]:
        start, end = windows.bounds(name)
        return [d for d in self.decisions if (not start or d.decided_at >= start) and (not end or d.decided_at < end)]


days = st.integers(0, 12)


@st.composite
def markets(draw: st.DrawFn) -> Rows:
    """A few seekers, jobs and days, so that ties, repeats and decisions before any CV all turn up."""
    seekers, jobs = ["s1", "s2", "s3"], ["j1", "j2", "j3"]
    versions = draw(st.lists(st.tuples(st.sampled_from(seekers), days), min_size=1, max_size=9, unique=True))
    texts = st.sampled_from(["", " ", "welder", "clerk", "cook"])
    interaction = st.tuples(st.sampled_from(seekers), st.sampled_from(jobs), st.booleans(), days.map(day))
    return {
        "job_seekers": [(seeker, draw(texts).strip(), day(at)) for seeker, at in versions],
        "jobs": [(job, draw(st.sampled_from(["weld", "file"])), day(0)) for job in jobs],
        "interactions": draw(st.lists(interaction, max_size=30)),
    }


ends = st.lists(days, min_size=5, max_size=5).map(lambda values: windows_at(*sorted(values)))


@settings(max_examples=40, deadline=None, suppress_health_check=FIXTURE)
@given(markets(), ends)
def test_all_splits_agree_with_the_oracle(tmp_path: Path, rows: Rows, windows: Windows) -> None:
    market = Market(rows)
    with load(write_tables(tmp_path, rows)) as tables:
        check_sft_pairs(tables, market, windows)
        check_preference_pairs(tables, market, windows)
        check_rl_cvs(tables, market, windows)
        check_ranking(tables, market, windows)
        check_summary(tables, market, windows)


def check_sft_pairs(tables: Tables, market: Market, windows: Windows) -> None:
    wanted = [
        (d.job_seeker_id, d.job_id, market.cv(d), market.jds[d.job_id], d.decided_at)
        for d in market.inside(windows, "sft")
        if d.matched and market.cv(d)
    ]
    if wanted:
        assert sft_pairs(tables, windows).rows() == wanted
    else:
        with pytest.raises(EmptyWindowError, match="the sft window"):
            sft_pairs(tables, windows)


def check_preference_pairs(tables: Tables, market: Market, windows: Windows) -> None:
    inside = market.inside(windows, "reward")
    wanted: dict[tuple[Any, ...], datetime] = {}
    for chosen in inside:
        for rejected in inside:
            key = (chosen.job_seeker_id, market.version(chosen))
            if key != (rejected.job_seeker_id, market.version(rejected)) or not market.cv(chosen):
                continue
            also_matched = any(
                d.matched and d.job_id == rejected.job_id and (d.job_seeker_id, market.version(d)) == key
                for d in inside
            )
            if not chosen.matched or rejected.matched or also_matched:
                continue
            if market.jds[chosen.job_id] != market.jds[rejected.job_id]:
                pair = (*key, chosen.job_id, rejected.job_id)
                known = max(chosen.decided_at, rejected.decided_at)
                wanted[pair] = min(known, wanted.get(pair, known))
    rows = [
        (seeker, market.cvs[seeker, version], market.jds[chosen], market.jds[rejected], at)
        for (seeker, version, chosen, rejected), at in wanted.items()
    ]
    found = preference_pairs(tables, windows).rows()
    assert sorted(found) == sorted(rows)
    assert [row[-1] for row in found] == sorted(row[-1] for row in rows)


def check_rl_cvs(tables: Tables, market: Market, windows: Windows) -> None:
    used = {d.job_seeker_id for name in ("sft", "reward") for d in market.inside(windows, name)}
    versions = {(d.job_seeker_id, market.version(d)) for d in market.inside(windows, "rl")}
    wanted = [
        (seeker, market.cvs[seeker, at], at)
        for seeker, at in sorted(versions)
        if seeker not in used and market.cvs[seeker, at]
    ]
    assert [row[:3] for row in rl_cvs(tables, windows).rows()] == wanted


def check_ranking(tables: Tables, market: Market, windows: Windows) -> None:
    parts = [market.inside(windows, name) for name in ("train", "valid", "test")]
    if any(len({d.matched for d in part}) < 2 for part in parts):
        with pytest.raises(EmptyWindowError, match=r"the (train|valid|test) window"):
            ranking_split(tables, windows)
        return
    seen = {d.job_seeker_id for d in parts[0]}
    for frame, part in zip(ranking_split(tables, windows), parts, strict=True):
        assert frame.rows() == [(*d, d.job_seeker_id not in seen) for d in part]


def check_summary(tables: Tables, market: Market, windows: Windows) -> None:
    summary = summarize(tables, windows)
    assert tuple(row.window for row in summary.windows) == WINDOWS
    assert sum(row.n_decisions for row in summary.windows) == len(market.decisions)
    seen = {d.job_seeker_id for d in market.inside(windows, "train")}
    for row in summary.windows:
        inside = market.inside(windows, row.window)
        cold = [d.job_seeker_id for d in inside if d.job_seeker_id not in seen and row.window in ("valid", "test")]
        assert row.n_decisions == len(inside)
        assert row.n_matched == sum(d.matched for d in inside)
        assert row.n_seekers == len({d.job_seeker_id for d in inside})
        assert (row.n_cold_decisions, row.n_cold_seekers) == (len(cold), len(set(cold)))
    usable = {row.window: row.n_usable for row in summary.windows}
    assert usable["reward"] == preference_pairs(tables, windows).height
    assert usable["rl"] == rl_cvs(tables, windows).height
    assert usable["sft"] == sum(d.matched and bool(market.cv(d)) for d in market.inside(windows, "sft"))
    json.dumps(summary.to_dict())


shares = st.lists(st.integers(1, 10), min_size=6, max_size=6)


@settings(max_examples=30, deadline=None, suppress_health_check=FIXTURE)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=60), shares)
def test_windows_by_share_partition_the_decisions(tmp_path: Path, times: list[int], weights: list[int]) -> None:
    fractions = [weight / sum(weights) for weight in weights]
    config = WindowsConfig(**dict(zip((f"{name}_share" for name in WINDOWS[:5]), fractions, strict=False)))
    rows = {
        "job_seekers": [("s1", "cv", day(-1))],
        "jobs": [(f"j{i}", "jd", day(0)) for i in range(len(times))],
        "interactions": [("s1", f"j{i}", True, day(time)) for i, time in enumerate(times)],
    }
    with load(write_tables(tmp_path, rows)) as tables:
        windows = cut_windows(tables, config)
        counts = [row.n_decisions for row in summarize(tables, windows).windows]
    assert list(windows) == sorted(windows)
    assert sum(counts) == len(times)
    assert counts[-1] > 0  # the last instant is always left to test
    for i, end in enumerate(windows):
        wanted = sum(fractions[: i + 1]) * len(times)
        before = {cut: sum(time < cut for time in times) for cut in set(times)}
        distance = abs(before[(end - day(0)).days] - wanted)
        assert distance <= min(abs(n - wanted) for n in before.values()) + 1e-6


def test_windows_by_share_on_evenly_spaced_decisions(tmp_path: Path) -> None:
    rows = {
        "job_seekers": [("s1", "cv", day(-1))],
        "jobs": [("j1", "jd", day(0))],
        "interactions": [("s1", "j1", True, day(i)) for i in range(100)],
    }
    with load(write_tables(tmp_path, rows)) as tables:
        windows = cut_windows(tables, WindowsConfig())
    assert windows == windows_at(40, 50, 55, 82, 88)  # .40, .10, .05, .27, .06 of 100 decisions, one a day
    assert all(end.tzinfo is UTC for end in windows)


def test_windows_by_given_ends_need_no_decisions(tmp_path: Path) -> None:
    given_ends = dict(zip((f"{name}_end" for name in WINDOWS[:5]), windows_at(1, 2, 3, 4, 5), strict=False))
    with load(write_tables(tmp_path, {"interactions": []})) as tables:
        windows = cut_windows(tables, WindowsConfig(**given_ends))
        assert windows == windows_at(1, 2, 3, 4, 5)
        assert all(row.n_decisions == row.n_usable == 0 for row in summarize(tables, windows).windows)
        with pytest.raises(EmptyWindowError, match=r"no usable decisions.*`windows.sft_end`"):
            cut_windows(tables, WindowsConfig())


def test_an_end_is_exclusive_and_a_cv_of_the_very_instant_is_too_new(tmp_path: Path) -> None:
    tick = timedelta(microseconds=1)
    rows = {
        "job_seekers": [("s1", "old", day(0)), ("s1", "new", day(5))],
        "jobs": [("j1", "jd", day(0))],
        "interactions": [("s1", "j1", True, day(5)), ("s1", "j1", True, day(5) + tick)],
    }
    with load(write_tables(tmp_path, rows)) as tables:
        assert sft_pairs(tables, windows_at(6, 6, 6, 6, 6))["cv"].to_list() == ["old", "new"]
        assert sft_pairs(tables, Windows(*[day(5) + tick] * 5))["cv"].to_list() == ["old"]
        with pytest.raises(EmptyWindowError):
            sft_pairs(tables, windows_at(5, 5, 5, 5, 5))


def busy_market(n: int = 200) -> Rows:
    """Rows with no two of one key, so that their order cannot matter."""
    random = Random(0)
    return {
        "job_seekers": [(f"s{i % 40}", f"cv {i}", day(i // 40)) for i in range(n)],
        "jobs": [(f"j{i}", f"jd {i}", day(i % 7)) for i in range(n)],
        "interactions": [
            (f"s{random.randrange(40)}", f"j{i}", random.random() < 0.4, day(1 + random.randrange(300) / 10))
            for i in range(n)
        ],
    }


def test_shuffled_input_gives_the_same_result(tmp_path: Path) -> None:
    def everything(rows: Rows) -> list[Any]:
        with load(write_tables(tmp_path, rows), strict=True) as tables:
            windows = cut_windows(tables, WindowsConfig())
            frames = [f(tables, windows) for f in (sft_pairs, preference_pairs, rl_cvs)]
            return [
                windows,
                summarize(tables, windows),
                *(f.rows() for f in (*frames, *ranking_split(tables, windows))),
            ]

    rows = busy_market()
    expected = everything(rows)
    assert all(expected)
    for seed in range(3):
        shuffled = {name: Random(seed).sample(table, len(table)) for name, table in rows.items()}
        assert everything(shuffled) == expected


EMPTY = [
    ("train", windows_at(2, 3, 4, 4, 20), "`windows.rl_end` or `windows.train_end` or `windows.train_share`"),
    ("valid", windows_at(2, 3, 4, 20, 20), "`windows.train_end` or `windows.valid_end` or `windows.valid_share`"),
    ("test", windows_at(2, 3, 4, 10, 25), "`windows.valid_end` or `windows.valid_share`"),
]


@pytest.mark.parametrize(("window", "windows", "keys"), EMPTY)
def test_an_empty_window_is_named_with_its_bounds_and_keys(
    tmp_path: Path, window: str, windows: Windows, keys: str
) -> None:
    rows = busy_market()
    rows["interactions"] = [row for row in rows["interactions"] if row[3] < day(20) or window == "valid"]
    with load(write_tables(tmp_path, rows)) as tables:
        with pytest.raises(EmptyWindowError) as caught:
            ranking_split(tables, windows)
        message = str(caught.value)
        assert message.startswith(f"the {window} window, from {windows.bounds(window).start:%Y-%m-%d}")
        assert "has no decisions" in message and f"change {keys};" in message
        summary = summarize(tables, windows).to_dict()
        assert summary[window]["n_decisions"] == 0 and summary["sft"]["n_decisions"] > 0


@pytest.mark.parametrize(("matched", "kind"), [(True, "matched"), (False, "mismatched")])
def test_a_ranking_window_of_one_class_is_an_error(tmp_path: Path, matched: bool, kind: str) -> None:
    rows = busy_market()
    rows["interactions"] = [(*row[:2], row[2] if row[3] < day(20) else matched, row[3]) for row in rows["interactions"]]
    with (
        load(write_tables(tmp_path, rows)) as tables,
        pytest.raises(EmptyWindowError, match=rf"the valid window, .* has only {kind} decisions \(\d+\)"),
    ):
        ranking_split(tables, windows_at(2, 3, 4, 20, 25))


def test_the_sft_window_says_which_keys_to_change(tmp_path: Path) -> None:
    with (
        load(write_tables(tmp_path)) as tables,
        pytest.raises(
            EmptyWindowError, match=r"from the start to 2020-01-03T.*`windows.sft_end` or `windows.sft_share`"
        ),
    ):
        sft_pairs(tables, windows_at(2, 3, 4, 5, 6))


def test_sql_names_the_columns_of_the_schema(tmp_path: Path) -> None:
    from girl_features import schema

    with load(write_tables(tmp_path, busy_market())) as tables:
        windows = cut_windows(tables, WindowsConfig())
        pairs = (schema.JOB_SEEKER_ID, schema.JOB_ID, schema.CV, schema.JD, schema.DECIDED_AT)
        assert tuple(sft_pairs(tables, windows).columns) == pairs
        cvs = (schema.JOB_SEEKER_ID, schema.CV, schema.UPDATED_AT, schema.CV_HASH)
        assert tuple(rl_cvs(tables, windows).columns) == cvs == schema.CVVersion._fields[: len(cvs)]
        preferences = (schema.JOB_SEEKER_ID, schema.CV, schema.CHOSEN, schema.REJECTED, schema.DECIDED_AT)
        assert tuple(preference_pairs(tables, windows).columns) == preferences
        decisions = (*schema.INPUT_COLUMNS["interactions"], schema.IS_COLD_START)
        assert all(tuple(frame.columns) == decisions for frame in ranking_split(tables, windows))


def test_decisions_of_erased_seekers_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows, windows = busy_market(), windows_at(2, 3, 4, 20, 25)
    with load(write_tables(tmp_path, rows)) as tables:
        before = ranking_split(tables, windows)
        assert caplog.messages == []
        gone = before.train["job_seeker_id"][0]
        tables.erased = Tombstones({"job_seeker_id": frozenset([id_hash(gone)])})
        after = ranking_split(tables, windows)
    n = 0
    for was, now in zip(before, after, strict=True):
        assert now.equals(was.filter(was["job_seeker_id"] != gone)), "the others are as they were"
        n += was.height - now.height
    assert n > 0
    assert caplog.messages == [f"{n} decisions of erased job seekers are left out of the ranking windows"]
