"""The sample market: a simulated labour market, written for this project, to try things on.

Nothing in it is anybody's data. Seekers, jobs and decisions come out of a random number generator, and every
text out of the phrases of `sample_words.py` and `sample_text.py`. Results on it show that the machinery works and
what it could gain where its assumptions hold; they say nothing about real people.

What is planted:

- **Trades and transfer.** Twelve trades of two specialisms, three skills each. Skill k of a specialism counts as
  skill k of the one it `carries_to`: army supply -> warehouse stock, school lessons -> training design, nursing
  records -> clinical coding, kitchen line -> food production line, ... (16 of the 24 move on, 8 stay). Recruiters
  favour the specialism carried to over the seeker's own, which is the one the CV's words are about.
- **Two languages.** Each skill, title and rung has two phrasings on CVs and two in JDs, without a content word in
  common. Town names are the same on both sides.
- **A ladder.** Junior, experienced, senior, lead, reached after 0, 3, 6 and 10 years of work. A change of trade
  costs one rung.
- **Place.** Six towns; a fifth of the jobs are remote; a quarter of the seekers would move, and say so.
- **Decisions.** `true_fit` weighs specialism, skills, rung and place into a fit in [0, 1]; the match is one draw
  with probability logistic(SHARPNESS * (fit - THRESHOLD)), which is all the noise there is: the law itself is
  exact, and `oracle.parquet` holds its value. A decision is about one of the 120 newest postings: a promising one
  (30 %), a near miss (10 % the seeker's own line of work, 20 % the right specialism whatever the rung and place),
  or any (40 %). No pair is decided on twice.
- **Time.** Three years before `end`. Seekers have one to five CV versions, as years pass, skills are gained and
  towns change (one version in seven was saved again unchanged); decisions follow the newest CV strictly before
  them. A match changes nothing in a seeker's later CVs. A quarter of the seekers first appear in the last tenth of
  the span. Activity is skewed: many seekers have one or two decisions, a few up to thirty.
- **Noise.** Layouts vary, with filler on both sides; three CVs in ten and a quarter of the JDs name another
  trade's skill that carries no weight.

Seekers come in blocks of 512, each a small labour market of its own, drawn from (seed, block) alone and dropped once
written: memory does not grow with `n_seekers`, and a seeker's rows depend on the seed alone, not on how many others
were asked for. A last block that is not full has only the jobs
its decisions are about.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from girl_features import schema
from girl_features.errors import DataError
from girl_features.sample.market import BLOCK_JOBS, BLOCK_SEEKERS, SPAN_DAYS, Block, simulate_block
from girl_features.sample.texts import N_DRAWS, cv_texts, jd_texts

SAMPLE_END = datetime(2025, 7, 1, tzinfo=UTC)
ORACLE_SCHEMA = pa.schema(
    [
        (schema.JOB_SEEKER_ID, pa.string()),
        (schema.JOB_ID, pa.string()),
        (schema.DECIDED_AT, schema.UTC_MICROSECONDS),
        (schema.PROBABILITY, pa.float64()),
    ]
)
SCHEMAS: dict[str, pa.Schema] = {
    "job_seekers": schema.JOB_SEEKERS_SCHEMA,
    "jobs": schema.JOBS_SCHEMA,
    "interactions": schema.INTERACTIONS_SCHEMA,
    "oracle": ORACLE_SCHEMA,
}
BLOCKS_PER_ROW_GROUP = 8  # few enough row groups that a Parquet footer stays small at 10 million seekers
_DAY = 86_400_000_000  # microseconds
_TEXT_STREAM = 1  # texts draw from a stream of their own: a changed phrase moves no decision


class SampleSummary(NamedTuple):
    """What `write_sample` wrote: rows of each table, and how many of the decisions were matches."""

    n_seekers: int
    n_cvs: int
    n_jobs: int
    n_interactions: int
    n_matched: int


def write_sample(
    out_dir: Path,
    *,
    n_seekers: int = 2000,
    seed: int = 0,
    end: datetime = SAMPLE_END,
    progress: Callable[[int], None] | None = None,
    overwrite: bool = False,
) -> SampleSummary:
    """Write job_seekers, jobs, interactions and oracle `.parquet` into `out_dir`; see the module for what they hold.

    The first three are input tables. `oracle.parquet` holds the true probability of each decision: for checks of
    rankers and reward models, never for training. Files appear under their names once all are complete.

    Args:
        out_dir: folder, made where absent.
        n_seekers: seekers to write, at least 1.
        seed: not negative; same seed, size and end, same tables.
        end: aware; every decision and posting is before it.
        progress: called with the number of seekers written so far, after each block of 512.
        overwrite: replace tables of these names that `out_dir` already holds.

    Raises:
        ValueError: `n_seekers` below 1, `seed` below 0, or `end` without a time zone.
        DataError: `out_dir` already holds a table of one of these names.
    """
    if n_seekers < 1 or seed < 0 or end.tzinfo is None:
        raise ValueError(
            f"wanted n_seekers >= 1, seed >= 0 and an end with a time zone; "
            f"found n_seekers={n_seekers}, seed={seed}, end={end}"
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    present = [name for name in SCHEMAS if (out_dir / f"{name}.parquet").exists()]
    if present and not overwrite:
        raise DataError(
            f"{str(out_dir)!r} already holds {', '.join(f'{name}.parquet' for name in present)}; "
            f"choose another folder, delete them, or ask to overwrite"
        )
    start = _microseconds(end) - round(SPAN_DAYS * _DAY)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".sample-") as unfinished:
        summary = _write_tables(Path(unfinished), n_seekers, seed, start, progress)
        for name in SCHEMAS:
            (Path(unfinished) / f"{name}.parquet").replace(out_dir / f"{name}.parquet")
    return summary


def block_tables(seed: int, block: int, n_seekers: int, start: int) -> dict[str, pa.Table]:
    """The four tables of one block with its first `n_seekers` seekers; `start` in microseconds since 1970, UTC.

    A block that is not full has only the jobs its seekers' decisions are about.
    """
    market = simulate_block(seed, block)
    rng = np.random.default_rng((seed, block, _TEXT_STREAM))
    job_styles = rng.integers(0, 1 << 30, (BLOCK_JOBS, N_DRAWS))
    seeker_styles = rng.integers(0, 1 << 30, (BLOCK_SEEKERS, N_DRAWS))
    market = _first_seekers(market, n_seekers)
    versions, decisions = market.versions, market.decisions
    job_ids = np.array([f"j{i:09d}" for i in range(block * BLOCK_JOBS, (block + 1) * BLOCK_JOBS)], object)
    ids = np.array([f"s{i:09d}" for i in range(block * BLOCK_SEEKERS, (block + 1) * BLOCK_SEEKERS)], object)
    seeker, job = ids[decisions.seeker], job_ids[decisions.job]
    decided_at = _times(start, decisions.decided_at)
    cvs, jds = cv_texts(versions, seeker_styles), jd_texts(market.jobs, job_styles)
    columns: dict[str, list[Any]] = {
        "job_seekers": [ids[versions.seeker], cvs, _times(start, versions.updated_at)],
        "jobs": [job_ids, jds, _times(start, market.posted_at)],
        "interactions": [seeker, job, decisions.matched, decided_at],
        "oracle": [seeker, job, decided_at, decisions.probability],
    }
    tables = {name: pa.table(columns[name], schema=SCHEMAS[name]) for name in SCHEMAS}
    if n_seekers < BLOCK_SEEKERS:
        tables["jobs"] = tables["jobs"].take(np.unique(decisions.job))
    return tables


def _write_tables(
    folder: Path, n_seekers: int, seed: int, start: int, progress: Callable[[int], None] | None
) -> SampleSummary:
    writers = {
        name: pq.ParquetWriter(folder / f"{name}.parquet", table_schema, compression="zstd")
        for name, table_schema in SCHEMAS.items()
    }
    pending: dict[str, list[pa.Table]] = {name: [] for name in SCHEMAS}
    n_rows = dict.fromkeys(SCHEMAS, 0)
    n_matched = 0
    n_blocks = -(-n_seekers // BLOCK_SEEKERS)
    try:
        for block in range(n_blocks):
            written = min((block + 1) * BLOCK_SEEKERS, n_seekers)
            tables = block_tables(seed, block, written - block * BLOCK_SEEKERS, start)
            n_matched += int(np.count_nonzero(tables["interactions"][schema.MATCHED].to_numpy()))
            full = (block + 1) % BLOCKS_PER_ROW_GROUP == 0 or block + 1 == n_blocks
            for name, table in tables.items():
                n_rows[name] += table.num_rows
                pending[name].append(table)
                if full:
                    writers[name].write_table(pa.concat_tables(pending[name]))
                    pending[name].clear()
            if progress is not None:
                progress(written)
    finally:
        for writer in writers.values():
            writer.close()
    return SampleSummary(n_seekers, n_rows["job_seekers"], n_rows["jobs"], n_rows["interactions"], n_matched)


def _first_seekers(market: Block, n: int) -> Block:
    """The block with the CVs and decisions of its first n seekers; rows lie in seeker order."""
    v, d = market.versions, market.decisions
    n_versions, n_decisions = np.searchsorted(v.seeker, n), np.searchsorted(d.seeker, n)
    people = type(v.people)(*(column[:n_versions] for column in v.people))
    versions = type(v)(v.seeker[:n_versions], v.updated_at[:n_versions], v.years[:n_versions], people)
    return market._replace(versions=versions, decisions=type(d)(*(column[:n_decisions] for column in d)))


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _times(start: int, days: np.ndarray) -> pa.Array:
    """Timestamps of (n,) days since `start`, to the microsecond."""
    return pa.array(start + np.floor(days * _DAY).astype(np.int64), schema.UTC_MICROSECONDS)
