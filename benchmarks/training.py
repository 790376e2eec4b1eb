"""What each training stage of the generator gives on the sample market, with best-of-N beside PPO, RLOO, GRPO and DPO.

    python benchmarks/training.py --json docs/results/training.json     # three seeds; --quick: one, and smaller

Everything is measured on seekers that no stage has trained on: the reward model on held-out seekers of its window, the
generators on held-out CVs of the RL window, which also choose PPO's checkpoint: a little in its favour.
`reward_gain_sd` is the rise of the mean score U over the SFT generator's samples, in their standard deviations. U is
what PPO and best-of-N are given, so both look good on it; `similarity_margin` is not: cosine of the generated JD to one
that the seeker matched, less that to those of other seekers.
Best-of-N has KL log N - (N - 1) / N from its generator, and costs N generations for every JD that is served.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import polars as pl
import torch

from girl_features.config import GirlConfig
from girl_features.data import Tables
from girl_features.errors import CheckpointError
from girl_features.generator.checkpoint import REWARD_RECORD_NAME, read_record
from girl_features.generator.reward_model import TransformersRewardModel
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.pipeline import open_encoder, open_tables, windows_of
from girl_features.sample import write_sample
from girl_features.splits import Windows, rl_cvs
from girl_features.trainers.common import hold_out_seekers
from girl_features.trainers.feedback import JDTask, text_signs
from girl_features.trainers.reward import train_reward
from girl_features.trainers.rl import train_ppo
from girl_features.trainers.rollouts import sample, seed_of, use_plain_sampling
from girl_features.trainers.sft import train_sft

ALGOS = ("ppo", "rloo", "grpo", "dpo")
BEST_OF = 8
QUICK = {"seekers": 1500, "seeds": [0], "hidden": 64, "iterations": 20}
FULL = {"seekers": 6000, "seeds": [0, 1, 2], "hidden": 128, "iterations": 60}


class Written(NamedTuple):
    """n JDs a CV, for c CVs."""

    texts: list[list[str]]  # c lists of n
    scores: np.ndarray  # (c, n) float32
    finished: np.ndarray  # (c, n) bool
    seconds: float


def config_for(folder: Path, data: Path, size: dict[str, Any], seed: int) -> GirlConfig:
    hidden = size["hidden"]
    return GirlConfig.model_validate(
        {
            "workspace": folder,
            "tables": {n: {"path": str(data / f"{n}.parquet")} for n in ("job_seekers", "jobs", "interactions")},
            "windows": {"sft_share": 0.35, "reward_share": 0.2, "rl_share": 0.12, "train_share": 0.2},
            "generator": {
                "max_cv_tokens": 128,
                "tiny": {"vocab_size": 1024, "hidden_size": hidden, "n_layers": hidden // 32, "n_heads": hidden // 32},
            },
            "sft": {"epochs": 4, "max_jd_tokens": 128, "seed": seed},
            "reward": {"max_jd_tokens": 128, "seed": seed},
            "ppo": {"iterations": size["iterations"], "learning_rate": 1e-4, "holdout": 0.25, "seed": seed},
            "sampling": {"max_new_tokens": 128, "seed": seed},
        }
    )


def write(folder: Path, cvs: list[str], reward_model: TransformersRewardModel, config: GirlConfig, n: int) -> Written:
    """n JDs of each CV at PPO's temperature, drawn from the same seeds whatever the generator."""
    started = time.monotonic()
    model, tokenizer = load_causal_lm(folder)
    use_plain_sampling(model.eval(), tokenizer.eos_token_id, tokenizer.pad_token_id)
    record = read_record(folder)
    task = JDTask(cvs, tokenizer, record.max_cv_tokens, reward_model, 0.0, 0.0)
    texts, scores, finished = [], [], []
    for number, (cv, prompt) in enumerate(zip(cvs, task.prompts, strict=True)):
        seeds = [seed_of("benchmark", config.ppo.seed, number, i) for i in range(n)]
        limits = {"max_new_tokens": config.sampling.max_new_tokens, "temperature": config.ppo.temperature}
        drawn = sample(model, [prompt] * n, seeds, **limits)
        own = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in drawn.completion_ids.tolist()]
        texts.append(own)
        scores.append(reward_model.score([cv] * n, own))
        finished.append(drawn.finished.numpy())
    return Written(texts, np.stack(scores), np.stack(finished), time.monotonic() - started)


def best(written: Written) -> Written:
    """The JD of the highest score of each CV."""
    top = written.scores.argmax(axis=1)
    rows = np.arange(len(top))
    kept = [[own[i]] for own, i in zip(written.texts, top, strict=True)]
    return Written(kept, written.scores[rows, top][:, None], written.finished[rows, top][:, None], written.seconds)


def matched_jds(tables: Tables, windows: Windows, seekers: list[str]) -> list[str | None]:
    """A JD that each seeker matched in the RL window, or None."""
    query = """SELECT job_seeker_id, min(jd) AS jd FROM interactions JOIN jobs USING (job_id)
        WHERE matched AND decided_at >= $start AND decided_at < $end GROUP BY 1"""
    bounds = {"start": windows.reward_end, "end": windows.rl_end}
    found = dict(tables.connection.execute(query, bounds).fetchall())
    return [found.get(seeker) for seeker in seekers]


def similarity_margin(encoder: Any, written: Written, matched: list[str | None]) -> float:
    """Mean cosine of a CV's first JD to its matched JD, less that to the matched JDs of the others."""
    known = [i for i, jd in enumerate(matched) if jd is not None]
    ours = encoder.encode([written.texts[i][0] for i in known]).vectors
    theirs = encoder.encode([str(matched[i]) for i in known]).vectors
    cosines = ours @ theirs.T  # unit vectors
    own = np.eye(len(known), dtype=bool)
    return float(cosines[own].mean() - cosines[~own].mean())


def figures(written: Written, base: Written, encoder: Any, matched: list[str | None]) -> dict[str, float]:
    signs = text_signs([text for own in written.texts for text in own])
    return {
        "reward": float(written.scores.mean()),
        "reward_gain_sd": float((written.scores.mean() - base.scores.mean()) / base.scores.std()),
        "similarity_margin": similarity_margin(encoder, written, matched),
        "finished": float(written.finished.mean()),
        "words": signs["words"],
        "distinct_2": signs["distinct_2"],
        "repetition": signs["repetition"],
        "seconds_generating": written.seconds,
    }


def run_seed(size: dict[str, Any], seed: int, folder: Path) -> dict[tuple[str, str], float]:
    data = folder / "data"
    write_sample(data, n_seekers=size["seekers"], seed=seed)
    config = config_for(folder / "workspace", data, size, seed)
    with open_tables(config) as tables:
        windows = windows_of(config, tables)
        sft, reward = train_sft(tables, windows, config), train_reward(tables, windows, config)
        tuned = {algo: folder for algo in ALGOS if (folder := _tuned(tables, windows, config, algo)) is not None}
        _, held_out = hold_out_seekers(rl_cvs(tables, windows), config.ppo.holdout, config.ppo.seed)
        matched = matched_jds(tables, windows, held_out["job_seeker_id"].to_list())
    encoder, reward_model, cvs = open_encoder(config), TransformersRewardModel(reward), held_out["cv"].to_list()
    drawn = write(sft, cvs, reward_model, config, BEST_OF)
    one = Written([own[:1] for own in drawn.texts], drawn.scores[:, :1], drawn.finished[:, :1], drawn.seconds / BEST_OF)
    rows = {
        "sft": figures(one, drawn, encoder, matched),
        f"best_of_{BEST_OF}": figures(best(drawn), drawn, encoder, matched),
    }
    for algo, generator in tuned.items():
        rows[algo] = figures(write(generator, cvs, reward_model, config, 1), drawn, encoder, matched)
        rows[algo] |= _some(read_record(generator).metrics, "kl_per_sequence", "best_iteration", "train_seconds")
        rows[algo] |= {"n_heldout_cvs": float(len(cvs))}
    rows["sft"] |= _some(read_record(sft).metrics, "heldout_perplexity", "train_seconds")
    rows[f"best_of_{BEST_OF}"]["kl_per_sequence"] = math.log(BEST_OF) - (BEST_OF - 1) / BEST_OF
    names = ("pair_accuracy", "auc", "ece", "length_correlation", "longer_is_matched", "n_heldout_pairs")
    rows["reward"] = _some(read_record(reward, REWARD_RECORD_NAME).metrics, *names, "train_seconds")
    return {(stage, metric): value for stage, own in rows.items() for metric, value in own.items()}


def _tuned(tables: Tables, windows: Windows, config: GirlConfig, algo: str) -> Path | None:
    """The folder of a stage-3 generator; None, said on stderr, where none of its evaluations was within the limits."""
    own = config.model_copy(update={"ppo": config.ppo.model_copy(update={"algo": algo})})
    try:
        return train_ppo(tables, windows, own)
    except CheckpointError as error:
        print(f"{algo}: {error}", file=sys.stderr)
        return None


def _some(metrics: dict[str, float], *names: str) -> dict[str, float]:
    return {name: metrics[name] for name in names if name in metrics}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, a smaller market and generator")
    parser.add_argument("--json", type=Path, help="write rows of data, stage, metric, value, seed here")
    arguments = parser.parse_args()
    size: dict[str, Any] = QUICK if arguments.quick else FULL
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    by_seed = {}
    for seed in size["seeds"]:
        with tempfile.TemporaryDirectory() as folder:
            print(f"seed {seed}", file=sys.stderr)
            by_seed[seed] = run_seed(size, seed, Path(folder))
    rows = []
    for stage, metric in dict.fromkeys(key for found in by_seed.values() for key in found):
        values = [found[stage, metric] for found in by_seed.values() if (stage, metric) in found]
        row = {"data": "sample market (simulation)", "stage": stage, "metric": metric}
        rows.append({**row, "value": statistics.fmean(values), "seed": "mean"})
        own = {seed: found[stage, metric] for seed, found in by_seed.items() if (stage, metric) in found}
        rows += [{**row, "value": value, "seed": seed} for seed, value in own.items()]
    table = pl.DataFrame([row for row in rows if row["seed"] == "mean"]).pivot("stage", index="metric", values="value")
    with pl.Config(tbl_rows=-1, tbl_hide_dataframe_shape=True, tbl_hide_column_data_types=True, float_precision=3):
        print(table)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
