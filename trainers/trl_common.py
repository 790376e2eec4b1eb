"""What the training stages share: held-out seekers, cut JDs, resuming and progress."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import torch
from transformers import TrainerCallback

from girl_features.errors import TrainingError
from girl_features.progress import Progress
from girl_features.store.failpoints import failpoint
from girl_features.store.files import write_whole

_HASHES = "hashes.json"
_log = logging.getLogger(__name__)


def hold_out_seekers(rows: pl.DataFrame, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows of all seekers but a `share` of them, at least two, and the rows of those; drawn by hash of the id."""

    def digest(job_seeker_id: str) -> bytes:
        return hashlib.sha256(f"{seed}:{job_seeker_id}".encode()).digest()

    seekers = sorted(rows["job_seeker_id"].unique().to_list(), key=digest)
    chosen = rows["job_seeker_id"].is_in(seekers[: max(2, round(share * len(seekers)))])
    return rows.filter(~chosen), rows.filter(chosen)


class CheckpointGuard(TrainerCallback):
    """Hashes every checkpoint of a `transformers` trainer, and stops where the loss or a weight is no finite number.

    Such a step is never kept: the checkpoints before it stay as they are.
    """

    def __init__(self, learning_rate: str) -> None:
        self._learning_rate = learning_rate  # the setting to lower

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        """Stop on a loss that is no number."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise self._diverged(Path(args.output_dir), state.global_step, f"the loss is {loss}")

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Write the hashes, after which the checkpoint counts as whole."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
            shutil.rmtree(folder)
            raise self._diverged(folder.parent, state.global_step, "a weight is no finite number")
        hashes = {str(p.relative_to(folder)): _hash(p) for p in folder.rglob("*") if p.is_file() and p.name != _HASHES}
        write_whole(folder / _HASHES, json.dumps(hashes).encode())
        failpoint("training.saved")

    def _diverged(self, steps_dir: Path, step: int, what: str) -> TrainingError:
        found = last_checkpoint(steps_dir)
        kept = f"{found} is the last good checkpoint and is kept" if found else "no checkpoint was written yet"
        return TrainingError(f"at step {step} {what}: {kept}. Lower `{self._learning_rate}` and train again")


def last_checkpoint(steps_dir: Path) -> str | None:
    """The newest whole checkpoint of a trainer with a CheckpointGuard; a damaged one is passed over. None without."""
    for folder in sorted(steps_dir.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True):
        try:
            hashes = json.loads((folder / _HASHES).read_text(encoding="utf-8"))
            if hashes and all(_hash(folder / name) == digest for name, digest in hashes.items()):
                return str(folder)
        except (OSError, ValueError, AttributeError):
            pass
        _log.warning("%s is incomplete or altered; trying the one before it", folder)
        shutil.rmtree(folder)
    return None


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class ProgressCallback(TrainerCallback):
    """Steps on our progress line instead of the trainer's."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._progress: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the line, at the step a resumed run begins with."""
        quiet = not state.is_world_process_zero
        self._progress = Progress(self._label, state.max_steps, "steps", quiet=quiet).__enter__()
        self._progress.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count one step."""
        assert self._progress is not None
        self._progress.advance()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the line."""
        assert self._progress is not None
        self._progress.__exit__(None, None, None)
