"""Train and measure all stages and alternatives on one data set with one seed, for `training.py`."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from training_truth import fit_of, people_by_cv

from girl_features.config import GirlConfig
from girl_features.errors import CheckpointError
from girl_features.generator.checkpoint import REWARD_RECORD_NAME, read_record
from girl_features.generator.gate import defect
from girl_features.generator.opening import load_encoder
from girl_features.generator.reward_model import TransformersRewardModel
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.input.splits import Windows, cut_windows, rl_cvs
from girl_features.input.tables import Tables, open_tables
from girl_features.sample.tables import write_sample
from girl_features.trainers.reward import train_reward
from girl_features.trainers.rl import train_ppo
from girl_features.trainers.rollouts import end_ids, sample, seed_of, use_plain_sampling
from girl_features.trainers.sft import train_sft
from girl_features.trainers.written_jds import JDTask, text_statistics

STAGE_3: dict[str, dict[str, Any]] = {  # row -> changes to the `ppo` section below
    "ppo": {},
    "ppo_kl_2": {"stop_kl": 2.0},
    "rloo": {"algo": "rloo"},
    "grpo": {"algo": "grpo"},
    "dpo": {"algo": "dpo", "learning_rate": 5e-5},
}
BEST_OF = 8
BATCH = 64
WINDOWS = {"sft_share": 0.40, "reward_share": 0.35, "rl_share": 0.15, "train_share": 0.08, "valid_share": 0.01}
SIZES: dict[str, dict[str, Any]] = {
    "full": {"seekers": 4000, "hidden": 64, "sft_epochs": 3, "iterations": 24, "test_cvs": 96},
    "quick": {"seekers": 1500, "hidden": 48, "sft_epochs": 6, "iterations": 6, "test_cvs": 48},
}
SETTINGS: dict[str, dict[str, Any]] = {  # they suit the number of pairs and the length of the texts
    "sample": {"reward": {"epochs": 2}, "holdout": 0.1},
    "careers": {"reward": {"epochs": 1, "pairs_per_cv": 2}, "holdout": 0.25},
}


REWARD_METRICS = (
    "pair_accuracy",
    "auc",
    "ece",
    "length_correlation",
    "longer_is_matched",
    "n_heldout_pairs",
    "n_heldout_seekers",
    "train_seconds",
)


class Written(NamedTuple):
    """n generated JDs of each of c CVs."""

    texts: list[list[str]]  # c lists of n
    scores: np.ndarray  # (c, n) float32
    finished: np.ndarray  # (c, n) bool
    seconds: float


class Judges(NamedTuple):
    """The test CVs and what their generated JDs are measured with."""

    cvs: list[str]  # c
    matched: list[str | None]  # c: a JD that the seeker matched later
    reward_model: TransformersRewardModel
    encoder: Any
    fits: Any  # (number of a CV, text) -> fit by the planted law; None on real data


def config_for(name: str, folder: Path, data: Path, size: dict[str, Any], seed: int) -> GirlConfig:
    """Return the config of one part, whose tables are in the folder `data`."""
    shape = {"vocab_size": 2048, "hidden_size": size["hidden"], "n_layers": 3, "n_heads": 4, "pretrain_epochs": 0.5}
    settings = SETTINGS[name]
    return GirlConfig.model_validate(
        {
            "workspace": folder,
            "tables": {n: {"path": str(data / f"{n}.parquet")} for n in ("job_seekers", "jobs", "interactions")},
            "windows": WINDOWS,
            "generator": {"max_cv_tokens": 152, "tiny": shape},
            "sft": {
                "epochs": size["sft_epochs"],
                "batch_size": 16,
                "learning_rate": 2e-3,
                "max_jd_tokens": 152,
                "seed": seed,
            },
            "reward": {"learning_rate": 1e-3, "max_jd_tokens": 152, "holdout": 0.2, "seed": seed, **settings["reward"]},
            "ppo": {
                "iterations": size["iterations"],
                "batch_size": 64,
                "minibatch_size": 32,
                "learning_rate": 1.5e-4,
                "target_kl": 8.0,  # far beyond the default, to see how the generator degrades
                "stop_kl": 10.0,
                "evaluate_every": 3,
                "holdout": settings["holdout"],
                "seed": seed,
            },
            "sampling": {"max_new_tokens": 152, "seed": seed},
        }
    )


def run_part(data: str, source: Path | None, size_name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train all generators in `folder`, resuming finished work, and measure them.

    Args:
        data: "sample" or "careers".
        source: folder of the tables; None: simulate the sample market.
        size_name: key of SIZES.
        seed: of market, training and sampling.
        folder: work folder of this part.

    Returns:
        `figures` by row and metric, and `curves` of stage 3 by row.
    """
    size = SIZES[size_name]
    if source is None:
        source = folder / "data"
        write_sample(source, n_seekers=size["seekers"], seed=seed, overwrite=True)
    config = config_for(data, folder / "workspace", source, size, seed)
    with open_tables(config) as tables:
        windows = cut_windows(tables, config.windows)
        sft, reward = train_sft(tables, windows, config), train_reward(tables, windows, config)
        runs = {row: _tuned(tables, windows, config, changes) for row, changes in STAGE_3.items()}
        trained = {row: generator for row, generator in runs.items() if generator is not None}
        judges = _judges(tables, windows, config, reward, size["test_cvs"])
    if data == "sample":
        people = people_by_cv(source, seed)
        judges = judges._replace(fits=lambda number, text: fit_of(people[judges.cvs[number]], text))
    drawn = write(sft, judges, config, BEST_OF)
    rows = {"sft": figures(best(drawn, 1), drawn, judges)}
    for n in (2, 4, BEST_OF):
        rows[f"best_of_{n}"] = figures(best(drawn, n), drawn, judges)
        rows[f"best_of_{n}"]["kl_per_sequence"] = math.log(n) - (n - 1) / n
    for row, generator in trained.items():
        rows[row] = figures(write(generator, judges, config, 1), drawn, judges)
        rows[row] |= _some(read_record(generator).metrics, "kl_per_sequence", "best_iteration", "train_seconds")
    curves = {row: _curve(pl.read_parquet(path / "evaluations.parquet")) for row, path in trained.items()}
    rows["sft"] |= _some(read_record(sft).metrics, "heldout_perplexity", "train_seconds")
    reward_record = read_record(reward, REWARD_RECORD_NAME)
    rows["reward"] = _some(reward_record.metrics, *REWARD_METRICS)
    rows["reward"]["n_pairs"] = float(reward_record.n_pairs)
    return {"figures": rows, "curves": curves}


def write(folder: Path, judges: Judges, config: GirlConfig, n: int) -> Written:
    """Write n JDs of each test CV at PPO's temperature. The seeds are the same for all generators."""
    started = time.monotonic()
    model, tokenizer = load_causal_lm(folder)
    use_plain_sampling(model.eval(), end_ids(model), tokenizer.pad_token_id)
    task = JDTask(
        judges.cvs, tokenizer, read_record(folder).max_cv_tokens, judges.reward_model, 0.0, 0.0, end_ids(model)
    )
    limits = {"max_new_tokens": config.sampling.max_new_tokens, "temperature": config.ppo.temperature}
    draws = [(number, i) for number in range(len(judges.cvs)) for i in range(n)]
    texts, finished = [], []
    for start in range(0, len(draws), BATCH):
        chunk = draws[start : start + BATCH]
        seeds = [seed_of("benchmark", config.ppo.seed, number, i) for number, i in chunk]
        rollouts = sample(model, [task.prompts[number] for number, _ in chunk], seeds, **limits)
        texts += [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in rollouts.completion_ids.tolist()]
        finished += rollouts.finished.tolist()
    scores = judges.reward_model.score([judges.cvs[number] for number, _ in draws], texts)
    texts_by_cv = [texts[start : start + n] for start in range(0, len(texts), n)]
    return Written(texts_by_cv, scores.reshape(-1, n), np.array(finished).reshape(-1, n), time.monotonic() - started)


def best(written: Written, n: int) -> Written:
    """Keep the JD with the highest score among the first n of each CV."""
    top = written.scores[:, :n].argmax(axis=1)
    rows = np.arange(len(top))
    kept = [[cv_texts[i]] for cv_texts, i in zip(written.texts, top, strict=True)]
    seconds = written.seconds * n / written.scores.shape[1]
    return Written(kept, written.scores[rows, top][:, None], written.finished[rows, top][:, None], seconds)


def figures(written: Written, base: Written, judges: Judges) -> dict[str, float]:
    """Return the metrics of one JD per CV; reward gains are over `base`, all samples of the SFT generator."""
    texts = [text for (text,) in written.texts]
    signs = text_statistics(texts)
    sound = np.array([defect(text) is None for text in texts]) & written.finished[:, 0]
    metrics = {
        "reward": float(written.scores.mean()),
        "reward_gain_sd": float((written.scores.mean() - base.scores.mean()) / base.scores.std()),
        "similarity_margin": similarity_margin(texts, judges),
        "format_rate": float(sound.mean()),
        "words": signs["words"],
        "distinct_2": signs["distinct_2"],
        "repetition": signs["repetition"],
        "seconds_generating": written.seconds,
        "n_test_cvs": float(len(texts)),
    }
    if judges.fits is not None:
        metrics["true_fit"] = float(np.mean([judges.fits(number, text) for number, text in enumerate(texts)]))
    return metrics


def similarity_margin(texts: list[str], judges: Judges) -> float:
    """Return the mean cosine of a CV's text to its matched JD, less that to the matched JDs of other CVs."""
    known = [i for i, jd in enumerate(judges.matched) if jd is not None]
    text_vectors = judges.encoder.encode([texts[i] for i in known]).vectors
    matched_vectors = judges.encoder.encode([str(judges.matched[i]) for i in known]).vectors
    cosines = text_vectors @ matched_vectors.T  # unit vectors
    is_own = np.eye(len(known), dtype=bool)
    return float(cosines[is_own].mean() - cosines[~is_own].mean())


def _judges(tables: Tables, windows: Windows, config: GirlConfig, reward: Path, n: int) -> Judges:
    """Draw n test CVs from the window after RL, one per seeker, of seekers without an earlier decision."""
    after = windows._replace(reward_end=windows.rl_end, rl_end=windows.train_end)
    cvs = rl_cvs(tables, after).unique("job_seeker_id", keep="first", maintain_order=True)
    cvs = cvs.sample(min(n, cvs.height), seed=config.ppo.seed)
    query = """SELECT job_seeker_id, min(jd) AS jd FROM interactions JOIN jobs USING (job_id)
        WHERE matched AND decided_at >= $start AND decided_at < $end GROUP BY 1"""
    bounds = {"start": windows.rl_end, "end": windows.train_end}
    jd_of = dict(tables.connection.execute(query, bounds).fetchall())
    matched = [jd_of.get(seeker) for seeker in cvs["job_seeker_id"]]
    return Judges(cvs["cv"].to_list(), matched, TransformersRewardModel(reward), load_encoder(config), None)


def _tuned(tables: Tables, windows: Windows, config: GirlConfig, changes: dict[str, Any]) -> Path | None:
    """Train a stage-3 generator and return its folder.

    Return None, with a note on stderr, if none of its evaluations was within the limits.
    """
    changed = config.model_copy(update={"ppo": config.ppo.model_copy(update=changes)})
    try:
        return train_ppo(tables, windows, changed)
    except CheckpointError as error:
        print(f"{changes}: {error}", file=sys.stderr)
        return None


def _curve(evaluations: pl.DataFrame) -> list[dict[str, float]]:
    """Return KL, gain and words of each evaluation on the CVs that choose the checkpoint."""
    rows = evaluations.to_dicts()
    start = rows[0]
    gains = [(row["score"] - start["score"]) / start["score_sd"] for row in rows]
    return [{"kl": row["kl"], "gain": gain, "words": row["words"]} for row, gain in zip(rows, gains, strict=True)]


def _some(metrics: dict[str, float], *names: str) -> dict[str, float]:
    return {name: metrics[name] for name in names if name in metrics}
