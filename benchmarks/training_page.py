"""The results page and the plot of `training.py`."""

from __future__ import annotations

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl
from matplotlib.figure import Figure
from measuring import page_head

from girl_features.evaluation.tables import markdown_table

STAGES = ("sft", "ppo", "ppo_kl_2", "rloo", "grpo", "dpo", "best_of_2", "best_of_4", "best_of_8")
COLUMNS = {  # metric -> heading
    "reward_gain_sd": "reward gained, SD",
    "kl_per_sequence": "KL, nats a JD",
    "gain_at_common_kl": "gain at the common KL, SD",
    "true_fit": "true fit",
    "similarity_margin": "similarity margin",
    "format_rate": "format rate",
    "words": "words",
    "distinct_2": "distinct-2",
    "repetition": "repetition",
    "train_seconds": "seconds training",
    "seconds_generating": "seconds generating",
}
REWARD = ("pair_accuracy", "auc", "ece", "length_correlation", "longer_is_matched", "n_pairs", "n_heldout_pairs")
COLOURS = {"ppo": "#0072b2", "rloo": "#d55e00", "grpo": "#009e73", "dpo": "#cc79a7"}  # Okabe and Ito
KEEP = "<!-- what follows is kept when the page is written anew -->"


def write_training_page(path: Path, rows: list[dict[str, Any]], parts: dict[str, dict[int, Any]]) -> None:
    """Write tables of means and spreads, and the plot. Text below the KEEP mark of an older page stays."""
    kept = path.read_text(encoding="utf-8").partition(KEEP)[2] if path.is_file() else "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    seeds = sorted({seed for by_seed in parts.values() for seed in by_seed})
    about = f"{', '.join(map(str, seeds))} (market, training, sampling); values are mean ± standard deviation"
    image = path.with_suffix(".png")
    lines = [*page_head("The training stages", {"Seeds": about}), f"![Reward gained against KL]({image.name})", ""]
    path.write_text("\n".join([*lines, *tables_of(rows), KEEP]) + kept, encoding="utf-8")
    plot(image, parts)


def tables_of(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of two tables for each data set, with means and spreads over the seeds."""
    lines = []
    for data in dict.fromkeys(row["data"] for row in rows):
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        for row in rows:
            if row["data"] == data and row["seed"] != "mean":
                values[row["stage"], row["metric"]].append(row["value"])
        cells = defaultdict(str, {key: _mean_and_spread(by_seed) for key, by_seed in values.items()})
        reward = [{"reward model": metric, "mean": cells["reward", metric]} for metric in REWARD]
        columns = [metric for metric in COLUMNS if any(metric == measured for _, measured in values)]
        generators = [
            {"generator": stage} | {COLUMNS[metric]: cells[stage, metric] for metric in columns}
            for stage in STAGES
            if any(stage == measured for measured, _ in values)
        ]
        perplexity, n_cvs = cells["sft", "heldout_perplexity"], cells["sft", "n_test_cvs"]
        facts = f"SFT perplexity {perplexity}; {n_cvs} test CVs. Common KL {cells['ppo', 'common_kl']}."
        lines += [f"## {data}", "", facts, "", markdown_table(pl.DataFrame(reward)), ""]
        lines += [markdown_table(pl.DataFrame(generators)), ""]
    return lines


def plot(path: Path, parts: dict[str, dict[int, Any]]) -> None:
    """Plot reward gained against KL: a line for each seed and algorithm, and crosses for best-of-N."""
    figure = Figure(figsize=(5.2 * len(parts), 3.8), layout="constrained")
    for axes, (data, by_seed) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        for number, part in enumerate(by_seed.values()):
            for algo, curve in part["curves"].items():
                if algo not in COLOURS:
                    continue
                points = [(point["kl"], point["gain"]) for point in curve]
                axes.plot(*zip(*points, strict=True), ".-", color=COLOURS[algo], lw=1, label="" if number else algo)
            best = [metrics for stage, metrics in part["figures"].items() if stage.startswith("best_of")]
            points = [(metrics["kl_per_sequence"], metrics["reward_gain_sd"]) for metrics in best]
            axes.plot(*zip(*points, strict=True), "kx", label="" if number else "best of 2, 4, 8")
        axes.set_title(f"{data}{' (simulation)' if data == 'sample' else ''}")
        axes.set_xlabel("KL from the SFT generator, nats a JD")
        axes.set_ylabel("reward gained, SD of SFT's")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def _mean_and_spread(values: list[float]) -> str:
    mean = statistics.fmean(values)
    if abs(mean) >= 20:
        digits = 0
    elif abs(mean) >= 1:
        digits = 2
    else:
        digits = 3
    if len(set(values)) == 1:
        return f"{mean:.{digits}f}"
    return f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}"
