"""Stage 1: supervised fine-tuning on matched CV-JD pairs (GIRL, eq. 1), with TRL's SFTTrainer.

The loss is the mean negative log-likelihood of the JD's tokens; the prompt's tokens only condition it.
Rows are tokenized here, so that what is cut is counted before anything trains.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before any Hugging Face import reads it

import polars as pl
import torch
from datasets import Dataset, disable_progress_bars
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig as TRLConfig
from trl.trainer.sft_trainer import SFTTrainer

from girl_features.config import GirlConfig, SFTConfig
from girl_features.data import Tables
from girl_features.errors import ConfigError
from girl_features.generator.checkpoint import (
    RECORD_NAME,
    GeneratorRecord,
    adapter_hash,
    base_folder,
    is_adapter,
    read_record,
    weights_hash,
    write_record,
)
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.progress import Progress
from girl_features.prompts import CV_TOKEN, JD_TOKEN, PromptTemplate, encode_prompt, plain_text_ids, template_for
from girl_features.splits import Windows, sft_pairs
from girl_features.trainers.tiny import new_decoder, train_tokenizer


class TokenizedPairs(NamedTuple):
    """Token ids of prompt + JD + end token, with a mask over what the loss counts."""

    rows: list[dict[str, list[int]]]  # input_ids and completion_mask, (t,) each
    n_cv_truncated: int
    n_jd_truncated: int


def tokenize_pairs(
    tokenizer: Any, template: PromptTemplate, pairs: pl.DataFrame, max_cv_tokens: int, max_jd_tokens: int
) -> TokenizedPairs:
    """Prompt and JD ids of each pair. A JD that is too long ends at its last whole sentence that fits."""
    rows: list[dict[str, list[int]]] = []
    n_cv_truncated = n_jd_truncated = 0
    for cv, jd in pairs.select("cv", "jd").iter_rows():
        prompt = encode_prompt(tokenizer, template, cv, max_cv_tokens)
        jd_ids = plain_text_ids(tokenizer, jd)
        if len(jd_ids) > max_jd_tokens:
            n_jd_truncated += 1
            jd_ids = plain_text_ids(tokenizer, _whole_sentences(tokenizer.decode(jd_ids[:max_jd_tokens])))
        completion = [*jd_ids[:max_jd_tokens], tokenizer.eos_token_id]
        mask = [0] * len(prompt.ids) + [1] * len(completion)
        rows.append({"input_ids": [*prompt.ids, *completion], "completion_mask": mask})
        n_cv_truncated += prompt.cv_truncated
    return TokenizedPairs(rows, n_cv_truncated, n_jd_truncated)


def train_sft(
    tables: Tables,
    windows: Windows,
    config: GirlConfig,
    *,
    force: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Train the stage-1 generator and return its folder; the same inputs a second time return the first's.

    A run that was interrupted goes on from its last whole epoch when it is started again.

    Args:
        tables: the clean input tables.
        windows: of which the first holds the matched pairs.
        config: its `generator` and `sft` sections say how.
        force: train even where these inputs were trained before.
        callbacks: further ones for the SFTTrainer.

    Raises:
        EmptyWindowError: the SFT window holds no matched pair.
    """
    pairs = sft_pairs(tables, windows)
    texts = window_texts(tables, windows) if config.generator.base == "tiny" else None
    inputs = _inputs_hash(pairs, texts, windows, config)
    final = config.generators_dir / f"sft-{inputs[:12]}"
    if final.is_dir() and not force:
        read_record(final)  # checks the weights
        return final
    _base_knows_until(config, windows)  # asked before anything is trained
    train, held_out = _hold_out_seekers(pairs, config.sft.holdout, config.sft.seed)
    work = config.generators_dir / f".sft-{inputs[:12]}"  # hidden until complete; kept to resume from
    work.mkdir(parents=True, exist_ok=True)

    model, tokenizer = _base_model(texts, config, work)
    template = template_for(tokenizer)
    tokenized = tokenize_pairs(tokenizer, template, train, config.generator.max_cv_tokens, config.sft.max_jd_tokens)
    evaluation = tokenize_pairs(tokenizer, template, held_out, config.generator.max_cv_tokens, config.sft.max_jd_tokens)
    trainer = _trainer(model, tokenizer, tokenized.rows, evaluation.rows, config.sft, work / "steps")
    for callback in callbacks:
        trainer.add_callback(callback)
    result = trainer.train(resume_from_checkpoint=_last_checkpoint(work / "steps"))
    metrics = {
        "train_loss": float(result.training_loss),
        "train_seconds": float(result.metrics["train_runtime"]),
        "n_cv_truncated": float(tokenized.n_cv_truncated),
        "n_jd_truncated": float(tokenized.n_jd_truncated),
    }
    if evaluation.rows:
        loss = float(trainer.evaluate()["eval_loss"])
        metrics |= {"heldout_loss": loss, "heldout_perplexity": float(torch.tensor(loss).exp())}
    _save_model(trainer, tokenizer, work / "model")
    write_record(
        work / "model",
        GeneratorRecord(
            stage="sft",
            base=config.generator.base,
            prompt_version=template.version,
            max_cv_tokens=config.generator.max_cv_tokens,
            trained_until=max(windows.sft_end, _base_knows_until(config, windows)),
            n_pairs=pairs.height,
            inputs_sha256=inputs,
            **_weight_hashes(work / "model", config.generator.base),
            created_at=datetime.now(UTC),
            settings=config.sft_settings,
            metrics=metrics,
            versions={name: version(name) for name in ("torch", "transformers", "trl")},
        ),
    )
    if final.exists():
        final.rename(work / "replaced")
    (work / "model").rename(final)
    shutil.rmtree(work)
    return final


def _base_knows_until(config: GirlConfig, windows: Windows) -> datetime:
    """The latest time the base itself may know of; `tiny` knows nothing before it is trained."""
    if config.generator.base == "tiny":
        return windows.sft_end
    if config.generator.trained_until is not None:
        return config.generator.trained_until
    folder = base_folder(config.generator.base)
    if (folder / RECORD_NAME).is_file():
        return read_record(folder).trained_until
    raise ConfigError(
        f"{config.generator.base!r} may know what happened after the SFT window: set `generator.trained_until` to its "
        f"knowledge cut-off. Its features are then used for no label before that"
    )


def _base_model(texts: pl.DataFrame | None, config: GirlConfig, work: Path) -> tuple[Any, Any]:
    if texts is None:
        return load_causal_lm(config.generator.base)
    done = work / "pretrained"
    if done.is_dir():  # an interrupted run got past this part
        return load_causal_lm(done)
    shape, sft = config.generator.tiny, config.sft
    tokenizer = train_tokenizer(texts["text"], shape.vocab_size)
    max_tokens = config.generator.max_cv_tokens + max(sft.max_jd_tokens, config.sampling.max_new_tokens) + 8
    model = new_decoder(tokenizer, shape, max_tokens, sft.seed)
    if shape.pretrain_epochs:
        limit = config.generator.max_cv_tokens
        rows = [
            _plain_row(tokenizer, marker, text, limit) for marker, text in texts.select("marker", "text").iter_rows()
        ]
        settings = sft.model_copy(
            update={"epochs": shape.pretrain_epochs, "learning_rate": shape.pretrain_learning_rate}
        )
        _trainer(model, tokenizer, rows, [], settings, work / "pretrain-steps", label="pretraining").train()
    partial = work / ".pretrained"
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(done)
    return model, tokenizer


def window_texts(tables: Tables, windows: Windows) -> pl.DataFrame:
    """Every CV and JD known before the SFT window ends: columns `marker` (which kind) and `text`."""
    query = """
        SELECT $cv AS marker, cv AS text FROM job_seekers WHERE updated_at < $until AND trim(cv) <> ''
        UNION ALL
        SELECT $jd AS marker, jd AS text FROM jobs WHERE known_at < $until
        ORDER BY ALL
    """
    values = {"cv": CV_TOKEN, "jd": JD_TOKEN, "until": windows.sft_end}
    return tables.connection.execute(query, values).pl()


def _plain_row(tokenizer: Any, marker: str, text: str, max_tokens: int) -> dict[str, list[int]]:
    ids = plain_text_ids(tokenizer, text)[: max_tokens - 2]
    ids = [tokenizer.convert_tokens_to_ids(marker), *ids, tokenizer.eos_token_id]
    return {"input_ids": ids, "completion_mask": [0] + [1] * (len(ids) - 1)}


def _trainer(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, list[int]]],
    evaluation: Sequence[dict[str, list[int]]],
    settings: SFTConfig,
    steps_dir: Path,
    label: str = "sft",
) -> SFTTrainer:
    disable_progress_bars()  # the dataset library's; ours counts steps
    gpu = torch.cuda.is_available()
    arguments = TRLConfig(
        output_dir=str(steps_dir),
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        max_length=None,  # rows are cut above, and counted
        completion_only_loss=True,
        packing=False,
        bf16=gpu,
        gradient_checkpointing=gpu,
        use_cpu=not gpu,
        seed=settings.seed,
        data_seed=settings.seed,
        save_strategy="epoch" if label == "sft" else "no",
        save_total_limit=1,
        logging_strategy="epoch",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(list(rows)),
        eval_dataset=Dataset.from_list(list(evaluation)) if evaluation else None,
        processing_class=tokenizer,
        peft_config=_lora(settings) if settings.tuning == "lora" and label == "sft" else None,
        callbacks=[_ProgressCallback(label)],
    )
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    return trainer


def _lora(settings: SFTConfig) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


class _ProgressCallback(TrainerCallback):
    """Steps on our progress line instead of the trainer's."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._progress: Progress | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress = Progress(self._label, state.max_steps, "steps").__enter__()
        self._progress.advance(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self._progress is not None
        self._progress.advance()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self._progress is not None
        self._progress.__exit__(None, None, None)


def _save_model(trainer: SFTTrainer, tokenizer: Any, folder: Path) -> None:
    if folder.exists():  # of a run that was killed while saving
        shutil.rmtree(folder)
    trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _weight_hashes(folder: Path, base: str) -> dict[str, str | None]:
    if is_adapter(folder):
        return {"weights_sha256": weights_hash(base_folder(base)), "adapter_sha256": adapter_hash(folder)}
    return {"weights_sha256": weights_hash(folder), "adapter_sha256": None}


def _inputs_hash(pairs: pl.DataFrame, texts: pl.DataFrame | None, windows: Windows, config: GirlConfig) -> str:
    settings = {
        **config.sft_settings,
        "base": config.generator.base,
        "sft_end": windows.sft_end.isoformat(),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for row in pairs.select("job_seeker_id", "job_id", "cv", "jd").iter_rows():
        digest.update(hashlib.sha256("\0".join(row).encode()).digest())
    for row in () if texts is None else texts.iter_rows():
        digest.update(hashlib.sha256("\0".join(row).encode()).digest())
    return digest.hexdigest()


def _hold_out_seekers(pairs: pl.DataFrame, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    def is_held_out(job_seeker_id: str) -> bool:
        digest = hashlib.sha256(f"{seed}:{job_seeker_id}".encode()).digest()
        return int.from_bytes(digest[:4], "big") < share * 2**32

    chosen = pairs["job_seeker_id"].map_elements(is_held_out, return_dtype=pl.Boolean)
    return pairs.filter(~chosen), pairs.filter(chosen)


def _last_checkpoint(steps_dir: Path) -> str | None:
    complete = [p for p in steps_dir.glob("checkpoint-*") if (p / "trainer_state.json").is_file()]
    return str(max(complete, key=lambda p: int(p.name.split("-")[1]))) if complete else None


def _whole_sentences(text: str) -> str:
    """`text` up to its last sentence end or line end; all of it where there is none in the second half."""
    end = max(text.rfind(mark) for mark in (". ", ".\n", "\n", "; "))
    return text[: end + 1].rstrip() if end > len(text) // 2 else text
