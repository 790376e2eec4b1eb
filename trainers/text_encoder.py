"""A text encoder tuned on matched CVs and JDs, with no generated text: a control that a generator has to beat.

The loss is InfoNCE in both directions over the encoder's cosines. The negatives are the other pairs of a batch, but
those with the same CV or the same JD: where many seekers take the same job, they are matches too.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from girl_features.encoder import SentenceTransformerEncoder, TextEncoder, find_encoder_folder
from girl_features.errors import ShapeError, require
from girl_features.evaluation.controls.columns import TunedCosines
from girl_features.generator.checkpoint import weights_hash
from girl_features.input.decision_texts import DecisionTexts
from girl_features.progress import Progress
from girl_features.vectors.similarity import cosine

MIN_PAIRS = 20
_SCALE = 20.0  # 1 / temperature; with cosines alone the softmax would be too flat
_TEXTS_AT_ONCE = 512
_RECIPE = 2  # part of the folder's name; a change of the training makes it another number


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
    inputs = (_RECIPE, name, weights_hash(base), asdict(settings), list(cvs), list(jds))
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


def tuned_pair_cosines(name: str, folder: Path, batch_size: int = 64) -> TunedCosines:
    """Return a function of past decisions and of parts with pairs: the (n,) cosines of each part by a tuned encoder.

    It tunes encoder `name` on the matched pairs of the past decisions, keeps it in `folder`, and keeps no vectors.
    """

    def cosines(history: DecisionTexts, parts: Sequence[DecisionTexts]) -> list[np.ndarray]:
        tuned = tune_encoder(name, *history.matched_pairs, folder)
        encoder = SentenceTransformerEncoder(str(tuned), batch_size=batch_size)
        return [_pair_cosines(encoder, part) for part in parts]

    return cosines


def _pair_cosines(encoder: TextEncoder, part: DecisionTexts) -> np.ndarray:
    row_of = {text: row for row, text in enumerate(dict.fromkeys([*part.cvs, *part.jds]))}
    texts, vectors = list(row_of), []
    with Progress("encode with the tuned encoder", len(texts), "texts") as progress:
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            chunk = texts[start : start + _TEXTS_AT_ONCE]
            vectors.append(encoder.encode(chunk).vectors)
            progress.advance(len(chunk))
    table = np.concatenate([np.zeros((0, encoder.contract.dimension), np.float32), *vectors])
    cv, jd = (table[[row_of[text] for text in side]] for side in (part.cvs, part.jds))
    return cosine(cv, jd)


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
                logits = logits.masked_fill(torch.from_numpy(_no_negatives(cvs, jds, rows)), -torch.inf)
                targets = torch.arange(len(rows))
                loss = (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                progress.advance()
    model.eval()


def _no_negatives(cvs: Sequence[str], jds: Sequence[str], rows: np.ndarray) -> np.ndarray:
    """Return (b, b) bool: pairs of a CV and a JD of two rows of a batch that share their CV or their JD."""
    same = np.zeros((len(rows), len(rows)), bool)
    for texts in (cvs, jds):
        _, number = np.unique([texts[i] for i in rows], return_inverse=True)
        same |= number[:, None] == number
    np.fill_diagonal(same, False)
    return same
