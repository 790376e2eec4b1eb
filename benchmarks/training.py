"""What each training stage of the generator gives, with best-of-N beside PPO, RLOO, GRPO and DPO.

    python benchmarks/training.py [--quick] [--json FILE] [--markdown FILE]
    python benchmarks/training.py --data sample --seed 1        # one part; parts are kept, so runs may go side by side

Data: `sample`, the simulated market with its planted law, and `careers`, real CVs, where ../shared/data has them.
The reward model is measured on held-out seekers of its window, the generators on CVs that came after every stage's
window, of seekers that no stage has seen: none of them chose a checkpoint. `reward_gain_sd` is the rise of the mean
score U over that of the SFT generator, in standard deviations of its samples. U is what stage 3 and best-of-N are
given, so all look good on it. Two figures are given to none of them: `true_fit`, the planted law's value of what the
generated JD says (sample), and `similarity_margin`, the cosine of the generated JD to one that the seeker matched
later, less that to those of other seekers.

Best-of-N has KL log N - (N - 1) / N from its generator and costs N generations for every JD that is served.
`gain_at_common_kl` is read off each algorithm's curve of evaluations, on the CVs that choose the checkpoint, at the
largest KL that PPO, RLOO and GRPO all reached; DPO has one where it went as far.
Finished parts are kept in --cache and taken from there; delete it to measure again. Those that docs/results/training.md
was made from are in docs/results/training.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import polars as pl
import torch
from training_page import write_page
from training_run import CAREERS, run_part

ROOT = Path(__file__).resolve().parents[1]
DATA = ("sample", "careers")
SHOWN = {"sample": "sample market (simulation)", "careers": "careers"}
SEEDS = (0, 1, 2)
Part = dict[str, Any]  # "figures": stage -> metric -> value; "curves": algorithm -> points


def parts_of(data: str, seeds: list[int], size: str, cache: Path) -> dict[int, Part]:
    """Seed -> what was measured: what the cache has is taken from it."""
    parts = {}
    for seed in seeds:
        done = cache / f"{data}-{size}-{seed}.json"
        if not done.is_file():
            print(f"{data}, seed {seed}", file=sys.stderr)
            part = run_part(data, size, seed, cache / f"{data}-{size}-{seed}")
            partial = done.with_suffix(".partial")
            partial.write_text(json.dumps(part, indent=1) + "\n", encoding="utf-8")
            partial.replace(done)
        parts[seed] = json.loads(done.read_text(encoding="utf-8"))
        add_common_kl(parts[seed]["figures"], parts[seed]["curves"])
    return parts


def add_common_kl(figures: dict[str, dict[str, float]], curves: dict[str, list[dict[str, float]]]) -> None:
    """Add `common_kl` and `gain_at_common_kl` to the rows of stage 3 whose curves go as far."""
    furthest = {row: max(point["kl"] for point in curve) for row, curve in curves.items() if row != "ppo_kl_2"}
    common = min((kl for row, kl in furthest.items() if row != "dpo"), default=0.0)
    for row, kl in furthest.items():
        if kl >= common > 0:
            points = sorted((point["kl"], point["gain"]) for point in curves[row])
            gain = float(np.interp(common, *zip(*points, strict=True)))
            figures[row] |= {"common_kl": common, "gain_at_common_kl": gain}


def rows_of(data: str, parts: dict[int, Part]) -> list[dict[str, Any]]:
    """Rows of data, stage, metric, value, seed; the first of a name is the mean over the seeds that have it."""
    keys = dict.fromkeys((s, m) for part in parts.values() for s, own in part["figures"].items() for m in own)
    rows: list[dict[str, Any]] = []
    for stage, metric in keys:
        found = {seed: part["figures"].get(stage, {}).get(metric) for seed, part in parts.items()}
        own = {seed: value for seed, value in found.items() if value is not None}
        row = {"data": SHOWN[data], "stage": stage, "metric": metric}
        rows.append({**row, "value": statistics.fmean(own.values()), "seed": "mean"})
        rows += [{**row, "value": value, "seed": seed} for seed, value in own.items()]
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """One table a data set: metrics down, stages across."""
    for data in dict.fromkeys(row["data"] for row in rows):
        means = [row for row in rows if row["data"] == data and row["seed"] == "mean"]
        table = pl.DataFrame(means).pivot("stage", index="metric", values="value")
        print(f"\n{data}")
        with pl.Config(
            tbl_rows=-1,
            tbl_cols=-1,
            tbl_width_chars=200,
            tbl_hide_dataframe_shape=True,
            tbl_hide_column_data_types=True,
            float_precision=3,
        ):
            print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, and a smaller market and generator")
    parser.add_argument("--json", type=Path, help="write rows of data, stage, metric, value, seed here")
    parser.add_argument("--markdown", type=Path, help="write a results page here, its picture beside it")
    parser.add_argument("--data", choices=DATA, help="only this one")
    parser.add_argument("--seed", type=int, action="append", help="only this one; may be given again")
    parser.add_argument("--cache", type=Path, default=ROOT / ".girl" / "benchmark-training", help="of finished parts")
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    size = "quick" if arguments.quick else "full"
    seeds = arguments.seed or list(SEEDS[:1] if arguments.quick else SEEDS)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    parts = {}
    for data in [arguments.data] if arguments.data else DATA:
        if data == "careers" and not CAREERS.is_dir():
            print(f"skipped careers: there is no {CAREERS}")
            continue
        parts[data] = parts_of(data, seeds, size, arguments.cache)
    rows = [row for data, own in parts.items() for row in rows_of(data, own)]
    show(rows)
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if arguments.markdown:
        write_page(arguments.markdown, rows, parts, quick=arguments.quick)


if __name__ == "__main__":
    main()
