"""The results page and the picture of `training.py`."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from girl_features.evaluation.machine import machine_description

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


def write_page(path: Path, rows: list[dict[str, Any]], parts: dict[str, dict[int, Any]], *, quick: bool) -> None:
    """Write tables of means and spreads; what stands below the mark of an older page is kept."""
    kept = path.read_text(encoding="utf-8").partition(KEEP)[2] if path.is_file() else "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    seeds = sorted({seed for own in parts.values() for seed in own})
    lines = [
        "# The training stages",
        "",
        f"    python benchmarks/training.py{' --quick' if quick else ''} --markdown docs/results/{path.name}",
        "",
        f"- **Date:** {datetime.now(UTC):%Y-%m-%d}",
        f"- **Machine:** {machine_description()}",
        f"- **Seeds:** {', '.join(map(str, seeds))} (market, training, sampling); values are mean ± standard deviation",
        "",
        f"![Reward gained against KL]({path.with_suffix('.png').name})",
        "",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        lines += _section(data, [row for row in rows if row["data"] == data])
    path.write_text("\n".join([*lines, KEEP]) + kept, encoding="utf-8")
    plot(path.with_suffix(".png"), parts)


def plot(path: Path, parts: dict[str, dict[int, Any]]) -> None:
    """Reward gained against KL: a line a seed and algorithm, and best-of-N as crosses."""
    figure = Figure(figsize=(5.2 * len(parts), 3.8), layout="constrained")
    for axes, (data, own) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        for number, part in enumerate(own.values()):
            for algo, curve in part["curves"].items():
                if algo not in COLOURS:
                    continue
                points = [(point["kl"], point["gain"]) for point in curve]
                axes.plot(*zip(*points, strict=True), ".-", color=COLOURS[algo], lw=1, label="" if number else algo)
            best = [figures for stage, figures in part["figures"].items() if stage.startswith("best_of")]
            points = [(found["kl_per_sequence"], found["reward_gain_sd"]) for found in best]
            axes.plot(*zip(*points, strict=True), "kx", label="" if number else "best of 2, 4, 8")
        axes.set_title(f"{data}{' (simulation)' if data == 'sample' else ''}")
        axes.set_xlabel("KL from the SFT generator, nats a JD")
        axes.set_ylabel("reward gained, SD of SFT's")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def _section(data: str, rows: list[dict[str, Any]]) -> list[str]:
    def cell(stage: str, metric: str) -> str:
        values = [row["value"] for row in rows if (row["stage"], row["metric"]) == (stage, metric)][1:]  # less the mean
        if not values:
            return ""
        mean = statistics.fmean(values)
        digits = 0 if abs(mean) >= 20 else 2 if abs(mean) >= 1 else 3
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 and len(set(values)) > 1 else ""
        return f"{mean:.{digits}f}{spread}"

    found = {row["metric"] for row in rows}
    columns = [metric for metric in COLUMNS if metric in found]
    stages = [stage for stage in STAGES if any(row["stage"] == stage for row in rows)]
    return [
        f"## {data}",
        "",
        f"SFT perplexity {cell('sft', 'heldout_perplexity')}; {cell('sft', 'n_test_cvs')} test CVs. "
        f"Common KL {cell('ppo', 'common_kl')}.",
        "",
        *_table(["reward model", "mean"], [[metric, cell("reward", metric)] for metric in REWARD]),
        "",
        *_table(
            ["generator", *(COLUMNS[metric] for metric in columns)],
            [[stage, *(cell(stage, metric) for metric in columns)] for stage in stages],
        ),
        "",
    ]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]
