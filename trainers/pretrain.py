"""Before stage 1, for `tiny` alone: a language model of the CVs and JDs known before the SFT window ends.

Texts are shown as the generator will meet them: one part of a text as the CV, the other as the JD, so that what is
learned is to go on with a subject, and whole, so that beginnings are learned too. Documents are packed into rows of one
length. A base is kept under the hash of its inputs, and a run that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import hashlib
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
from girl_features.trainers.checkpoints import (
    Checkpoint,
    load_newest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from girl_features.trainers.tiny import new_decoder, train_tokenizer

RECORD = "girl_base.json"
LOCK = ".lock"
ROW_TOKENS = 256
ROWS_A_STEP = 8
STEPS_A_CHECKPOINT = 100  # or a tenth of all, if that is fewer
WHOLE = 0.2  # share of documents that are not parted
MIN_PART = 40  # characters
_SENTENCE_END = re.compile(r"[.;]\s+|\n+")
_log = logging.getLogger(__name__)


class Recipe(NamedTuple):
    """What a base is made by, its texts apart."""

    shape: TinyConfig
    max_cv_tokens: int
    max_jd_tokens: int
    max_tokens: int  # of prompt and JD together: the positions the model has
    seed: int


def pretrained_base(texts: pl.DataFrame, recipe: Recipe, bases_dir: Path) -> Path:
    """The folder of the base made of `texts` by `recipe`, trained now if it is not there whole.

    Args:
        texts: columns `marker` (the special token of its kind) and `text`.
        recipe: all else that shapes it.
        bases_dir: where bases lie.

    Raises:
        TrainingError: the loss is no longer a number.
    """
    inputs = _inputs_hash(texts, recipe)
    final = bases_dir / f"tiny-{inputs[:12]}"
    if _is_whole(final):
        return final
    work = bases_dir / f".{final.name}"
    with exclusive_lock(work / LOCK):
        if not _is_whole(final):  # nor made in the meantime
            _make(texts, recipe, inputs, work)
            shutil.rmtree(final, ignore_errors=True)  # altered or cut short
            (work / "model").rename(final)
        shutil.rmtree(work)
    return final


def _make(texts: pl.DataFrame, recipe: Recipe, inputs: str, work: Path) -> None:
    """Train, and save as `work`/model."""
    tokenizer = train_tokenizer(texts["text"], recipe.shape.vocab_size)
    model = new_decoder(tokenizer, recipe.shape, recipe.max_tokens, recipe.seed)
    metrics = {}
    if recipe.shape.pretrain_epochs:
        metrics = _train(model, tokenizer, texts, recipe, work / "checkpoints")
    made = work / "model"
    if made.exists():  # of a run that was killed while saving
        shutil.rmtree(made)
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
    record = {"inputs_sha256": inputs, "files_sha256": _files_hash(made), "metrics": metrics}
    (made / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def base_metrics(folder: Path) -> dict[str, float]:
    """What its training said of a base."""
    metrics: dict[str, float] = json.loads((folder / RECORD).read_text(encoding="utf-8"))["metrics"]
    return metrics


def parted(text: str, rng: random.Random) -> tuple[str, str] | None:
    """`text` in two at a random sentence or line end, in either order; None where there is no place for it."""
    ends = [m.end() for m in _SENTENCE_END.finditer(text)]
    ends = [end for end in ends if min(len(text[:end].strip()), len(text[end:].strip())) >= MIN_PART]
    if not ends:
        return None
    end = rng.choice(ends)
    parts = text[:end].strip(), text[end:].strip()
    return parts if rng.random() < 0.5 else parts[::-1]


def packed_rows(tokenizer: Any, texts: pl.DataFrame, recipe: Recipe, epoch: int) -> Tensor:
    """(n, ROW_TOKENS) ids of one pass over `texts`, in an order and with parts drawn from seed and epoch."""
    rng = random.Random(f"{recipe.seed}:{epoch}")
    rows = texts.select("marker", "text").rows()
    rng.shuffle(rows)
    ids = [i for marker, text in rows for i in _document(tokenizer, marker, text, recipe, rng)]
    ids += [tokenizer.pad_token_id] * (ROW_TOKENS - len(ids)) if len(ids) < ROW_TOKENS else []
    whole = len(ids) // ROW_TOKENS
    return torch.tensor(ids[: whole * ROW_TOKENS]).view(whole, ROW_TOKENS)


def _document(tokenizer: Any, marker: str, text: str, recipe: Recipe, rng: random.Random) -> list[int]:
    end = [tokenizer.eos_token_id]
    parts = parted(text, rng) if rng.random() >= WHOLE else None
    if parts is None:
        ids = plain_text_ids(tokenizer, text)[: recipe.max_cv_tokens + recipe.max_jd_tokens]
        return [tokenizer.convert_tokens_to_ids(marker), *ids, *end]
    cv, jd = (plain_text_ids(tokenizer, part) for part in parts)
    cv_id, jd_id = (tokenizer.convert_tokens_to_ids(token) for token in (CV_TOKEN, JD_TOKEN))
    return [cv_id, *cv[: recipe.max_cv_tokens], jd_id, *jd[: recipe.max_jd_tokens], *end]


def _train(model: Any, tokenizer: Any, texts: pl.DataFrame, recipe: Recipe, checkpoints: Path) -> dict[str, float]:
    """Train `model` in place; its last loss, in nats a token.

    Every step is a function of the seed and of its number, so a resumed run takes the steps it would have taken.
    """
    rate, device = recipe.shape.pretrain_learning_rate, "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device).train()
    optimizer = torch.optim.AdamW(decayed_apart(model), lr=rate, betas=(0.9, 0.98))
    rows = packed_rows(tokenizer, texts, recipe, 0)
    steps_an_epoch = max(1, len(rows) // ROWS_A_STEP)
    n_steps = max(1, round(recipe.shape.pretrain_epochs * steps_an_epoch))
    every = max(1, min(STEPS_A_CHECKPOINT, n_steps // 10))
    start, loss = _resume(model, optimizer, checkpoints), 0.0
    epoch = 0
    with Progress("pretraining", n_steps, "steps") as progress:
        progress.advance(start)
        for step in range(start, n_steps):
            if step // steps_an_epoch != epoch:
                epoch = step // steps_an_epoch
                rows = packed_rows(tokenizer, texts, recipe, epoch)
            first = step % steps_an_epoch * ROWS_A_STEP
            batch = rows[[i % len(rows) for i in range(first, first + ROWS_A_STEP)]].to(device)  # (8, ROW_TOKENS)
            for group in optimizer.param_groups:
                group["lr"] = rate * warm_up_then_down(step / n_steps)
            loss = _step(model, optimizer, batch, tokenizer.pad_token_id)
            if not math.isfinite(loss):
                raise _diverged(step, loss, checkpoints)
            done = step + 1
            if done % every == 0 and done < n_steps:
                _save(model, optimizer, checkpoints, done)
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


def warm_up_then_down(done: float) -> float:
    """Share of the learning rate: up over the first 4 %, then straight down to 2 %."""
    return min(1.0, (done + 0.002) / 0.04) * max(0.02, 1 - done)


def decayed_apart(model: Any) -> list[dict[str, Any]]:
    """Parameter groups for AdamW: weight decay on matrices, none on vectors."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]


def _save(model: Any, optimizer: torch.optim.Optimizer, checkpoints: Path, step: int) -> None:
    tensors = {f"model.{name}": p for name, p in model.named_parameters()} | optimizer_tensors(optimizer, "optimizer")
    save_checkpoint(checkpoints, Checkpoint(step, tensors, {}))
    failpoint("pretraining.saved")


@torch.no_grad()
def _resume(model: Any, optimizer: torch.optim.Optimizer, checkpoints: Path) -> int:
    """Put the newest whole checkpoint back; returns the step to go on with, 0 where there is none."""
    try:
        found = load_newest(checkpoints)
    except CheckpointError as error:  # all damaged: nothing is lost but time
        _log.warning("%s; pretraining starts anew", error)
        return 0
    if found is None:
        return 0
    for name, parameter in model.named_parameters():
        parameter.copy_(found.tensors[f"model.{name}"])
    restore_optimizer(optimizer, found.tensors, "optimizer")
    return found.iteration


def _diverged(step: int, loss: float, checkpoints: Path) -> TrainingError:
    found = load_newest(checkpoints)
    kept = f"the checkpoint of step {found.iteration} is kept in {checkpoints}" if found else "none was kept yet"
    return TrainingError(
        f"the loss of pretraining is {loss} at step {step}; {kept}. Lower `generator.tiny.pretrain_learning_rate` "
        f"and run `girl train sft` again"
    )


def _is_whole(folder: Path) -> bool:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return bool(_files_hash(folder) == record["files_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _files_hash(folder: Path) -> str:
    return sha256_of_files(sorted(path for path in folder.iterdir() if path.name != RECORD))


def _inputs_hash(texts: pl.DataFrame, recipe: Recipe) -> str:
    encoder = recipe.shape.embeddings_from
    weights = sorted(find_encoder_folder(encoder).glob("*.safetensors")) if encoder else []
    settings = {
        "shape": recipe.shape.model_dump(mode="json"),
        "lengths": [recipe.max_cv_tokens, recipe.max_jd_tokens, recipe.max_tokens],
        "seed": recipe.seed,
        "encoder": sha256_of_files(weights) if weights else None,
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for row in texts.select("marker", "text").iter_rows():
        digest.update(hashlib.sha256("\0".join(row).encode()).digest())
    return digest.hexdigest()
