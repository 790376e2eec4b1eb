"""Tables of the sample market: a simulated labour market, written for this project, to try things on.

No row is data about a real person. Seekers, jobs and decisions come from a random number generator; the texts are put
together from the phrases of `words.yaml`. Results on this market show that the machinery works, and how much it can
gain where the assumptions below hold. They say nothing about real people.

The planted effects (`market.py` has their strength):

- **Trades and transfer.** There are twelve trades of two specialisms with three skills each. Skill k of a specialism
  counts as skill k of the specialism it `carries_to`, such as army supply -> warehouse stock or nursing records ->
  clinical coding. 16 of the 24 carry to another specialism, 8 to themselves. Recruiters prefer the specialism carried
  to over the present one, although the words of the CV are about the present one.
- **Two languages.** Each skill, title and rung has two phrasings on CVs and two in JDs, without a common content word.
  Town names are the same on both sides.
- **Career ladder.** Junior, experienced, senior and lead are reached after 0, 3, 6 and 10 years of work. A change of
  trade costs one rung.
- **Place.** There are six towns. A fifth of the jobs are remote. A quarter of the seekers would move, and say so.
- **Decisions.** `true_fit` combines specialism, skills, rung and place into a fit in [0, 1]. A match is one draw with
  `match_probability`. There is no other noise: `oracle.parquet` holds the exact probability. A decision is about one
  of the 120 newest postings: a promising one (30 %), a near miss (30 %), or any (40 %). No pair is decided twice.
- **Time.** The span is the three years before `end`. Seekers have one to five CV versions; years pass, skills are
  gained and towns change between them. A decision follows the newest CV strictly before it, and a match changes
  nothing in later CVs. A quarter of the seekers first appear in the last tenth of the span. Many seekers have one or
  two decisions, a few have up to thirty.
- **Noise in the texts.** Layouts vary, and both sides contain filler. Three CVs in ten and a quarter of the JDs name a
  skill of another trade that has no effect.

Seekers come in blocks of 512. Each block is a small labour market, drawn from (seed, block) alone and dropped once it
is written. So memory does not grow with `n_seekers`, and a seeker's rows depend on the seed, not on `n_seekers`. A last
block that is not full contains only the jobs that its decisions are about.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from girl_features import schema
from girl_features.errors import DataError
from girl_features.sample.market import BLOCK_JOBS, BLOCK_SEEKERS, SPAN_DAYS, simulate_block
from girl_features.sample.texts import N_DRAWS, cv_texts, jd_texts
from girl_features.store.user_files import make_way

SAMPLE_END = datetime(2025, 7, 1, tzinfo=UTC)
_ORACLE_COLUMNS = {
    schema.JOB_SEEKER_ID: pa.string(),
    schema.JOB_ID: pa.string(),
    schema.DECIDED_AT: schema.UTC_MICROSECONDS,
    schema.PROBABILITY: pa.float64(),
}
SCHEMAS: dict[str, pa.Schema] = {
    "job_seekers": schema.JOB_SEEKERS_SCHEMA,
    "jobs": schema.JOBS_SCHEMA,
    "interactions": schema.INTERACTIONS_SCHEMA,
    "oracle": pa.schema(_ORACLE_COLUMNS),
}
BLOCKS_PER_ROW_GROUP = 8  # few enough row groups that a Parquet footer stays small at 10 million seekers
_DAY = 86_400_000_000  # microseconds
_TEXT_STREAM = 1  # texts use a separate random stream, so that a changed phrase changes no decision


class SampleSummary(NamedTuple):
    """Counts of the rows that `write_sample` wrote, and of the decisions that were matches."""

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
    progress: Callable[[int], object] = lambda n_done: None,
    overwrite: bool = False,
) -> SampleSummary:
    """Write job_seekers, jobs, interactions and oracle `.parquet` into `out_dir`; the module describes their content.

    The first three are input tables. `oracle.parquet` holds the true probability of each decision. Use it to check
    rankers and reward models, never for training. The files get their names once all four are complete.

    Args:
        out_dir: folder, created if missing.
        n_seekers: number of seekers, at least 1.
        seed: not negative. Equal seed, size and end give equal tables.
        end: time with a time zone; every decision and posting is before it.
        progress: called with the number of seekers written so far, after each block of 512.
        overwrite: replace an earlier market that `out_dir` already holds. Any other file of these names is kept as
            NAME.bak-TIME.

    Raises:
        ValueError: `n_seekers` below 1, `seed` below 0, or `end` without a time zone.
        DataError: `out_dir` cannot be made, or already holds a table of one of these names.
    """
    if n_seekers < 1 or seed < 0 or end.tzinfo is None:
        raise ValueError(
            f"wanted n_seekers >= 1, seed >= 0 and an end with a time zone; "
            f"found n_seekers={n_seekers}, seed={seed}, end={end}"
        )
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {out_dir}: {error.strerror or error}; name another") from error
    present = [name for name in SCHEMAS if (out_dir / f"{name}.parquet").exists()]
    if present and not overwrite:
        raise DataError(
            f"{str(out_dir)!r} already holds {', '.join(f'{name}.parquet' for name in present)}; "
            f"choose another folder, delete them, or ask to overwrite"
        )
    start = (end - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) - round(SPAN_DAYS * _DAY)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".sample-") as unfinished:
        summary = _write_tables(Path(unfinished), n_seekers, seed, start, progress)
        for name in SCHEMAS:
            path = out_dir / f"{name}.parquet"
            make_way(path, _is_sample)
            (Path(unfinished) / path.name).replace(path)
    return summary


def _is_sample(path: Path) -> bool:
    """True if a file is a table of a simulated market, by the form of its ids."""
    with path.open("rb") as file:
        if file.read(4) != b"PAR1":
            return False
    with pq.ParquetFile(path) as table:
        first = next(table.iter_batches(1, columns=[table.schema_arrow.names[0]]), None)
    return first is not None and bool(re.fullmatch(r"[sj]\d{9}", str(first.column(0)[0])))


def block_tables(seed: int, block: int, n_seekers: int, start: int) -> dict[str, pa.Table]:
    """Return the four tables of one block with its first `n_seekers` seekers.

    A block that is not full contains only the jobs that its seekers' decisions are about. `start` is the start of the
    span in microseconds since 1970, UTC.
    """
    market = simulate_block(seed, block)
    versions, decisions = market.versions, market.decisions
    rng = np.random.default_rng((seed, block, _TEXT_STREAM))
    jds = jd_texts(market.jobs, rng.integers(0, 1 << 30, (BLOCK_JOBS, N_DRAWS)))
    cvs = cv_texts(versions, rng.integers(0, 1 << 30, (BLOCK_SEEKERS, N_DRAWS)))
    job_ids = np.array([f"j{i:09d}" for i in range(block * BLOCK_JOBS, (block + 1) * BLOCK_JOBS)], object)
    ids = np.array([f"s{i:09d}" for i in range(block * BLOCK_SEEKERS, (block + 1) * BLOCK_SEEKERS)], object)
    seeker, job, decided_at = ids[decisions.seeker], job_ids[decisions.job], _times(start, decisions.decided_at)
    columns: dict[str, list[Any]] = {
        "job_seekers": [ids[versions.seeker], cvs, _times(start, versions.updated_at)],
        "jobs": [job_ids, jds, _times(start, market.posted_at)],
        "interactions": [seeker, job, decisions.matched, decided_at],
        "oracle": [seeker, job, decided_at, decisions.probability],
    }
    tables = {name: pa.table(columns[name], schema=SCHEMAS[name]) for name in SCHEMAS}
    if n_seekers < BLOCK_SEEKERS:  # rows are ordered by seeker
        n_decisions = int(np.searchsorted(decisions.seeker, n_seekers))
        tables["job_seekers"] = tables["job_seekers"].slice(0, int(np.searchsorted(versions.seeker, n_seekers)))
        tables["interactions"] = tables["interactions"].slice(0, n_decisions)
        tables["oracle"] = tables["oracle"].slice(0, n_decisions)
        tables["jobs"] = tables["jobs"].take(np.unique(decisions.job[:n_decisions]))
    return tables


def _write_tables(
    folder: Path, n_seekers: int, seed: int, start: int, progress: Callable[[int], object]
) -> SampleSummary:
    n_rows: Counter[str] = Counter()
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(pq.ParquetWriter(folder / f"{name}.parquet", table_schema, compression="zstd"))
            for name, table_schema in SCHEMAS.items()
        }
        row_group: list[dict[str, pa.Table]] = []  # tables of the blocks that are not written yet
        for block in range(-(-n_seekers // BLOCK_SEEKERS)):
            n_done = min((block + 1) * BLOCK_SEEKERS, n_seekers)
            tables = block_tables(seed, block, n_done - block * BLOCK_SEEKERS, start)
            row_group.append(tables)
            n_rows.update({name: table.num_rows for name, table in tables.items()})
            n_rows["matched"] += int(np.count_nonzero(tables["interactions"][schema.MATCHED].to_numpy()))
            if len(row_group) == BLOCKS_PER_ROW_GROUP or n_done == n_seekers:
                for name, writer in writers.items():
                    writer.write_table(pa.concat_tables([tables[name] for tables in row_group]))
                row_group = []
            progress(n_done)
    return SampleSummary(n_seekers, *(n_rows[name] for name in ("job_seekers", "jobs", "interactions", "matched")))


def _times(start: int, days: np.ndarray) -> pa.Array:
    """Convert (n,) days since `start` to timestamps in microseconds."""
    return pa.array(start + np.floor(days * _DAY).astype(np.int64), schema.UTC_MICROSECONDS)
