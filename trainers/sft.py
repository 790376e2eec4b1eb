"""Stage 1: supervised fine-tuning on matched CV-JD pairs (GIRL, eq. 1), with TRL's SFTTrainer.

The loss is the mean negative log-likelihood of the JD's tokens; the prompt's tokens only condition it.
Rows are tokenized here, so that what is cut is counted before anything trains. With held-out seekers the epoch that
does best on their pairs is kept, and training ends early where it no longer gets better.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before any Hugging Face import reads it

import polars as pl
import torch
from datasets import Dataset, disable_progress_bars
from torch.nn.functional import cross_entropy
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig as TRLConfig
from trl.trainer.sft_trainer import SFTTrainer

from girl_features.config import GirlConfig, SFTConfig
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
from girl_features.generator.prompts import (
    CV_TOKEN,
    JD_TOKEN,
    PromptTemplate,
    encode_prompt,
    plain_text_ids,
    template_for,
)
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.input.splits import Windows, sft_pairs
from girl_features.input.tables import Tables
from girl_features.store.files import exclusive_lock
from girl_features.trainers.common import CheckpointGuard, ProgressCallback, hold_out_seekers, last_checkpoint
from girl_features.trainers.pretrain import Recipe, base_metrics, pretrained_base
from girl_features.trainers.processes import is_main, wait_for_all

IGNORED = -100  # label of tokens that the loss does not count


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
            jd_ids = plain_text_ids(tokenizer, whole_sentences(tokenizer.decode(jd_ids[:max_jd_tokens])))
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
    train, held_out = pairs, pairs.clear()
    if config.sft.holdout:
        train, held_out = hold_out_seekers(pairs, config.sft.holdout, config.sft.seed)
    texts = window_texts(tables, windows, train, held_out) if config.generator.base == "tiny" else None
    inputs = _inputs_hash(pairs, texts, windows, config)
    final = config.generators_dir / f"sft-{inputs[:12]}"
    _base_knows_until(config, windows)  # asked before anything is trained
    work = config.generators_dir / f".{final.name}"  # hidden until complete; kept to resume from
    with exclusive_lock(work / ".lock") if is_main() else nullcontext():
        if final.is_dir() and not force:
            read_record(final)  # checks the weights
        else:
            _train(train, held_out, texts, inputs, windows, config, work, callbacks)
            if is_main():
                shutil.rmtree(final, ignore_errors=True)
                (work / "model").rename(final)
        wait_for_all()
        if is_main():
            shutil.rmtree(work)
    return final


def _train(
    train: pl.DataFrame,
    held_out: pl.DataFrame,
    texts: pl.DataFrame | None,
    inputs: str,
    windows: Windows,
    config: GirlConfig,
    work: Path,
    callbacks: Sequence[TrainerCallback],
) -> None:
    """Train, and save as `work`/model with its record."""
    base = config.generator.base if texts is None else _tiny(texts, config)
    model, tokenizer = load_causal_lm(base)
    template = template_for(tokenizer)
    limits = config.generator.max_cv_tokens, config.sft.max_jd_tokens
    tokenized, evaluation = (tokenize_pairs(tokenizer, template, part, *limits) for part in (train, held_out))
    trainer = _trainer(model, tokenizer, tokenized.rows, evaluation.rows, config.sft, work / "steps")
    for callback in callbacks:
        trainer.add_callback(callback)
    result = trainer.train(resume_from_checkpoint=last_checkpoint(work / "steps"))
    metrics = {
        "train_loss": float(result.training_loss),
        "train_seconds": float(result.metrics["train_runtime"]),
        "n_cv_truncated": float(tokenized.n_cv_truncated),
        "n_jd_truncated": float(tokenized.n_jd_truncated),
    }
    if evaluation.rows:
        metrics |= _held_out_metrics(trainer, evaluation.rows, held_out)
    if not is_main():
        return
    _save_model(trainer, tokenizer, work / "model")
    write_record(
        work / "model",
        GeneratorRecord(
            stage="sft",
            base=config.generator.base,
            prompt_version=template.version,
            max_cv_tokens=config.generator.max_cv_tokens,
            trained_until=max(windows.sft_end, _base_knows_until(config, windows)),
            n_pairs=train.height + held_out.height,
            inputs_sha256=inputs,
            **_weight_hashes(work / "model", config.generator.base),
            created_at=datetime.now(UTC),
            settings=config.sft_settings,
            metrics=metrics if texts is None else metrics | base_metrics(Path(base)),
            versions={name: version(name) for name in ("torch", "transformers", "trl")},
            parents={} if texts is None else {"tiny": weights_hash(Path(base))},
        ),
    )


def bits_per_character(loss: float, n_tokens: int, n_characters: int) -> float:
    """A mean loss in nats a token as bits a character of the same text."""
    return loss * n_tokens / math.log(2) / max(1, n_characters)


def _held_out_metrics(trainer: SFTTrainer, rows: list[dict[str, list[int]]], pairs: pl.DataFrame) -> dict[str, float]:
    """Loss a token; its exponential; and bits a character of the JDs, which compares between tokenizers."""
    loss = float(trainer.evaluate()["eval_loss"])
    tokenizer: Any = trainer.processing_class
    ids = [[i for i, m in zip(r["input_ids"], r["completion_mask"], strict=True) if m] for r in rows]
    n_characters = sum(len(tokenizer.decode(own[:-1])) for own in ids)  # of what was kept of each JD
    return {
        "heldout_loss": loss,
        "heldout_perplexity": math.exp(min(loss, 700)),
        "heldout_bits_per_character": bits_per_character(loss, sum(map(len, ids)), n_characters),
        "n_heldout_pairs": float(pairs.height),
    }


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


def _tiny(texts: pl.DataFrame, config: GirlConfig) -> str:
    """The pretrained `tiny` for these texts: made by the main process, waited for by the others."""
    jd_tokens = max(config.sft.max_jd_tokens, config.sampling.max_new_tokens)
    cv_tokens = config.generator.max_cv_tokens
    recipe = Recipe(config.generator.tiny, cv_tokens, jd_tokens, cv_tokens + jd_tokens + 8, config.sft.seed)
    if is_main():
        pretrained_base(texts, recipe, config.bases_dir)
    wait_for_all()
    return str(pretrained_base(texts, recipe, config.bases_dir))


def window_texts(tables: Tables, windows: Windows, train: pl.DataFrame, held_out: pl.DataFrame) -> pl.DataFrame:
    """Every CV and JD known before the SFT window ends, but for what the held-out pairs alone hold.

    Returns:
        `marker` (the special token of its kind) and `text`.
    """
    query = """
        SELECT $cv AS marker, cv AS text FROM job_seekers
        WHERE updated_at < $until AND trim(cv) <> '' AND job_seeker_id NOT IN (SELECT unnest($seekers::VARCHAR[]))
        UNION ALL
        SELECT $jd AS marker, jd AS text FROM jobs
        WHERE known_at < $until AND job_id NOT IN (SELECT unnest($jobs::VARCHAR[]))
        ORDER BY ALL
    """
    values = {
        "cv": CV_TOKEN,
        "jd": JD_TOKEN,
        "until": windows.sft_end,
        "seekers": held_out["job_seeker_id"].unique().to_list(),
        "jobs": sorted(set(held_out["job_id"]) - set(train["job_id"])),
    }
    return tables.connection.execute(query, values).pl()


def _trainer(
    model: Any,
    tokenizer: Any,
    rows: Sequence[dict[str, list[int]]],
    evaluation: Sequence[dict[str, list[int]]],
    settings: SFTConfig,
    steps_dir: Path,
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
        save_strategy="epoch",
        save_total_limit=2,  # the one before is used where the newest is damaged
        eval_strategy="epoch" if evaluation else "no",
        load_best_model_at_end=bool(evaluation),
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=10,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
    )
    trainer = (SFTTrainer if gpu else _CPUTrainer)(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(list(rows)),
        eval_dataset=Dataset.from_list(list(evaluation)) if evaluation else None,
        processing_class=tokenizer,
        peft_config=_lora(settings) if settings.tuning == "lora" else None,
        callbacks=[ProgressCallback("sft"), CheckpointGuard("sft.learning_rate")],
    )
    if evaluation:
        trainer.add_callback(EarlyStoppingCallback(settings.patience))
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is for results
    return trainer


class _CPUTrainer(SFTTrainer):
    """TRL's trainer with a plain cross-entropy.

    TRL's own loss never holds all logits, which saves a GPU's memory; on a CPU it took three quarters of a step of
    `tiny` with 8,192 tokens, and a step of this one takes 0.4 times as long.
    """

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean over the counted tokens of the batch, as TRL's; the head is applied from the first of them on."""
        labels = inputs["labels"][:, 1:]  # (b, t - 1)
        counted = (labels != IGNORED).any(dim=0).nonzero()
        first = int(counted[0]) if len(counted) else labels.shape[1] - 1
        asked = {key: value for key, value in inputs.items() if key != "labels"}
        outputs = model(**asked, use_cache=False, logits_to_keep=labels.shape[1] + 1 - first)
        logits, targets = outputs.logits[:, :-1].float(), labels[:, first:]
        n_tokens = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        total = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        loss = total / torch.as_tensor(n_tokens).clamp(min=1)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # counted over all processes; their gradients are averaged
        return (loss, outputs) if return_outputs else loss


def _lora(settings: SFTConfig) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank, lora_alpha=2 * settings.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )


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


def whole_sentences(text: str) -> str:
    """`text` up to its last sentence end or line end; all of it where there is none in the second half."""
    end = max(text.rfind(mark) for mark in (". ", ".\n", "\n", "; "))
    return text[: end + 1].rstrip() if end > len(text) // 2 else text
