"""Parts that the stages with TRL's trainers share: arguments, checkpoints that can be checked, and progress."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from transformers import PrinterCallback, TrainerCallback

from girl_features.config import RewardConfig, SFTConfig
from girl_features.errors import CheckpointError, TrainingError
from girl_features.generator.tuning import LORA_FROM
from girl_features.progress import Progress
from girl_features.store.failpoints import failpoint
from girl_features.trainers.checkpoints import check_hashes, write_hashes
from girl_features.trainers.precision import Precision, settle_precision
from girl_features.trainers.training_data import Rows, TokenizedRows
from girl_features.trainers.training_work import TrainingWork

CHECKPOINTS = 10  # in a run of a large base
_log = logging.getLogger(__name__)


def trainer_arguments(output_dir: Path, learning_rate: float | None, seed: int, precision: Precision) -> dict[str, Any]:
    """Return the arguments that every TRL trainer gets here. There are no reports and progress bars."""
    disable_progress_bars()  # of the `datasets` library; our own progress line counts steps
    gpu = torch.cuda.is_available()
    return {
        "output_dir": str(output_dir),
        "learning_rate": learning_rate,
        "bf16": precision == "bfloat16",
        "use_cpu": not gpu,
        "seed": seed,
        "data_seed": seed,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": gpu,
    }


def epoch_arguments(settings: SFTConfig | RewardConfig, output_dir: Path, n_parameters: int) -> dict[str, Any]:
    """Return the arguments of stages 1 and 2: a cosine schedule, and a checkpoint after each epoch.

    The settings are settled, and the model has `n_parameters`. A batch is computed in parts, whose gradients are added.
    """
    part = rows_at_once(settings.batch_size, n_parameters)
    accumulated = settings.gradient_accumulation if isinstance(settings, SFTConfig) else 1
    precision = settle_precision(settings.precision, n_parameters)
    return {
        **trainer_arguments(output_dir, settings.learning_rate, settings.seed, precision),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": part,
        "per_device_eval_batch_size": part,
        "gradient_accumulation_steps": accumulated * settings.batch_size // part,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "weight_decay": 0.01,
        "max_length": None,  # the rows are cut and counted before; TRL would cut or drop them silently
        "gradient_checkpointing": torch.cuda.is_available(),
        "save_strategy": "epoch",  # for large bases, see _SaveWithinEpochs
        "save_total_limit": 2,  # the older one is used if the newer one is damaged
        "logging_nan_inf_filter": False,
        "include_num_input_tokens_seen": "non_padding",  # for the remaining time
    }


def rows_at_once(batch_size: int, n_parameters: int) -> int:
    """Return the number of rows of a batch whose activations and logits are kept in memory at the same time.

    On CPUs a model of 30 million parameters or more reads one row after the other, which costs no time and needs no
    padding. Its memory then does not grow with the batch: docs/adr/0021. GPUs recompute activations instead.
    """
    return 1 if n_parameters >= LORA_FROM and not torch.cuda.is_available() else batch_size


def generator_adapter(rank: int) -> Any:
    """Return the peft settings of LoRA adapters on every linear layer of a causal language model."""
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def train_from_last_checkpoint(
    trainer: Any, stage: str, tokenized: TokenizedRows, evaluated: Rows, callbacks: Sequence[TrainerCallback]
) -> dict[str, float]:
    """Train on `tokenized`, from the newest whole checkpoint if there is one, and return the metrics.

    The `stage` is that of `girl train`. The rows `evaluated` are read after each epoch. `callbacks` are added to
    those that show progress and guard the checkpoints.
    """
    trainer.remove_callback(PrinterCallback)  # stdout is for results
    work = TrainingWork(_n_tokens(tokenized.rows), _n_tokens(evaluated))
    own: list[TrainerCallback] = [ProgressCallback(stage, work), _CheckpointGuard(f"{stage}.learning_rate")]
    if trainer.model.num_parameters() >= LORA_FROM:
        own.append(_SaveWithinEpochs())
    for callback in (*own, *callbacks):
        trainer.add_callback(callback)
    limit = trainer.args.max_steps if trainer.args.max_steps > 0 else None
    result = trainer.train(resume_from_checkpoint=last_checkpoint(Path(trainer.args.output_dir), limit))
    return {
        "train_loss": float(result.training_loss),
        "train_seconds": float(result.metrics["train_runtime"]),
        "n_cv_truncated": float(tokenized.n_cv_truncated),
        "n_jd_truncated": float(tokenized.n_jd_truncated),
    }


def _n_tokens(rows: Rows) -> int:
    """Return the number of tokens that the model reads of these rows."""
    return sum(len(ids) for row in rows for name, ids in row.items() if name.endswith("_ids"))


class _SaveWithinEpochs(TrainerCallback):
    """Write a checkpoint ten times in a run, beside those after each epoch: an epoch of a large base takes hours."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if state.global_step % max(1, math.ceil(state.max_steps / CHECKPOINTS)) == 0:
            control.should_save = True
        return control


class _CheckpointGuard(TrainerCallback):
    """Write the hashes of every checkpoint of a `transformers` trainer, and stop if the loss or a weight is not finite.

    A checkpoint with a weight that is not finite is deleted. The checkpoints before it stay as they are.
    """

    def __init__(self, learning_rate_setting: str) -> None:
        self._learning_rate_setting = learning_rate_setting  # the error message says to lower it

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise self._diverged(Path(args.output_dir), state.global_step, f"the loss is {loss}")

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if not all(bool(torch.isfinite(p).all()) for p in model.parameters()):
            shutil.rmtree(folder)
            raise self._diverged(folder.parent, state.global_step, "a weight is not a finite number")
        write_hashes(folder)
        failpoint("training.saved")

    def _diverged(self, checkpoints_dir: Path, step: int, problem: str) -> TrainingError:
        newest = last_checkpoint(checkpoints_dir)
        kept = f"{newest} is the last good checkpoint and is kept" if newest else "no checkpoint was written yet"
        return TrainingError(f"at step {step} {problem}: {kept}. Lower `{self._learning_rate_setting}` and train again")


def last_checkpoint(checkpoints_dir: Path, max_steps: int | None = None) -> str | None:
    """Return the newest whole checkpoint of a trainer with a `_CheckpointGuard`, and delete damaged ones after it.

    Checkpoints at `max_steps`, where a run ends within an epoch, are passed over: from there the trainer would do one
    step too many. The steps before it give the same weights once more.
    """
    folders = sorted(checkpoints_dir.glob("checkpoint-*"), key=_step_of, reverse=True)
    for folder in folders:
        if max_steps is not None and _step_of(folder) >= max_steps:
            continue
        try:
            check_hashes(folder)
            return str(folder)
        except CheckpointError:
            _log.warning("%s is incomplete or altered; trying the one before it", folder)
            shutil.rmtree(folder)
    return None


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


class ProgressCallback(TrainerCallback):
    """Show the trainer's steps on our progress line.

    With `work`, of a trainer that counts the tokens that are not padding, the remaining time follows from the tokens.
    """

    def __init__(self, label: str, work: TrainingWork | None = None) -> None:
        self._label, self._work = label, work
        self._progress: Progress | None = None  # open between the first step and the last
        self._n_evaluations = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **_: Any) -> None:
        """Open the line at the first step, or at the step that a resumed run begins with."""
        quiet = not state.is_world_process_zero
        self._progress = Progress(self._label, state.max_steps, "steps", quiet=quiet).__enter__()
        if self._work is not None:
            n_epochs = state.max_steps / math.ceil(len(train_dataloader) / args.gradient_accumulation_steps)
            self._work.set_epochs(n_epochs)
            self._n_evaluations = state.global_step / state.max_steps * n_epochs  # one after each epoch
        self._progress.begin_at(state.global_step, self._share(state))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count one step."""
        if self._progress is not None:
            self._progress.advance(1, self._share(state))

    def on_prediction_step(self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **_: Any) -> None:
        """Count one batch of an evaluation within the training."""
        if self._progress is not None:
            self._n_evaluations += 1 / len(eval_dataloader)
            self._progress.advance(0, self._share(state))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the line."""
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
            self._progress = None

    def _share(self, state: Any) -> float | None:
        return None if self._work is None else self._work.share(state.num_input_tokens_seen, self._n_evaluations)
