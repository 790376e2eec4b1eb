"""The sample that a generator is judged by: CVs to write JDs for, and real texts to hold the JDs against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from girl_features.batch.quality.tokenizer_scripts import read_tokenizer, unknown_scripts
from girl_features.encoder import read_characters
from girl_features.generator.checkpoint import peek_record
from girl_features.generator.draw import generate_chunk
from girl_features.generator.opening import LoadedModels
from girl_features.input.scripts import main_script
from girl_features.input.tables import Tables
from girl_features.progress import Progress
from girl_features.schema import JOB_SEEKER_ID, CVVersion

N_TEXTS = 2000  # real JDs, real CVs and matched pairs that are looked at
MAX_CHARACTERS = 4000  # of a real text
MIN_PAIRS = 5  # matched pairs with CVs of one script from which the script of their JDs is known
_AT_ONCE = 32  # CVs between two lines of progress


class GateSample(NamedTuple):
    """Texts of the tables. A worker of a cluster needs no more to answer."""

    versions: list[CVVersion]  # to write JDs for: the newest CV of each of n seekers
    jds: list[str]  # real ones, each text once
    cvs: list[str]  # of up to N_TEXTS seekers
    jd_script: dict[str, str]  # main script of CVs -> main script of the JDs that such seekers matched with


class Answers(NamedTuple):
    """Output of the generator and the encoder for a sample."""

    jds: list[str | None]  # for each of n CVs; None where no JD was fit to store
    cv_vectors: np.ndarray  # (n, d) float32, unit length
    jd_vectors: np.ndarray  # (n, d) float32, unit length; zeros where there is no JD
    unknown_scripts: dict[str, int] | None  # script -> CVs of the sample in it; None: the tokenizer cannot be read
    trained: dict[str, float]  # metrics of the generator's training record; empty if it has none


def take_sample(tables: Tables, trained_until: datetime, max_cv_tokens: int, n: int) -> GateSample:
    """Draw the sample by hashes, so that the same tables give the same one.

    CVs from after the end of the generator's training go first, since it has not learned from them. The CVs of erased
    seekers are left out.
    """
    newest = f"""
        SELECT job_seeker_id, updated_at, cv_hash FROM job_seekers
        WHERE length(trim(cv)) > 0 AND {tables.erased.condition([JOB_SEEKER_ID])}
        QUALIFY row_number() OVER (PARTITION BY job_seeker_id ORDER BY updated_at DESC) = 1
        ORDER BY updated_at < $trained_until, md5(cv_hash || job_seeker_id) LIMIT {max(n, N_TEXTS)}"""
    rows = tables.connection.execute(
        f"""SELECT job_seeker_id, left(cv, {read_characters(max_cv_tokens)}), updated_at, cv_hash
        FROM ({newest}) JOIN job_seekers USING (job_seeker_id, updated_at, cv_hash)
        ORDER BY updated_at < $trained_until, md5(cv_hash || job_seeker_id)""",
        {"trained_until": trained_until},
    ).fetchall()
    jds = tables.connection.execute(
        f"""SELECT left(any_value(jd), {MAX_CHARACTERS}) FROM jobs WHERE length(trim(jd)) > 0
        GROUP BY md5(jd) ORDER BY md5(jd) LIMIT {N_TEXTS}"""
    ).fetchall()
    versions = [CVVersion(*row) for row in rows]
    cvs = [version.cv[:MAX_CHARACTERS] for version in versions]
    return GateSample(versions[:n], [jd for (jd,) in jds], cvs, _jd_scripts(tables))


def _jd_scripts(tables: Tables) -> dict[str, str]:
    pairs = tables.connection.execute(
        f"""SELECT left(cv, {MAX_CHARACTERS}), left(jd, {MAX_CHARACTERS}) FROM (
            SELECT job_seeker_id, job_id FROM interactions WHERE matched
            ORDER BY md5(job_seeker_id || job_id) LIMIT {N_TEXTS}
        ) JOIN jobs USING (job_id) JOIN (
            SELECT job_seeker_id, arg_max(cv, updated_at) AS cv FROM job_seekers
            WHERE {tables.erased.condition([JOB_SEEKER_ID])} GROUP BY ALL
        ) USING (job_seeker_id)"""
    ).fetchall()
    counts: dict[str, Counter[str]] = {}
    for cv, jd in pairs:
        counts.setdefault(main_script(cv), Counter())[main_script(jd)] += 1
    return {script: jds.most_common(1)[0][0] for script, jds in counts.items() if jds.total() >= MIN_PAIRS}


def answer(models: LoadedModels, sample: GateSample) -> Answers:
    """Write one JD for each CV of the sample as the batch does, and encode CVs and JDs.

    One JD is enough, whatever `sampling.n` and `sampling.best_of` are: the generator is judged, not the choice.
    """
    one = models.contract.sampling.model_copy(update={"n": 1, "best_of": None, "reward_sha256": None})
    contract = models.contract.model_copy(update={"sampling": one})
    jds: list[str | None] = []
    with Progress("quality gate", len(sample.versions), "CVs") as progress:
        for start in range(0, len(sample.versions), _AT_ONCE):
            chunk = generate_chunk(models.generator, sample.versions[start : start + _AT_ONCE], contract)
            jds += [draws[0].result.text if draws else None for draws in chunk.kept]
            progress.reach(len(jds))
    folder = models.folder
    tokenizer = None if folder is None else read_tokenizer(folder)
    metrics = {} if folder is None else peek_record(folder).get("metrics", {})
    return Answers(
        jds=jds,
        cv_vectors=models.encoder.encode([version.cv for version in sample.versions]).vectors,
        jd_vectors=_vectors(models, jds),
        unknown_scripts=None if tokenizer is None else unknown_scripts(tokenizer, sample.cvs),
        trained=metrics if isinstance(metrics, dict) else {},
    )


def _vectors(models: LoadedModels, jds: Sequence[str | None]) -> np.ndarray:
    vectors = np.zeros((len(jds), models.contract.encoder.dimension), np.float32)
    written = [place for place, jd in enumerate(jds) if jd is not None]
    if written:
        vectors[written] = models.encoder.encode([jd for jd in jds if jd is not None]).vectors
    return vectors
