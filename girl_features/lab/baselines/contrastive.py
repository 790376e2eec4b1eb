"""A text encoder tuned on matched CVs and JDs, with no generated text: a control that a generator has to beat.

The loss is InfoNCE in both directions over the encoder's cosines; the other pairs of a batch are the negatives.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from girl_features.encoder import find_encoder_folder
from girl_features.errors import ShapeError, require
from girl_features.generator.checkpoint import weights_hash
from girl_features.lab.experiment.code_version import code_hash
from girl_features.progress import Progress

MIN_PAIRS = 20
_SCALE = 20.0  # 1 / temperature; with cosines alone the softmax would be too flat


@dataclass(frozen=True)
class ContrastiveSettings:
    """Settings of the tuning."""

    epochs: int = 1
    batch_size: int = 16
    learning_rate: float = 2e-5
    max_tokens: int = 96  # while tuning; afterwards the encoder reads its full length
    seed: int = 0


def tune_encoder(
    name: str, cvs: Sequence[str], jds: Sequence[str], folder: Path, settings: ContrastiveSettings | None = None
) -> Path:
    """Return the folder, inside `folder`, of encoder `name` tuned on m matched pairs. Tune it first if it is absent.

    Raises:
        ShapeError: fewer than MIN_PAIRS pairs.
        CheckpointError: there is no such encoder.
    """
    settings = settings or ContrastiveSettings()
    if len(cvs) < MIN_PAIRS:
        raise ShapeError(f"{len(cvs)} matched pairs are too few to tune an encoder; {MIN_PAIRS} will do")
    base = find_encoder_folder(name)
    inputs = (name, weights_hash(base), code_hash([Path(__file__)]), asdict(settings), list(cvs), list(jds))
    digest = hashlib.sha256(repr(inputs).encode())
    final = folder / f"contrastive-{digest.hexdigest()[:12]}"
    if final.is_dir():
        return final
    sentence_transformers, torch = require("sentence_transformers", "generate"), require("torch", "generate")
    torch.manual_seed(settings.seed)
    model: Any = sentence_transformers.SentenceTransformer(
        str(base), device="cpu", trust_remote_code=False, local_files_only=True, model_kwargs={"use_safetensors": True}
    )
    full_length, model.max_seq_length = model.max_seq_length, settings.max_tokens
    _train(torch, model, cvs, jds, settings)
    model.max_seq_length = full_length
    unfinished = folder / f".{final.name}"  # renamed when complete
    if unfinished.exists():
        shutil.rmtree(unfinished)
    model.save_pretrained(str(unfinished), create_model_card=False)
    unfinished.rename(final)
    return final


def _train(torch: Any, model: Any, cvs: Sequence[str], jds: Sequence[str], settings: ContrastiveSettings) -> None:
    functional = torch.nn.functional
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    rng = np.random.default_rng(settings.seed)
    n_batches = len(cvs) // settings.batch_size or 1
    model.train()
    with Progress("tune encoder", settings.epochs * n_batches, "batches") as progress:
        for _ in range(settings.epochs):
            for rows in np.array_split(rng.permutation(len(cvs)), n_batches):
                cv_vectors, jd_vectors = (
                    functional.normalize(model(model.preprocess([texts[i] for i in rows]))["sentence_embedding"], dim=1)
                    for texts in (cvs, jds)
                )
                logits = _SCALE * cv_vectors @ jd_vectors.T  # (b, b)
                targets = torch.arange(len(rows))
                loss = (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                progress.advance()
    model.eval()
