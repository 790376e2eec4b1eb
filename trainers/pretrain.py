"""Pretraining of `tiny` before stage 1, on the CVs and JDs known before the SFT window ends.

Most texts are split into two parts, one in the place of the CV and one in the place of the JD. From these the model
learns the format of the prompt, and to keep to a subject. The other texts stay whole, so that it learns how texts
begin. All are packed into rows of one length. The folder of a base is named after a hash of its inputs, and a run that
was killed continues from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import math
import random
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import torch
from torch import Tensor

from girl_features.config import TinyConfig
from girl_features.contract import sha256_of_files
from girl_features.encoder import find_encoder_folder
from girl_features.errors import CheckpointError, TrainingError
from girl_features.generator.prompts import CV_TOKEN, JD_TOKEN, plain_text_ids
from girl_features.progress import Progress
from girl_features.store.failpoints import failpoint
from girl_features.store.files import exclusive_lock
from girl_features.trainers import checkpoints
from girl_features.trainers.records import hash_inputs, publish, save_model
from girl_features.trainers.tiny import new_decoder, train_tokenizer

RECORD = "girl_base.json"
ROW_TOKENS = 256
ROWS_PER_STEP = 8
STEPS_PER_CHECKPOINT = 100  # or a tenth of all steps, if that is fewer
WHOLE_SHARE = 0.2  # share of the texts that stay whole
MIN_PART = 40  # characters
_SENTENCE_END = re.compile(r"[.;]\s+|\n+")
_log = logging.getLogger(__name__)


class BaseRecipe(NamedTuple):
    """Settings that decide a pretrained base, beside its texts and the encoder whose word vectors it starts from."""

    shape: TinyConfig
    max_cv_tokens: int
    max_jd_tokens: int
    max_tokens: int  # of prompt and JD together: the number of positions of the model
    seed: int


def pretrained_base(texts: pl.DataFrame, recipe: BaseRecipe, bases_dir: Path) -> Path:
    """Return the folder of the base for these inputs, and train it first if it is absent or damaged.

    The columns of `texts` are `marker` (the special token of a CV or a JD) and `text`.

    Raises:
        TrainingError: the loss is no longer a finite number.
    """
    encoder = recipe.shape.embeddings_from
    encoder_weights = sorted(find_encoder_folder(encoder).rglob("*.safetensors")) if encoder else []
    settings = {
        "shape": recipe.shape.model_dump(mode="json"),
        "lengths": [recipe.max_cv_tokens, recipe.max_jd_tokens, recipe.max_tokens],
        "seed": recipe.seed,
        "encoder": sha256_of_files(encoder_weights) if encoder_weights else None,
    }
    inputs = hash_inputs(settings, texts.select("marker", "text"))
    final = bases_dir / f"tiny-{inputs[:12]}"
    if _is_whole(final):
        return final
    work = bases_dir / f".{final.name}"
    with exclusive_lock(work / ".lock"):
        if not _is_whole(final):  # another process may have made it in the meantime
            _make_base(texts, recipe, inputs, work)
            publish(work, final)
        shutil.rmtree(work)
    return final


def _make_base(texts: pl.DataFrame, recipe: BaseRecipe, inputs: str, work: Path) -> None:
    """Make the base, and save it in `work`/model."""
    tokenizer = train_tokenizer(texts["text"], recipe.shape.vocab_size)
    model = new_decoder(tokenizer, recipe.shape, recipe.max_tokens, recipe.seed)
    is_trained = recipe.shape.pretrain_epochs > 0
    metrics = _train(model, tokenizer, texts, recipe, work / "checkpoints") if is_trained else {}
    folder = work / "model"
    save_model(model, tokenizer, folder)
    record = {"inputs_sha256": inputs, "files_sha256": _files_hash(folder), "metrics": metrics}
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def base_metrics(folder: Path) -> dict[str, float]:
    """Return the metrics of the pretraining of a base."""
    metrics: dict[str, float] = json.loads((folder / RECORD).read_text(encoding="utf-8"))["metrics"]
    return metrics


def split_text(text: str, rng: random.Random) -> tuple[str, str] | None:
    """Split `text` at a random sentence or line end, and return both parts in random order.

    Returns None if no such end leaves at least MIN_PART characters on both sides.
    """
    ends = [m.end() for m in _SENTENCE_END.finditer(text)]
    ends = [end for end in ends if min(len(text[:end].strip()), len(text[end:].strip())) >= MIN_PART]
    if not ends:
        return None
    end = rng.choice(ends)
    parts = text[:end].strip(), text[end:].strip()
    return parts if rng.random() < 0.5 else parts[::-1]


def packed_rows(tokenizer: Any, texts: pl.DataFrame, recipe: BaseRecipe, epoch: int) -> Tensor:
    """Return the (n, ROW_TOKENS) ids of one pass over `texts`. Order and splits depend on seed and epoch.

    A last row that is not full is dropped, or padded if it is the only one.
    """
    rng = random.Random(f"{recipe.seed}:{epoch}")
    rows = texts.select("marker", "text").rows()
    rng.shuffle(rows)
    ids = [i for marker, text in rows for i in _document(tokenizer, marker, text, recipe, rng)]
    if len(ids) < ROW_TOKENS:
        ids += [tokenizer.pad_token_id] * (ROW_TOKENS - len(ids))
    n_rows = len(ids) // ROW_TOKENS
    return torch.tensor(ids[: n_rows * ROW_TOKENS]).view(n_rows, ROW_TOKENS)


def _document(tokenizer: Any, marker: str, text: str, recipe: BaseRecipe, rng: random.Random) -> list[int]:
    """Return the ids of one text: whole with its marker, or split as CV and JD."""
    parts = split_text(text, rng) if rng.random() >= WHOLE_SHARE else None
    if parts is None:
        ids = plain_text_ids(tokenizer, text)[: recipe.max_cv_tokens + recipe.max_jd_tokens]
        return [tokenizer.convert_tokens_to_ids(marker), *ids, tokenizer.eos_token_id]
    cv, jd = (plain_text_ids(tokenizer, part) for part in parts)
    cv_id, jd_id = (tokenizer.convert_tokens_to_ids(token) for token in (CV_TOKEN, JD_TOKEN))
    return [cv_id, *cv[: recipe.max_cv_tokens], jd_id, *jd[: recipe.max_jd_tokens], tokenizer.eos_token_id]


def _train(
    model: Any, tokenizer: Any, texts: pl.DataFrame, recipe: BaseRecipe, checkpoints_dir: Path
) -> dict[str, float]:
    """Train `model` in place, and return metrics, with the last loss in nats per token.

    The batch of a step depends only on the seed and the number of the step, so a resumed run repeats it.
    """
    learning_rate = recipe.shape.pretrain_learning_rate
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    optimizer = torch.optim.AdamW(weight_decay_groups(model), lr=learning_rate, betas=(0.9, 0.98))
    rows = packed_rows(tokenizer, texts, recipe, 0)
    steps_per_epoch = max(1, len(rows) // ROWS_PER_STEP)
    n_steps = max(1, round(recipe.shape.pretrain_epochs * steps_per_epoch))
    every = max(1, min(STEPS_PER_CHECKPOINT, n_steps // 10))
    start = _resume(model, optimizer, checkpoints_dir)
    loss, epoch = 0.0, 0
    with Progress("pretraining", n_steps, "steps") as progress:
        progress.advance(start)
        for step in range(start, n_steps):
            if step // steps_per_epoch != epoch:
                epoch = step // steps_per_epoch
                rows = packed_rows(tokenizer, texts, recipe, epoch)
            first = step % steps_per_epoch * ROWS_PER_STEP
            batch = rows[[i % len(rows) for i in range(first, first + ROWS_PER_STEP)]].to(device)  # (8, ROW_TOKENS)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * learning_rate_factor(step / n_steps)
            loss = _step(model, optimizer, batch, tokenizer.pad_token_id)
            if not math.isfinite(loss):
                raise _diverged(step, loss, checkpoints_dir)
            n_done = step + 1
            if n_done % every == 0 and n_done < n_steps:
                weights = {f"model.{name}": p for name, p in model.named_parameters()}
                tensors = weights | checkpoints.optimizer_tensors(optimizer, "optimizer")
                checkpoints.save_checkpoint(checkpoints_dir, checkpoints.Checkpoint(n_done, tensors, {}))
                failpoint("pretraining.saved")
            progress.advance()
    model.to("cpu").eval()
    return {"pretrain_loss": loss, "pretrain_steps": float(n_steps), "pretrain_texts": float(texts.height)}


def _step(model: Any, optimizer: torch.optim.Optimizer, batch: Tensor, pad: int) -> float:
    loss = model(input_ids=batch, labels=batch.masked_fill(batch == pad, -100)).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def learning_rate_factor(progress: float) -> float:
    """Return the factor of the learning rate after the share `progress` of the steps.

    It rises in the first 4 % of the steps, then falls linearly to 0.02.
    """
    return min(1.0, (progress + 0.002) / 0.04) * max(0.02, 1 - progress)


def weight_decay_groups(model: Any) -> list[dict[str, Any]]:
    """Return parameter groups for AdamW, with weight decay on matrices and none on vectors."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]


def _resume(model: Any, optimizer: torch.optim.Optimizer, checkpoints_dir: Path) -> int:
    """Load the newest checkpoint that is intact, and return the step to continue at; 0 if there is none."""
    try:
        checkpoint = checkpoints.load_newest(checkpoints_dir)
    except CheckpointError:  # to repeat the steps costs only time
        _log.warning("all checkpoints in %s are damaged; pretraining starts from the beginning", checkpoints_dir)
        return 0
    if checkpoint is None:
        return 0
    checkpoints.load_weights(model, checkpoints.with_prefix(checkpoint.tensors, "model"))
    checkpoints.restore_optimizer(optimizer, checkpoint.tensors, "optimizer")
    return checkpoint.iteration


def _diverged(step: int, loss: float, checkpoints_dir: Path) -> TrainingError:
    return TrainingError(
        f"the pretraining loss is {loss} at step {step} (checkpoints: {checkpoints_dir}). Lower "
        f"`generator.tiny.pretrain_learning_rate` and run `girl train sft` again"
    )


def _is_whole(folder: Path) -> bool:
    """True if the files of the folder have the hash that its record names."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return bool(_files_hash(folder) == record["files_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _files_hash(folder: Path) -> str:
    """Return the SHA-256 of all files but the record."""
    return sha256_of_files(sorted(path for path in folder.iterdir() if path.name != RECORD))
