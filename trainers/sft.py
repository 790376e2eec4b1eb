"""Stage 1: supervised fine-tuning on matched CV-JD pairs (GIRL, eq. 1), with TRL's SFTTrainer.

The loss is the mean negative log-likelihood of the JD's tokens; the prompt is input only. If seekers are held out,
the epoch with the lowest loss on their pairs is kept, and training ends early when that loss stops falling.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import EarlyStoppingCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig as TRLConfig
from trl.trainer.sft_trainer import SFTTrainer

from girl_features.config import GirlConfig, SFTConfig
from girl_features.errors import ConfigError
from girl_features.generator.bases.cut_off import earlier_cut_off, known_until
from girl_features.generator.bases.finding import find_base
from girl_features.generator.checkpoint import GeneratorRecord, n_parameters, read_record, weights_hash, write_record
from girl_features.generator.prompts import template_for
from girl_features.generator.tokens import check_positions
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.generator.tuning import settle_tuning, sft_settings
from girl_features.input.splits import Windows, sft_pairs
from girl_features.input.tables import Tables
from girl_features.store.files import exclusive_lock
from girl_features.store.user_files import keep_out_of_git
from girl_features.trainers.held_out import held_out_metrics, mean_loss
from girl_features.trainers.precision import precision_of
from girl_features.trainers.pretrain import BaseRecipe, base_metrics, pretrained_base
from girl_features.trainers.processes import is_main, wait_for_all
from girl_features.trainers.records import hash_inputs, package_versions, publish, save_trained
from girl_features.trainers.training_data import Rows, hold_out_seekers, longest, tokenize_pairs, window_texts
from girl_features.trainers.trl_common import epoch_arguments, generator_adapter, train_from_last_checkpoint

IGNORED = -100  # label of the tokens that the loss does not count


def train_sft(
    tables: Tables,
    windows: Windows,
    config: GirlConfig,
    *,
    force: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
) -> Path:
    """Train the stage-1 generator on the matched pairs of the SFT window, and return its folder.

    Inputs that were trained before are trained again only with `force`. An interrupted run continues from its last
    whole epoch when it is started again. `callbacks` are added to those of the SFTTrainer.

    Raises:
        EmptyWindowError: the SFT window holds no matched pair.
        ConfigError: it is not known until when the base knows the world.
    """
    pairs = sft_pairs(tables, windows)
    train, held_out = pairs, pairs.clear()
    if config.sft.holdout:
        train, held_out = hold_out_seekers(pairs, config.sft.holdout, config.sft.seed)
    pretrained = None if config.generator.base == "tiny" else find_base(config.generator.base, config.bases_dir)
    base_known_until = _base_known_until(config, pretrained, windows.sft_end)  # fails before anything is trained
    texts = window_texts(tables, windows, train, held_out) if pretrained is None else None
    size = 0 if pretrained is None else n_parameters(pretrained)
    settings = sft_settings(config, size)
    source = {**settings, "base": config.generator.base, "sft_end": windows.sft_end.isoformat()}
    parents = {}
    if pretrained is not None:
        parents["base"] = weights_hash(pretrained)
        source["base_weights"] = parents["base"]  # other weights of the same name are another base
    input_tables = [pairs.select("job_seeker_id", "job_id", "cv", "jd"), *([] if texts is None else [texts])]
    inputs = hash_inputs(source, *input_tables)
    final = config.generators_dir / f"sft-{inputs[:12]}"
    note = earlier_cut_off(config.generator)
    keep_out_of_git(config.workspace)
    work = config.generators_dir / f".{final.name}"  # hidden until complete; kept to resume from
    with exclusive_lock(work / ".lock") if is_main() else nullcontext():
        if final.is_dir() and not force:
            _keep_cut_off(final, max(windows.sft_end, base_known_until), note)
        else:
            base = str(pretrained) if texts is None else _pretrain_tiny(texts, config)
            model, tokenizer = load_causal_lm(base, torch.float32)
            template = template_for(tokenizer, config.generator.prompt)
            limits = (config.generator.max_cv_tokens, config.sft.max_jd_tokens)
            tokenized, evaluated = (tokenize_pairs(tokenizer, template, part, *limits) for part in (train, held_out))
            if texts is None:
                limit_settings = "`generator.max_cv_tokens` or `sft.max_jd_tokens`"
                check_positions(model.config, longest(tokenized.rows + evaluated.rows), limit_settings)
            settled = settle_tuning(config.sft, config.generator.base, size)
            trainer = build_sft_trainer(model, tokenizer, tokenized.rows, evaluated.rows, settled, work / "steps")
            metrics = train_from_last_checkpoint(trainer, "sft", tokenized, evaluated.rows, callbacks)
            if evaluated.rows:
                loss = mean_loss(trainer.model, evaluated.rows)  # over all tokens; the trainer's is over batches
                metrics |= held_out_metrics(loss, tokenizer, evaluated.rows, tokenized.rows)
            if is_main():
                record = GeneratorRecord(
                    stage="sft",
                    base=config.generator.base,
                    prompt_version=template.version,
                    max_cv_tokens=config.generator.max_cv_tokens,
                    trained_until=max(windows.sft_end, base_known_until),
                    n_pairs=pairs.height,
                    inputs_sha256=inputs,
                    weights_sha256="",  # not known before the model is saved
                    adapter_sha256=None,
                    created_at=datetime.now(UTC),
                    settings=settings,
                    precision=precision_of(trainer),
                    metrics=metrics | ({"n_parameters": size} if texts is None else base_metrics(Path(base))),
                    versions=package_versions("torch", "transformers", "trl"),
                    parents=parents if texts is None else {"tiny": weights_hash(Path(base))},
                    notes=() if note is None else (note,),
                )
                save_trained(trainer.accelerator.unwrap_model(trainer.model), tokenizer, record, work / "model")
                publish(work, final)
        wait_for_all()
        if is_main():
            shutil.rmtree(work)
    return final


def _base_known_until(config: GirlConfig, base: Path | None, sft_end: datetime) -> datetime:
    """Return the latest time that the base itself may know of; `tiny` knows nothing before it is trained."""
    settings = config.generator
    if base is None:
        return sft_end
    until = known_until(settings, base)
    if until is not None:
        return until
    raise ConfigError(
        f"{settings.base!r} may know what happened after the SFT window: set `generator.trained_until` to its "
        f"knowledge cut-off. Its features are then used only for labels after that time"
    )


def _keep_cut_off(folder: Path, trained_until: datetime, note: str | None) -> None:
    """Check the weights of a trained generator, and write the cut-off and its note that hold now into its record."""
    record = read_record(folder)
    notes = () if note is None else (note,)
    if is_main() and (record.trained_until, record.notes) != (trained_until, notes):
        write_record(folder, record.model_copy(update={"trained_until": trained_until, "notes": notes}))


def _pretrain_tiny(texts: pl.DataFrame, config: GirlConfig) -> str:
    """Return the folder of `tiny`, pretrained on `texts` by the main process while the others wait."""
    max_jd_tokens = max(config.sft.max_jd_tokens, config.sampling.max_new_tokens)
    max_cv_tokens = config.generator.max_cv_tokens
    max_tokens = max_cv_tokens + max_jd_tokens + 8
    recipe = BaseRecipe(config.generator.tiny, max_cv_tokens, max_jd_tokens, max_tokens, config.sft.seed)
    if is_main():
        pretrained_base(texts, recipe, config.bases_dir)
    wait_for_all()
    return str(pretrained_base(texts, recipe, config.bases_dir))


def build_sft_trainer(
    model: Any, tokenizer: Any, rows: Rows, evaluation_rows: Rows, settings: SFTConfig, checkpoints_dir: Path
) -> SFTTrainer:
    """Return TRL's trainer of tokenized pairs, with settled `settings`.

    The weights of `model` are float32. Without evaluation rows the last epoch is kept.
    """
    has_evaluation = bool(evaluation_rows)
    arguments = TRLConfig(
        **epoch_arguments(settings, checkpoints_dir, model.num_parameters()),
        max_steps=settings.max_steps,
        train_sampling_strategy="group_by_length",
        completion_only_loss=True,
        packing=False,
        eval_strategy="epoch" if has_evaluation else "no",
        load_best_model_at_end=has_evaluation,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=10,
    )
    trainer_class = SFTTrainer if torch.cuda.is_available() else CPUSFTTrainer
    return trainer_class(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(evaluation_rows) if has_evaluation else None,
        processing_class=tokenizer,
        peft_config=generator_adapter(settings.lora_rank) if settings.tuning == "lora" else None,
        callbacks=[EarlyStoppingCallback(settings.patience)] if has_evaluation else None,
    )


class CPUSFTTrainer(SFTTrainer):
    """TRL's trainer with a plain cross-entropy loss.

    TRL's loss never holds all logits at once, which saves memory on a GPU. On a CPU it took three quarters of the time
    of a step of `tiny` with 8,192 tokens; with this loss a step takes 0.4 times as long.
    """

    loss_is_scaled_for_ga = True  # type: ignore[assignment]  # by the tokens of the whole batch, of which `inputs` may be a part

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # so that the tokens of the whole batch are counted for every model

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return TRL's loss: the mean over the counted tokens. Logits are computed from the first of them on."""
        labels = inputs["labels"][:, 1:]  # (b, t - 1)
        counted = (labels != IGNORED).any(dim=0).nonzero()
        first = int(counted[0]) if len(counted) else labels.shape[1] - 1
        model_inputs = {key: value for key, value in inputs.items() if key != "labels"}
        outputs = model(**model_inputs, use_cache=False, logits_to_keep=labels.shape[1] + 1 - first)
        logits, targets = outputs.logits[:, :-1].float(), labels[:, first:]
        n_tokens = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
        total = cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        loss = total / torch.as_tensor(n_tokens).clamp(min=1)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            # the tokens were counted over all processes, but their gradients are averaged, not added
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss
