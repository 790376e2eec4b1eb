"""Measure steps and peak memory of training on a pretrained base: a batch as a whole, and in parts.

    python benchmarks/base_training.py --base FOLDER [--variant STAGE:TUNING:ROWS] [--steps N] [--markdown FILE]

Each variant runs in a process of its own on rows of random tokens, all of the same length. ROWS is the number of rows
of a batch that are computed at the same time: all of them is how a batch was computed before docs/adr/0021.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measuring import describe, new_process, page_head, peak_memory_mb, write_json, write_page
from transformers import PrinterCallback, TrainerCallback

from girl_features.config import RewardConfig, SFTConfig
from girl_features.generator.checkpoint import n_parameters
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.generator.tuning import settle_tuning
from girl_features.machine import n_cores
from girl_features.trainers import trl_common
from girl_features.trainers.precision import precision_of
from girl_features.trainers.reward import build_reward_trainer, new_scorer
from girl_features.trainers.sft import build_sft_trainer

VARIANTS = ("sft:lora:8", "sft:lora:1", "sft:full:1", "reward:lora:1")
BATCH = 8  # rows, or preference pairs
PROMPT_TOKENS, JD_TOKENS = 384, 192


class Clock(TrainerCallback):
    """Wall and CPU seconds of each step."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = time.perf_counter(), time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.wall.append(time.perf_counter() - self._start[0])
        self.cpu.append(time.process_time() - self._start[1])


def measure(base: Path, variant: str, steps: int, threads: int) -> dict[str, Any]:
    """Return the figures of one variant: seconds of the fastest step, and the peak memory of this process."""
    torch.set_num_threads(threads)
    stage, tuning, at_once = variant.split(":")
    with tempfile.TemporaryDirectory() as folder, patch.object(trl_common, "rows_at_once", return_value=int(at_once)):
        trainer = _sft(base, tuning, steps, Path(folder)) if stage == "sft" else _reward(base, tuning, Path(folder))
        trainer.args.max_steps, trainer.args.save_strategy = steps, "no"
        clock = Clock()
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        result = trainer.train()
    sequences = BATCH * (2 if stage == "reward" else 1)
    seconds = min(clock.wall)
    return {
        "stage": stage,
        "tuning": tuning,
        "rows_at_once": int(at_once),
        "precision": precision_of(trainer),
        "step_s": seconds,
        "step_cpu_s": min(clock.cpu),
        "tokens_per_s": sequences * (PROMPT_TOKENS + JD_TOKENS) / seconds,
        "peak_gb": peak_memory_mb() / 1000,
        "loss": result.training_loss,
    }


def _tokens(n: int, generator: torch.Generator) -> list[int]:
    return torch.randint(100, 10_000, (n,), generator=generator).tolist()


def _sft(base: Path, tuning: str, steps: int, folder: Path) -> Any:
    settings = settle_tuning(SFTConfig(tuning=tuning, batch_size=BATCH), str(base), n_parameters(base))
    model, tokenizer = load_causal_lm(base, torch.float32)
    generator = torch.Generator().manual_seed(0)
    mask = [0] * PROMPT_TOKENS + [1] * JD_TOKENS
    rows = [{"input_ids": _tokens(len(mask), generator), "completion_mask": mask} for _ in range(BATCH * steps)]
    return build_sft_trainer(model, tokenizer, rows, [], settings, folder)


def _reward(base: Path, tuning: str, folder: Path) -> Any:
    settings = settle_tuning(RewardConfig(tuning=tuning, batch_size=BATCH), str(base), n_parameters(base))
    model, tokenizer = new_scorer(base, 0, folder)
    generator = torch.Generator().manual_seed(0)
    names = ("chosen_ids", "rejected_ids")
    rows = [{name: _tokens(PROMPT_TOKENS + JD_TOKENS, generator) for name in names} for _ in range(BATCH)]
    return build_reward_trainer(model, tokenizer, rows, settings, folder)


def page(base: Path, steps: int, results: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the page."""
    facts = {
        "Base": f"{base.name}, {n_parameters(base) / 1e6:.0f} M parameters",
        "Batch": f"{BATCH} rows (reward: pairs) of {PROMPT_TOKENS} + {JD_TOKENS} tokens; the fastest of {steps} steps",
        "CPU seconds": "of all threads of the process: unlike seconds, they hardly depend on other work beside it",
    }
    names = list(results[0])
    lines = ["| " + " | ".join(name.replace("_", " ") for name in names) + " |", "|" + "---|" * len(names)]
    for row in results:
        cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return [*page_head("Training a pretrained base on CPUs: steps and memory", facts), *lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder with safetensors weights")
    parser.add_argument("--variant", action="append", help=f"repeatable; default: {' '.join(VARIANTS)}")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=n_cores())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for variant in arguments.variant or VARIANTS:
        with new_process() as process:
            results.append(
                process.submit(measure, arguments.base, variant, arguments.steps, arguments.threads).result()
            )
        print(describe(results[-1]), flush=True)
        write_json(arguments.json, results)
        write_page(arguments.markdown, page(arguments.base, arguments.steps, results))


if __name__ == "__main__":
    main()
