"""The sample market: schemas, reproducibility, what is planted, and memory that does not grow."""

from __future__ import annotations

import re
import tracemalloc
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from girl_features import schema
from girl_features.errors import DataError
from girl_features.sample.market import (
    BLOCK_SEEKERS,
    CITIES,
    OPEN_JOBS,
    REMOTE,
    SHARPNESS,
    THRESHOLD,
    Jobs,
    People,
    covered_skills,
    match_probability,
    simulate_block,
    transfer_targets,
    true_fit,
)
from girl_features.sample.tables import (
    BLOCKS_PER_ROW_GROUP,
    SAMPLE_END,
    SCHEMAS,
    SampleSummary,
    block_tables,
    write_sample,
)
from girl_features.sample.words import specialisms

TABLES = ("job_seekers", "jobs", "interactions")
STOP_WORDS = frozenset(
    {"a", "at", "before", "by", "each", "for", "how", "in", "into", "is", "it", "me", "my", "not", "of", "on"}
    | {"out", "per", "that", "the", "them", "to", "up", "what", "when", "who", "with"}
)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SampleSummary]:
    folder = tmp_path_factory.mktemp("market")
    return folder, write_sample(folder, n_seekers=1100, seed=7)


def read(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def content_words(*texts: str) -> set[str]:
    return set(re.findall(r"[a-z]+", " ".join(texts).lower())) - STOP_WORDS


def specialism(name: str) -> int:
    return [s.name for s in specialisms()].index(name)


# --- files


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("job_seekers", schema.JOB_SEEKERS_SCHEMA),
        ("jobs", schema.JOBS_SCHEMA),
        ("interactions", schema.INTERACTIONS_SCHEMA),
    ],
)
def test_tables_have_exactly_the_input_schemas(market, name, wanted):
    folder, _ = market
    assert pq.read_schema(folder / f"{name}.parquet").equals(wanted)


def test_only_finished_tables_are_left_and_the_summary_counts_them(market):
    folder, summary = market
    assert {path.name for path in folder.iterdir()} == {f"{name}.parquet" for name in SCHEMAS}
    seekers, interactions = read(folder, "job_seekers"), read(folder, "interactions")
    assert summary == SampleSummary(
        n_seekers=seekers[schema.JOB_SEEKER_ID].n_unique(),
        n_cvs=len(seekers),
        n_jobs=len(read(folder, "jobs")),
        n_interactions=len(interactions),
        n_matched=interactions[schema.MATCHED].sum(),
    )
    assert summary.n_seekers == 1100


def test_same_arguments_write_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        write_sample(tmp_path / folder, n_seekers=40, seed=3)
    for name in SCHEMAS:
        assert (tmp_path / f"a/{name}.parquet").read_bytes() == (tmp_path / f"b/{name}.parquet").read_bytes()


def test_another_seed_is_another_market(tmp_path):
    write_sample(tmp_path / "a", n_seekers=40, seed=3)
    write_sample(tmp_path / "b", n_seekers=40, seed=4)
    for name in TABLES:
        assert not read(tmp_path / "a", name).equals(read(tmp_path / "b", name))


def test_a_seekers_rows_do_not_depend_on_how_many_were_asked_for(market, tmp_path):
    folder, _ = market
    write_sample(tmp_path, n_seekers=530, seed=7)  # ends within the second block
    for name in SCHEMAS:
        small, large = read(tmp_path, name), read(folder, name)
        if name == "jobs":  # a block that is not full has only the jobs its decisions are about
            large = large.filter(pl.col(schema.JOB_ID).is_in(small[schema.JOB_ID].implode()))
        assert large.head(len(small)).equals(small)
        if schema.JOB_SEEKER_ID in small.columns:
            assert small[schema.JOB_SEEKER_ID].n_unique() == 530


def test_existing_tables_are_kept_unless_overwriting_was_asked_for(tmp_path):
    mine = tmp_path / "jobs.parquet"
    mine.write_bytes(b"my own jobs")
    with pytest.raises(DataError, match=r"already holds jobs\.parquet"):
        write_sample(tmp_path, n_seekers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.parquet"]
    assert mine.read_bytes() == b"my own jobs"
    write_sample(tmp_path, n_seekers=1, overwrite=True)
    assert set(read(tmp_path, "jobs")[schema.JOB_ID]) == set(read(tmp_path, "interactions")[schema.JOB_ID])


def test_a_run_that_breaks_leaves_nothing(tmp_path):
    def stop(n_written: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path, n_seekers=1, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [{"n_seekers": 0}, {"seed": -1}, {"end": datetime(2025, 1, 1)}], ids=["size", "seed", "naive end"]
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(ValueError, match="wanted n_seekers >= 1"):
        write_sample(tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_progress_is_told_the_seekers_written_so_far(tmp_path):
    told: list[int] = []
    write_sample(tmp_path, n_seekers=2 * BLOCK_SEEKERS + 5, progress=told.append)
    assert told == [BLOCK_SEEKERS, 2 * BLOCK_SEEKERS, 2 * BLOCK_SEEKERS + 5]


def test_python_memory_does_not_grow_with_the_number_of_seekers(tmp_path):
    def peak(n_blocks: int) -> int:
        tracemalloc.start()
        write_sample(tmp_path / str(n_blocks), n_seekers=n_blocks * BLOCK_SEEKERS)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(1)  # what is made once
    assert peak(6) < 1.1 * peak(2)


def test_arrow_memory_does_not_grow_with_the_number_of_seekers(tmp_path):
    held: list[int] = []  # bytes, after each block
    write_sample(
        tmp_path,
        n_seekers=4 * BLOCKS_PER_ROW_GROUP * BLOCK_SEEKERS,
        progress=lambda _: held.append(pa.total_allocated_bytes()),
    )
    assert pq.ParquetFile(tmp_path / "jobs.parquet").num_row_groups == 4
    _, second, _, fourth = np.array(held).reshape(4, BLOCKS_PER_ROW_GROUP).max(axis=1)
    assert fourth < 1.1 * second


# --- time


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**63), block=st.integers(0, 40_000), n_seekers=st.integers(1, BLOCK_SEEKERS))
def test_every_decision_follows_a_cv_and_a_posting(seed, block, n_seekers):
    start = datetime(2022, 1, 1, tzinfo=UTC)
    microseconds = int(start.timestamp()) * 1_000_000
    tables = {name: pl.from_arrow(t) for name, t in block_tables(seed, block, n_seekers, microseconds).items()}
    cvs, jobs, decisions = (tables[name] for name in TABLES)
    first_cv = dict(cvs.group_by(schema.JOB_SEEKER_ID).agg(pl.min(schema.UPDATED_AT)).iter_rows())
    posted = dict(jobs.select(schema.JOB_ID, schema.POSTED_AT).iter_rows())
    end = start + timedelta(days=3 * 365)
    for seeker, job, _, decided_at in decisions.iter_rows():
        assert first_cv[seeker] < decided_at < end
        assert posted[job] < decided_at
    assert set(decisions[schema.JOB_SEEKER_ID]) == set(first_cv)
    assert len(first_cv) == n_seekers
    assert not decisions.select(schema.JOB_SEEKER_ID, schema.JOB_ID).is_duplicated().any()
    assert not cvs.select(schema.JOB_SEEKER_ID, schema.UPDATED_AT).is_duplicated().any()
    assert jobs[schema.JOB_ID].is_unique().all()
    assert max(posted.values()) < end and cvs[schema.UPDATED_AT].max() < end
    assert max(Counter(cvs[schema.JOB_SEEKER_ID]).values()) <= 5


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_decision_follows_the_newest_cv_before_it_and_an_open_posting(seed):
    block = simulate_block(seed, 0)
    versions, decisions = block.versions, block.decisions
    for seeker, version, job, decided_at in zip(*decisions[:4], strict=True):
        earlier = np.flatnonzero((versions.seeker == seeker) & (versions.updated_at < decided_at))
        assert version == earlier[-1] == earlier[np.argmax(versions.updated_at[earlier])]
        posted = np.flatnonzero(block.posted_at < decided_at)
        assert job in posted[-OPEN_JOBS:]


def test_a_quarter_of_the_seekers_appear_late_and_activity_is_skewed(market):
    folder, _ = market
    first = read(folder, "job_seekers").group_by(schema.JOB_SEEKER_ID).agg(pl.min(schema.UPDATED_AT))
    late = (first[schema.UPDATED_AT] >= SAMPLE_END - timedelta(days=3 * 365 * 0.1)).mean()
    assert 0.21 < late < 0.29
    n_decisions = read(folder, "interactions").group_by(schema.JOB_SEEKER_ID).len()["len"]
    assert n_decisions.min() == 1
    assert n_decisions.max() >= 20
    assert n_decisions.median() <= 5


def test_the_end_moves_every_time_and_nothing_else(tmp_path):
    later = SAMPLE_END + timedelta(days=100)
    write_sample(tmp_path / "a", n_seekers=20)
    write_sample(tmp_path / "b", n_seekers=20, end=later)
    a, b = read(tmp_path / "a", "interactions"), read(tmp_path / "b", "interactions")
    assert a.with_columns(pl.col(schema.DECIDED_AT) + timedelta(days=100)).equals(b)


# --- words


def test_a_skills_two_languages_share_no_content_word():
    by_name = {s.name: s for s in specialisms()}
    for s in specialisms():
        for k, skill in enumerate(s.skills):
            for employer in (skill, by_name[s.carries_to].skills[k]):
                assert not content_words(*skill.cv) & content_words(*employer.jd), (s.name, k)
        assert not content_words(*s.cv_titles) & content_words(*s.jd_titles), s.name


def test_every_phrase_belongs_to_one_skill():
    phrases = Counter(p for s in specialisms() for skill in s.skills for side in skill for p in side)
    assert len(phrases) == 24 * 3 * 2 * 2
    assert set(phrases.values()) == {1}


def test_texts_are_short_varied_and_of_a_compact_language(market):
    folder, _ = market
    cvs = read(folder, "job_seekers")[schema.CV]
    jds = read(folder, "jobs")[schema.JD]
    cv_words, jd_words = (texts.str.split(" ").list.len() for texts in (cvs, jds))
    assert cv_words.min() >= 50 and cv_words.max() <= 150
    assert jd_words.min() >= 45 and jd_words.max() <= 110
    assert len(content_words(*cvs, *jds)) < 1300
    first_cvs = read(folder, "job_seekers").unique(schema.JOB_SEEKER_ID, keep="first")[schema.CV]
    assert first_cvs.is_unique().all()
    assert 0.8 * len(cvs) < cvs.n_unique() < 0.95 * len(cvs)  # some versions were saved again unchanged
    assert jds.n_unique() > 0.98 * len(jds)


def test_texts_say_what_decides():
    block = simulate_block(5, 0)
    tables = block_tables(5, 0, BLOCK_SEEKERS, 0)
    cvs, jds = tables["job_seekers"][schema.CV].to_pylist(), tables["jobs"][schema.JD].to_pylist()
    people = block.versions.people
    for text, years, which, city, skills in zip(
        cvs, block.versions.years, people.specialism, people.city, people.skills, strict=True
    ):
        assert CITIES[city] in text
        assert years < 2 or f"{years} years" in text
        assert any(title in text for title in specialisms()[which].cv_titles)
        for k, skill in enumerate(specialisms()[which].skills):
            assert not skills >> k & 1 or any(phrase in text for phrase in skill.cv)
    for text, which, city, skills in zip(jds, block.jobs.specialism, block.jobs.city, block.jobs.skills, strict=True):
        title_line = text.splitlines()[0]
        assert title_line.endswith("remote" if city == REMOTE else CITIES[city])
        assert any(title in title_line for title in specialisms()[which].jd_titles)
        for k, skill in enumerate(specialisms()[which].skills):
            assert not skills >> k & 1 or all(phrase in text for phrase in skill.jd)


def test_a_new_version_says_again_what_did_not_change(market):
    folder, _ = market
    lines = read(folder, "job_seekers").filter(pl.col(schema.CV).str.starts_with("WORK")).iter_rows()
    previous: tuple[str, list[str]] = ("", [])
    compared = 0
    for seeker, cv, _ in lines:
        bullets = [line for line in cv.splitlines() if line.startswith("- ")]
        if seeker == previous[0]:
            compared += 1
            assert set(previous[1]) <= set(bullets)
        previous = (seeker, bullets)
    assert compared > 50


# --- decisions


def one_person(name: str, rung: int = 1, city: int = 0, can_move: bool = False, skills: int = 0b111) -> People:
    return People(*(np.array([value]) for value in (specialism(name), rung, city, can_move, skills)))


def one_job(name: str, rung: int = 1, city: int = 0, skills: int = 0b011) -> Jobs:
    return Jobs(*(np.array([value]) for value in (specialism(name), rung, city, skills)))


def test_true_fit_by_hand():
    teacher = one_person("school lessons", rung=2, skills=0b001)
    # specialism 1, skills 1 of 2 (skill 0 carries over, skill 1 is not held), rung 2 - 1 = 1, same town
    designer = one_job("training design")
    assert true_fit(teacher, designer)[0] == pytest.approx(0.45 * 1 + 0.20 * 0.5 + 0.17 * 1 + 0.18 * 1)
    # one rung too high (.4), and in another town
    assert true_fit(teacher, one_job("training design", rung=2, city=3))[0] == pytest.approx(
        0.45 * 1 + 0.20 * 0.5 + 0.17 * 0.4
    )
    # the teacher's own line: .4, skill 0 by name, rung right (1), remote
    assert true_fit(teacher, one_job("school lessons", city=REMOTE))[0] == pytest.approx(
        0.45 * 0.4 + 0.20 * 0.5 + 0.17 * 1 + 0.18 * 1
    )
    # nothing in common, three rungs off: a move (.5) is all there is
    mover = one_person("school lessons", rung=0, can_move=True)
    assert true_fit(mover, one_job("field repair", rung=3, city=2))[0] == pytest.approx(0.18 * 0.5)
    # the other half of the trade carried to: .5; it needs skills 0 and 1, the teacher has none of them
    assert true_fit(teacher, one_job("training delivery"))[0] == pytest.approx(0.45 * 0.5 + 0.17 + 0.18)


def test_match_probability_by_hand():
    # logistic(10 * (0.9 - 0.8)) = 1 / (1 + 1/e) = 0.73106
    assert match_probability(np.array([THRESHOLD, 0.9])) == pytest.approx([0.5, 0.73106], abs=1e-5)


def test_staying_in_a_trade_costs_no_rung():
    coder = one_person("clinical coding", rung=2)
    fits = [true_fit(coder, one_job("clinical coding", rung=rung))[0] for rung in range(4)]
    assert np.argmax(fits) == 2


@settings(max_examples=200, deadline=None)
@given(specialism=st.integers(0, 23), held=st.integers(0, 63), wanted=st.integers(0, 23), needs=st.integers(1, 63))
def test_covered_skills_against_sets_of_names(specialism, held, wanted, needs):
    def named(which: int, mask: int) -> set[tuple[int, int]]:
        return {(which ^ (bit // 3), bit % 3) for bit in range(6) if mask >> bit & 1}

    has = named(specialism, held)
    has |= {(int(transfer_targets()[which]), k) for which, k in has}
    required = named(wanted, needs)
    person = People(*(np.array(value) for value in (specialism, 0, 0, False, held)))
    job = Jobs(*(np.array(value) for value in (wanted, 0, 0, needs)))
    assert covered_skills(person, job) == pytest.approx(len(has & required) / len(required))


def test_decisions_are_draws_of_the_stated_probability(market):
    folder, _ = market
    both = read(folder, "interactions").with_columns(read(folder, "oracle")[schema.PROBABILITY])
    assert read(folder, "oracle").select(both.columns[:2]).equals(both.select(both.columns[:2]))
    for _, rows in both.group_by((pl.col(schema.PROBABILITY) * 8).floor()):
        p = rows[schema.PROBABILITY].to_numpy()
        standard_error = np.sqrt((p * (1 - p)).sum()) / len(p)
        assert abs(rows[schema.MATCHED].mean() - p.mean()) < 4 * standard_error


@pytest.mark.parametrize("seed", range(3))
def test_between_20_and_30_percent_of_the_decisions_match(seed):
    decisions = [simulate_block(seed, block).decisions for block in range(2)]
    assert 0.20 < np.concatenate([d.matched for d in decisions]).mean() < 0.30


def test_matches_follow_the_transfer_and_not_the_own_trade():
    block = simulate_block(1, 0)
    d = block.decisions
    own = block.versions.people.specialism[d.version]
    job = block.jobs.specialism[d.job]
    moves_on = transfer_targets()[own] != own
    to_target = job[moves_on & d.matched] == transfer_targets()[own][moves_on & d.matched]
    assert to_target.mean() > 0.75
    same_line = moves_on & (job == own)
    assert same_line.sum() > 50
    assert d.matched[same_line].mean() < 0.1


def test_noise_is_stated_and_no_decision_is_certain():
    fit = np.array([0.0, 1.0])
    low, high = match_probability(fit)
    assert low == pytest.approx(1 / (1 + np.exp(SHARPNESS * THRESHOLD)))
    assert 0.85 < high < 0.95
