"""Measure each training stage of the generator, with best-of-N beside PPO, RLOO, GRPO and DPO.

    python benchmarks/training.py [--quick] [--json FILE] [--markdown FILE]
    python benchmarks/training.py --data sample --seed 1        # one part; several runs can work on parts at once

The data are `sample`, the simulated market with its planted law, and `careers`, real CVs in the folder
GIRL_DATA/careers if the environment variable GIRL_DATA is set.

The reward model is measured on held-out seekers of its window. The generators are measured on CVs that came after the
windows of all stages, of seekers that no stage has seen, so no test CV chose a checkpoint. `reward_gain_sd` is the rise
of the mean score U over that of the SFT generator, in standard deviations of its samples. Stage 3 and best-of-N
optimize U, so all of them look good on it. Two metrics are hidden from them: `true_fit` rates the content of the
generated JD by the planted law (sample only), and `similarity_margin` is the cosine of the generated JD to one that the
seeker matched later, less that to those of other seekers.

Best-of-N has KL log N - (N - 1) / N from its generator and costs N generations for every JD that is served.
`gain_at_common_kl` is read off each algorithm's curve of evaluations, on the CVs that choose the checkpoint, at the
largest KL that PPO, RLOO and GRPO all reached; DPO has a value if it went that far.

Finished parts are read from --cache; delete them to measure again. docs/results/training.md was made from the parts in
docs/results/training.
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
import torch
from measuring import write_json
from training_page import tables_of, write_training_page
from training_run import run_part

ROOT = Path(__file__).resolve().parents[1]
DATA = ("sample", "careers")
TITLES = {"sample": "sample market (simulation)", "careers": "careers"}
SEEDS = (0, 1, 2)
Part = dict[str, Any]  # "figures": stage -> metric -> value; "curves": algorithm -> points


def parts_of(data: str, source: Path | None, seeds: list[int], size: str, cache: Path) -> dict[int, Part]:
    """Return the part of each seed; finished parts are read from the cache."""
    parts = {}
    for seed in seeds:
        done = cache / f"{data}-{size}-{seed}.json"
        if not done.is_file():
            print(f"{data}, seed {seed}", file=sys.stderr)
            part = run_part(data, source, size, seed, cache / f"{data}-{size}-{seed}")
            partial = done.with_suffix(".partial")
            write_json(partial, part)
            partial.replace(done)
        parts[seed] = json.loads(done.read_text(encoding="utf-8"))
        add_common_kl(parts[seed]["figures"], parts[seed]["curves"])
    return parts


def add_common_kl(figures: dict[str, dict[str, float]], curves: dict[str, list[dict[str, float]]]) -> None:
    """Add `common_kl` and `gain_at_common_kl` to the rows of stage 3 whose curves reach the common KL."""
    furthest = {row: max(point["kl"] for point in curve) for row, curve in curves.items() if row != "ppo_kl_2"}
    common = min((kl for row, kl in furthest.items() if row != "dpo"), default=0.0)
    for row, kl in furthest.items():
        if kl >= common > 0:
            points = sorted((point["kl"], point["gain"]) for point in curves[row])
            gain = float(np.interp(common, *zip(*points, strict=True)))
            figures[row] |= {"common_kl": common, "gain_at_common_kl": gain}


def rows_of(data: str, parts: dict[int, Part]) -> list[dict[str, Any]]:
    """Return rows of data, stage, metric, value and seed; the mean over the seeds with a value comes first."""
    names = dict.fromkeys(
        (stage, metric) for part in parts.values() for stage, metrics in part["figures"].items() for metric in metrics
    )
    rows: list[dict[str, Any]] = []
    for stage, metric in names:
        row = {"data": TITLES[data], "stage": stage, "metric": metric}
        values = {seed: part["figures"].get(stage, {}).get(metric) for seed, part in parts.items()}
        values = {seed: value for seed, value in values.items() if value is not None}
        rows.append({**row, "value": statistics.fmean(values.values()), "seed": "mean"})
        rows += [{**row, "value": value, "seed": seed} for seed, value in values.items()]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, and a smaller market and generator")
    parser.add_argument("--json", type=Path, help="write rows of data, stage, metric, value, seed here")
    parser.add_argument("--markdown", type=Path, help="write a results page here and its plot beside it")
    parser.add_argument("--data", choices=DATA, help="only this data set")
    parser.add_argument("--seed", type=int, action="append", help="only this seed; repeatable")
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".girl" / "benchmark-training", help="folder of finished parts"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    size = "quick" if arguments.quick else "full"
    seeds = arguments.seed or list(SEEDS[:1] if arguments.quick else SEEDS)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    parts = {}
    for data in [arguments.data] if arguments.data else DATA:
        source = None
        if data == "careers":
            if "GIRL_DATA" not in os.environ:
                print("skipped careers: GIRL_DATA is not set to the folder that holds careers/", file=sys.stderr)
                continue
            source = Path(os.environ["GIRL_DATA"]) / "careers"
        parts[data] = parts_of(data, source, seeds, size, arguments.cache)
    rows = [row for data, data_parts in parts.items() for row in rows_of(data, data_parts)]
    print("\n".join(tables_of(rows)))
    write_json(arguments.json, rows)
    if arguments.markdown:
        write_training_page(arguments.markdown, rows, parts)


if __name__ == "__main__":
    main()
