"""Measure what the JDs of a generator know of the job that its seeker took next, and how much of them is copied.

    python benchmarks/base_knowledge.py --config benchmarks/careers_smollm2.yaml --stage sft --json FILE

The pairs are those of the ranking test window, of some seekers chosen by hash who had no decision in the SFT window.
Each JD set is scored by the cosine of its mean vector with the vector of the job: `cos(j', j)`. The controls are the
cosine of the CV itself, `cos(c, j)`; of a ridge regression from CV to JD that was fitted on the pairs of the SFT
window, and so on the pairs that the generator was tuned on; and the number of matches of the job in that window. The
AUC has a percentile interval from resampled seekers. `copied` is the mean share of a JD's runs of eight words that
stand in the CV. `auc_mean_jd_by_tokens` is cos(j', j) of the same JDs, cut at so many tokens. Held-out bits a
character are those of the training record. `--stage untuned` takes the base as it is.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from measuring import describe, peak_memory_mb, write_json

from girl_features.config import GirlConfig, load_config
from girl_features.evaluation.bootstrap import percentile_interval, resample_seekers, resampled_auc
from girl_features.evaluation.metrics import auc
from girl_features.generator.copying import copied_share
from girl_features.generator.draw import GeneratedChunk, generate_chunk
from girl_features.generator.opening import LoadedModels, load_models
from girl_features.generator.prompts import plain_text_ids
from girl_features.generator.tokens import load_tokenizer
from girl_features.input.splits import DECISIONS_SQL, Windows, cut_windows, sft_pairs
from girl_features.input.tables import Tables, open_tables
from girl_features.lab.experiment.controls import fit_jd_regression
from girl_features.machine import machine_description
from girl_features.progress import Progress
from girl_features.schema import CVVersion

N_RESAMPLES = 1000
AT_ONCE = 32  # CVs
_vectors: dict[str, np.ndarray] = {}  # of the texts that were encoded in this run
CUTS = (16, 32, 64, 128)  # tokens of a JD


def main() -> None:
    """Measure one generator at each temperature, print the rows, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="girl.yaml of the tables")
    parser.add_argument("--stage", default="sft", help="sft, ppo, or untuned: the base as it is (default: sft)")
    parser.add_argument("--seekers", type=int, default=120, help="seekers of the test window (default: 120)")
    parser.add_argument("--samples", type=int, default=8, help="JDs a CV (default: 8)")
    parser.add_argument("--temperatures", default="0.7,1.0", help="comma between them (default: 0.7,1.0)")
    parser.add_argument("--set", action="append", default=[], help="override a setting, as `girl --set` does")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    rows = []
    for temperature in arguments.temperatures.split(","):
        changes = [*arguments.set, f"sampling.n={arguments.samples}", f"sampling.temperature={temperature}"]
        config = load_config(arguments.config, changes)
        with open_tables(config) as tables:
            windows = cut_windows(tables, config.windows)
            pairs = test_pairs(tables, windows, arguments.seekers)
            learned = sft_pairs(tables, windows)
        models = load_models(of_stage(config, arguments.stage, windows.sft_end))
        rows.append({"config": config.name, "stage": arguments.stage, **measure(models, pairs, learned)})
        print(describe(rows[-1]), flush=True)
        if arguments.json is not None:
            facts = {"command": shlex.join(sys.argv), "machine": machine_description()}
            write_json(arguments.json, {**facts, "rows": rows})


def of_stage(config: GirlConfig, stage: str, sft_end: datetime) -> GirlConfig:
    """Return `config` with the generator of a stage, or with its base untuned and no trained one in sight."""
    if stage != "untuned":
        return config.model_copy(update={"generator": config.generator.model_copy(update={"stage": stage})})
    changes = {"stage": stage, "checkpoint": None, "trained_until": config.generator.trained_until or sft_end}
    return config.model_copy(update={"generator": config.generator.model_copy(update=changes)})


def test_pairs(tables: Tables, windows: Windows, n_seekers: int) -> pl.DataFrame:
    """Return the decisions of `n_seekers` new seekers of the test window with both texts, by seeker and job."""
    query = f"""
        SELECT job_seeker_id, job_id, matched, cv, cv_hash, updated_at, jd
        FROM ({DECISIONS_SQL}) JOIN job_seekers USING (job_seeker_id, updated_at) JOIN jobs USING (job_id)
        WHERE trim(cv) <> ''
        AND job_seeker_id NOT IN (SELECT job_seeker_id FROM interactions WHERE decided_at < $sft_end)
        QUALIFY dense_rank() OVER (ORDER BY md5(job_seeker_id), job_seeker_id) <= $n
        ORDER BY job_seeker_id, job_id, updated_at"""
    bounds = windows.bounds("test")
    values = {"start": bounds.start, "end": bounds.end, "n": n_seekers, "sft_end": windows.sft_end}
    return tables.connection.execute(query, values).pl()


def measure(models: LoadedModels, pairs: pl.DataFrame, learned: pl.DataFrame) -> dict[str, Any]:
    """Return the figures of one generator on the pairs, and of controls that learn from the pairs `learned`."""
    cvs = pairs.unique("cv_hash", maintain_order=True)
    versions = [CVVersion(*row) for row in cvs.select("job_seeker_id", "cv", "updated_at", "cv_hash").rows()]
    start = time.perf_counter()
    jds, n_failed = write_jds(models, versions)
    seconds = time.perf_counter() - start
    flat = [jd for texts in jds for jd in texts]
    ends = np.cumsum([len(texts) for texts in jds])[:-1]
    by_cv = np.split(vectors_of(models, flat), ends)
    sums = sums_of(models, flat, ends)
    place = {version.cv_hash: i for i, version in enumerate(versions)}
    rows = np.array([place[cv_hash] for cv_hash in pairs["cv_hash"]])
    job_vectors = vectors_of(models, pairs["jd"].to_list())
    cv_vectors = vectors_of(models, [version.cv for version in versions])
    firsts = np.stack([part[0] if len(part) else part.sum(axis=0) for part in by_cv])
    labels, seekers = pairs["matched"].to_numpy(), pairs["job_seeker_id"].to_numpy()
    learned_cvs, learned_jds = (vectors_of(models, learned[text].to_list()) for text in ("cv", "jd"))
    predict_jd = fit_jd_regression(learned_cvs, learned_jds)
    counts = dict(learned.group_by("job_id").len().iter_rows())
    scores = {
        "cv": cosines(cv_vectors[rows], job_vectors),
        "regression": cosines(predict_jd(cv_vectors)[rows], job_vectors),
        "popularity": np.array([float(counts.get(job, 0)) for job in pairs["job_id"]]),
        "first_jd": cosines(firsts[rows], job_vectors),
        "mean_jd": cosines(sums[rows], job_vectors),
    }
    resamples = resample_seekers(labels, seekers, N_RESAMPLES, seed=0)
    resampled = {name: resampled_auc(labels, values[None], resamples) for name, values in scores.items()}
    aucs = {name: auc(labels, values) for name, values in scores.items()}
    copied = [copied_share(v.cv, jd) for v, texts in zip(versions, jds, strict=True) for jd in texts]
    n_tokens = sum(len(jd.split()) for jd in flat)
    return {
        "temperature": models.contract.sampling.temperature,
        "samples": models.contract.sampling.n,
        "n_pairs": len(labels),
        "n_seekers": len(set(seekers)),
        "n_cvs": len(versions),
        "n_without_jd": n_failed,
        **{f"auc_{name}": with_interval(aucs[name], resampled[name]) for name in scores},
        **{
            f"gain_over_{name}": with_interval(aucs["mean_jd"] - aucs[name], resampled["mean_jd"] - resampled[name])
            for name in ("cv", "regression", "popularity")
        },
        "auc_mean_jd_by_tokens": {
            n: round(auc(labels, cosines(sums_of(models, texts, ends)[rows], job_vectors)), 4)
            for n, texts in cut(models, flat).items()
        },
        "copied": round(float(np.mean(copied)), 3) if copied else None,
        "words_per_jd": round(n_tokens / max(1, len(flat)), 1),
        "seconds_per_cv": round(seconds / len(versions), 3),
        "peak_memory_mb": round(peak_memory_mb()),
        "engine": models.contract.engine_name,
        "heldout_bits_per_character": held_out_bits(models),
    }


def write_jds(models: LoadedModels, versions: Sequence[CVVersion]) -> tuple[list[list[str]], int]:
    """Return the JDs that are fit to store for each CV, and the number of CVs without any."""
    chunks: list[GeneratedChunk] = []
    with Progress("generating", len(versions), "CVs") as progress:
        for start in range(0, len(versions), AT_ONCE):
            part = versions[start : start + AT_ONCE]
            chunks.append(generate_chunk(models.generator, part, models.contract))
            progress.advance(len(part))
    texts = [[result.text for result in results] for chunk in chunks for results in chunk.texts]
    return texts, sum(not jds for jds in texts)


def vectors_of(models: LoadedModels, texts: list[str]) -> np.ndarray:
    """Return the (n, d) vectors of n texts, of which there may be none. A text is encoded once in a run."""
    new = sorted(set(texts) - set(_vectors))
    if new:
        _vectors.update(zip(new, models.encoder.encode(new).vectors, strict=True))
    return np.stack([_vectors[text] for text in texts]) if texts else np.zeros((0, models.encoder.contract.dimension))


def sums_of(models: LoadedModels, texts: list[str], ends: np.ndarray) -> np.ndarray:
    """Return one sum of vectors for each CV, whose JDs are the `texts` up to its end."""
    return np.stack([part.sum(axis=0) for part in np.split(vectors_of(models, texts), ends)])


def cut(models: LoadedModels, texts: list[str]) -> dict[int, list[str]]:
    """Return for each of CUTS the first so many tokens of each text, as the generator's tokenizer counts them."""
    assert models.folder is not None
    tokenizer = load_tokenizer(models.folder)
    ids = [plain_text_ids(tokenizer, text) for text in texts]
    return {n: [tokenizer.decode(tokens[:n]) for tokens in ids] for n in CUTS}


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the (n,) cosines of (n, d) rows; 0 for a row of zeros, which is that of a CV without a JD."""
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.einsum("nd,nd->n", left, right) / np.where(norms > 0, norms, 1)


def with_interval(value: float, resampled: np.ndarray) -> list[float]:
    """Return a value, and the ends of its 95 % interval over resampled seekers."""
    low, high = percentile_interval(resampled)
    return [round(float(value), 4), round(low, 4), round(high, 4)]


def held_out_bits(models: LoadedModels) -> float | None:
    """Return the bits a character of the training record; None for an untuned base."""
    from girl_features.generator.checkpoint import peek_record

    metrics = peek_record(models.folder).get("metrics", {}) if models.folder else {}
    bits = metrics.get("heldout_bits_per_character") if isinstance(metrics, dict) else None
    return None if bits is None else round(float(bits), 3)


if __name__ == "__main__":
    main()
