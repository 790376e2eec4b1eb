"""What the training stages share: held-out seekers, cut JDs, resuming and progress."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import polars as pl
from transformers import TrainerCallback

from girl_features.progress import Progress


def hold_out_seekers(rows: pl.DataFrame, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of all seekers but about a `share` of them, and the rows of those; drawn by hash of the id."""

    def is_held_out(job_seeker_id: str) -> bool:
        digest = hashlib.sha256(f"{seed}:{job_seeker_id}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < share * 2**32

    chosen = rows["job_seeker_id"].map_elements(is_held_out, return_dtype=pl.Boolean)
    return rows.filter(~chosen), rows.filter(chosen)


def last_checkpoint(steps_dir: Path) -> str | None:
    """The newest complete checkpoint of a `transformers` trainer, or None."""
    complete = [p for p in steps_dir.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return str(max(complete, key=lambda p: int(p.name.split("-")[1]))) if complete else None


class ProgressCallback(TrainerCallback):
    """Steps on our progress line instead of the trainer's."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._progress: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the line, at the step a resumed run begins with."""
        self._progress = Progress(self._label, state.max_steps, "steps").__enter__()
        self._progress.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count one step."""
        assert self._progress is not None
        self._progress.advance()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the line."""
        assert self._progress is not None
        self._progress.__exit__(None, None, None)
