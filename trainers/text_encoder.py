"""A sentence encoder tuned on matched CVs and JDs. It needs no generator and no mismatches: a bar for every generator.

The loss is InfoNCE in both directions over the encoder's cosines. The negatives are the other pairs of a batch, but
those with the same CV or the same JD: where many seekers take the same job, they are matches too.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from girl_features.config import EncoderTuningConfig, GirlConfig
from girl_features.encoder import (
    ENCODER_RECORD,
    EncoderRecord,
    SentenceTransformerEncoder,
    TextEncoder,
    check_weights,
    encoder_hash,
    find_encoder_folder,
    is_static,
    load_sentence_transformer,
    read_encoder_record,
)
from girl_features.errors import CheckpointError, ShapeError, require
from girl_features.evaluation.controls.columns import TunedCosines
from girl_features.evaluation.metrics import auc
from girl_features.input.decision_texts import DecisionTexts, decisions_with_texts
from girl_features.input.splits import Windows
from girl_features.input.tables import Tables
from girl_features.progress import Progress, announce
from girl_features.store.user_files import keep_out_of_git
from girl_features.trainers.records import package_versions
from girl_features.trainers.training_data import hold_out_seekers
from girl_features.vectors.similarity import cosine

MIN_PAIRS = 20
_TEXTS_AT_ONCE = 512
_RECIPE = 2  # part of a folder's hash; a change of the training makes it another number


def train_encoder(tables: Tables, windows: Windows, config: GirlConfig, force: bool = False) -> Path:
    """Return the folder of `encoder.name` tuned on the matched decisions before the ranking windows.

    Some seekers are held out. The metrics in the record are the AUC of the cosine on their decisions, before and
    after. With `force`, the same inputs are trained on again.

    Raises:
        ShapeError: fewer than MIN_PAIRS matched pairs.
        CheckpointError: there is no such encoder, or it has been tuned already.
    """
    settings, base = config.encoder_tuning, find_encoder_folder(config.encoder.name)
    if read_encoder_record(base) is not None:
        raise CheckpointError(
            f"{base} is a tuned encoder already; name the one that it was tuned from: --set encoder.name=..."
        )
    keep_out_of_git(config.workspace)
    past = decisions_with_texts(tables, None, windows.rl_end)
    kept, held_out = (DecisionTexts.of(rows) for rows in hold_out_seekers(past, settings.holdout, settings.seed))
    cvs, jds = kept.newest_matched_pairs(settings.max_pairs)
    inputs = _inputs_hash(base, settings, windows.rl_end, cvs, jds, list(held_out.cvs), list(held_out.jds))
    folder = config.encoders_dir / f"encoder-{inputs[:12]}"
    if not force and folder.is_dir() and (record := read_encoder_record(folder)) and record.inputs_sha256 == inputs:
        return folder
    _check_enough(cvs)
    before = _held_out_auc(SentenceTransformerEncoder(str(base), batch_size=config.encoder.batch_size), held_out)
    unfinished = _saved(_tuned(base, cvs, jds, settings), folder)
    after = _held_out_auc(SentenceTransformerEncoder(str(unfinished), batch_size=config.encoder.batch_size), held_out)
    measured = {"heldout_auc_before": before, "heldout_auc": after, "n_heldout": float(len(held_out.matched))}
    metrics = {name: value for name, value in measured.items() if value is not None}
    _finish(unfinished, folder, _record(config.encoder.name, base, windows.rl_end, len(cvs), inputs, settings, metrics))
    return folder


def tune_encoder(
    name: str,
    cvs: Sequence[str],
    jds: Sequence[str],
    folder: Path,
    until: datetime,
    settings: EncoderTuningConfig,
) -> Path:
    """Return the folder, inside `folder`, of encoder `name` tuned on m matched pairs. Tune it first if it is absent.

    The pairs are of decisions before `until`. An encoder that is tuned already is returned as it is.

    Raises:
        ShapeError: fewer than MIN_PAIRS pairs.
        CheckpointError: there is no such encoder.
    """
    base = find_encoder_folder(name)
    if read_encoder_record(base) is not None:
        return base
    unmeasured = settings.model_copy(update={"holdout": EncoderTuningConfig().holdout})  # it holds nobody out
    inputs = _inputs_hash(base, unmeasured, until, cvs, jds)
    final = folder / f"contrastive-{inputs[:12]}"
    if not final.is_dir():
        unfinished = _saved(_tuned(base, cvs, jds, settings), final)
        _finish(unfinished, final, _record(name, base, until, len(cvs), inputs, settings, {}))
    return final


def _inputs_hash(base: Path, settings: EncoderTuningConfig, until: datetime, *texts: Sequence[str]) -> str:
    inputs = (_RECIPE, encoder_hash(base), settings.model_dump(), until.isoformat(), *map(list, texts))
    return hashlib.sha256(repr(inputs).encode("utf-8", "backslashreplace")).hexdigest()


def _record(
    name: str,
    base: Path,
    until: datetime,
    n_pairs: int,
    inputs: str,
    settings: EncoderTuningConfig,
    metrics: dict[str, float],
) -> EncoderRecord:
    return EncoderRecord(
        base=name,
        base_sha256=encoder_hash(base),
        trained_until=until,
        n_pairs=n_pairs,
        inputs_sha256=inputs,
        settings=settings.model_dump(),
        metrics=metrics,
        created_at=datetime.now(UTC),
        versions=package_versions("sentence-transformers", "torch"),
    )


def _finish(unfinished: Path, final: Path, record: EncoderRecord) -> None:
    """Write the record, and rename the folder to `final`."""
    (unfinished / ENCODER_RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if final.exists():
        shutil.rmtree(final)
    unfinished.rename(final)


def _tuned(base: Path, cvs: Sequence[str], jds: Sequence[str], settings: EncoderTuningConfig) -> Any:
    """Return the sentence-transformers model in `base`, tuned on m matched pairs in float32."""
    _check_enough(cvs)
    torch = require("torch", "generate")
    torch.manual_seed(settings.seed)
    check_weights(base)
    model: Any = load_sentence_transformer(base, "float32")
    if is_static(base):  # a table of word vectors reads all of a text
        _train(torch, model, cvs, jds, settings)
        return model
    full_length = model.max_seq_length
    model.max_seq_length = min(settings.max_tokens, full_length or settings.max_tokens)
    _train(torch, model, cvs, jds, settings)
    model.max_seq_length = full_length
    return model


def _check_enough(cvs: Sequence[str]) -> None:
    if len(cvs) < MIN_PAIRS:
        raise ShapeError(
            f"{len(cvs)} matched pairs before the ranking windows are too few to tune an encoder; {MIN_PAIRS} will do: "
            f"widen the windows before `windows.rl_end`. `girl evaluate` does without a tuned encoder by "
            f"--set evaluate.controls=[lexical,style,popularity], and an experiment without `contrastive` and `tuned`"
        )


def _saved(model: Any, final: Path) -> Path:
    """Save the model in a folder beside `final`, which is renamed to it when complete, and return that folder."""
    unfinished = final.with_name(f".{final.name}")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    model.save_pretrained(str(unfinished), create_model_card=False)
    return unfinished


def _held_out_auc(encoder: TextEncoder, held_out: DecisionTexts) -> float | None:
    """Return the AUC of the cosine on held-out decisions; None if they are of one class."""
    if held_out.matched.all() or not held_out.matched.any():
        return None
    return auc(held_out.matched, _pair_cosines(encoder, held_out).astype(np.float64))


def tuned_pair_cosines(name: str, folder: Path, settings: EncoderTuningConfig, batch_size: int) -> TunedCosines:
    """Return a function of past decisions and of parts with pairs: the (n,) cosines of each part by a tuned encoder.

    It tunes encoder `name` on the matched pairs of the past decisions, keeps it in `folder`, and keeps no vectors.
    """

    def cosines(history: DecisionTexts, parts: Sequence[DecisionTexts], until: datetime) -> list[np.ndarray]:
        tuned = tune_encoder(name, *history.newest_matched_pairs(settings.max_pairs), folder, until, settings)
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


def _train(torch: Any, model: Any, cvs: Sequence[str], jds: Sequence[str], settings: EncoderTuningConfig) -> None:
    functional = torch.nn.functional
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    rng = np.random.default_rng(settings.seed)
    n_batches = len(cvs) // settings.batch_size or 1
    announce(f"tuning the encoder on {len(cvs)} matched pairs")
    model.train()
    with Progress("tune encoder", settings.epochs * n_batches, "batches") as progress:
        for _ in range(settings.epochs):
            for rows in np.array_split(rng.permutation(len(cvs)), n_batches):
                cv_vectors, jd_vectors = (
                    functional.normalize(_embedded(model, [texts[i] for i in rows]), dim=1) for texts in (cvs, jds)
                )
                logits = cv_vectors @ jd_vectors.T / settings.temperature  # (b, b)
                shared = no_negatives([cvs[i] for i in rows], [jds[i] for i in rows])
                logits = logits.masked_fill(torch.from_numpy(shared).to(logits.device), -torch.inf)
                targets = torch.arange(len(rows), device=logits.device)
                loss = (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                progress.advance()
    model.eval()


def _embedded(model: Any, texts: list[str]) -> Any:
    """Return the (b, d) embeddings of the texts, with gradients."""
    features = model.preprocess(texts)
    on_device = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in features.items()}
    return model(on_device)["sentence_embedding"]


def no_negatives(cvs: Sequence[str], jds: Sequence[str]) -> np.ndarray:
    """Return (b, b) bool: CV i and JD k of b matched pairs, where the two pairs share their CV or their JD."""
    same = np.zeros((len(cvs), len(cvs)), bool)
    for texts in (cvs, jds):
        number_of: dict[str, int] = {}
        number = np.array([number_of.setdefault(text, len(number_of)) for text in texts], int)
        same |= number[:, None] == number
    np.fill_diagonal(same, False)
    return same
