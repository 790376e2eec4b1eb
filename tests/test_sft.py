"""Stage 1 on a handful of pairs: what the loss counts, what is cut, and what a second run does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainerState
from trl.trainer.sft_trainer import SFTTrainer

from girl_features.config import SFTConfig
from girl_features.contract import SamplingContract
from girl_features.errors import CheckpointError, EmptyWindowError, StoreLockedError, TrainingError
from girl_features.generator.checkpoint import RECORD_NAME, read_record, trained_generators
from girl_features.generator.prompts import TINY
from girl_features.generator.transformers_engine import TransformersGenerator, load_causal_lm
from girl_features.input.splits import Windows, sft_pairs
from girl_features.store.failpoints import VARIABLE
from girl_features.store.files import exclusive_lock
from girl_features.trainers import sft, trl_common
from girl_features.trainers.held_out import bits_per_character, mean_loss
from girl_features.trainers.sft import build_sft_trainer, train_sft
from girl_features.trainers.tiny import train_tokenizer
from girl_features.trainers.training_data import hold_out_seekers, tokenize_pairs, window_texts
from tests.input_tables import day, load, write_tables
from tests.training_world import SFT_SETTINGS, SFT_WINDOWS, sft_config, sft_rows


@pytest.fixture(scope="module")
def trained(tmp_path_factory):  # type: ignore[no-untyped-def]
    folder = tmp_path_factory.mktemp("sft")
    config = sft_config(folder / "workspace")
    with load(write_tables(folder, sft_rows())) as tables:
        return train_sft(tables, SFT_WINDOWS, config), config, folder


def test_the_loss_counts_the_jd_and_its_end_token_only() -> None:
    tokenizer = train_tokenizer(["abc def ghi. jkl mno. "] * 9, 300)
    pairs = pl.DataFrame({"cv": ["abc def"], "jd": ["ghi. jkl"]})
    (row,) = tokenize_pairs(tokenizer, TINY, pairs, max_cv_tokens=9, max_jd_tokens=9).rows
    counted = [i for i, m in zip(row["input_ids"], row["completion_mask"], strict=True) if m]
    assert tokenizer.decode(counted[:-1]) == "ghi. jkl"
    assert counted[-1] == tokenizer.eos_token_id
    conditioned = [i for i, m in zip(row["input_ids"], row["completion_mask"], strict=True) if not m]
    assert tokenizer.decode(conditioned) == "<|cv|>abc def<|jd|>"


def test_what_is_cut_is_counted_and_a_cut_jd_ends_with_a_sentence() -> None:
    tokenizer = train_tokenizer(["x"], 300)  # no merges: one token a byte
    pairs = pl.DataFrame({"cv": ["c" * 20, "c"], "jd": ["One two. Three. Four five six", "short"]})
    result = tokenize_pairs(tokenizer, TINY, pairs, max_cv_tokens=10, max_jd_tokens=20)
    assert (result.n_cv_truncated, result.n_jd_truncated) == (1, 1)
    jd = [i for i, m in zip(result.rows[0]["input_ids"], result.rows[0]["completion_mask"], strict=True) if m]
    assert tokenizer.decode(jd[:-1]) == "One two. Three."
    assert jd[-1] == tokenizer.eos_token_id


def test_training_leaves_a_whole_generator_with_its_record(trained) -> None:  # type: ignore[no-untyped-def]
    folder, config, _ = trained
    record = read_record(folder)
    assert (record.stage, record.base, record.prompt_version, record.n_pairs) == ("sft", "tiny", TINY.version, 20)
    assert record.trained_until == SFT_WINDOWS.sft_end
    assert record.metrics["heldout_perplexity"] > 1
    assert trained_generators(config.generators_dir) == [folder]
    assert not list(config.generators_dir.glob(".sft-*")), "work folders are gone"
    assert not [p for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    sampling = SamplingContract(n=1, temperature=0.7, top_p=0.9, max_new_tokens=8, seed=0)
    generator = TransformersGenerator(folder, sampling, max_cv_tokens=24)
    assert len(generator.generate(["I was a cook"], [[1, 2]])[0]) == 2


def test_the_same_inputs_are_not_trained_twice_and_other_settings_are(trained) -> None:  # type: ignore[no-untyped-def]
    folder, config, data = trained
    before = (folder / RECORD_NAME).stat().st_mtime_ns
    with load(write_tables(data, sft_rows())) as tables:
        assert train_sft(tables, SFT_WINDOWS, config) == folder
        assert (folder / RECORD_NAME).stat().st_mtime_ns == before
        other = train_sft(tables, SFT_WINDOWS, sft_config(config.workspace, sft={**SFT_SETTINGS["sft"], "seed": 1}))
    assert other != folder
    assert trained_generators(config.generators_dir)[0] == other, "newest first"


def test_training_is_reproducible(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder, _, _ = trained
    with load(write_tables(tmp_path, sft_rows())) as tables:
        again = train_sft(tables, SFT_WINDOWS, sft_config(tmp_path / "workspace"))
    assert read_record(again).weights_sha256 == read_record(folder).weights_sha256


class _InterruptAfter(TrainerCallback):
    """Ctrl-C at a given step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: object, state: TrainerState, control: object, **_: object) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_to_the_same_weights(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder, _, _ = trained
    config = sft_config(tmp_path / "workspace")
    with load(write_tables(tmp_path, sft_rows())) as tables:
        with pytest.raises(KeyboardInterrupt):  # 4 steps an epoch: one into the second
            train_sft(tables, SFT_WINDOWS, config, callbacks=[_InterruptAfter(5)])
        assert trained_generators(config.generators_dir) == [], "an unfinished generator is not offered"
        steps = _StepCounter()
        again = train_sft(tables, SFT_WINDOWS, config, callbacks=[steps])
    assert steps.n < 8, "whole epochs are not repeated"
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


class _StepCounter(TrainerCallback):
    n = 0

    def on_step_end(self, *_: object, **__: object) -> None:
        self.n += 1


def test_nothing_after_the_window_and_nothing_held_out_reaches_tokenizer_or_pretraining(tmp_path: Path) -> None:
    rows = sft_rows()
    rows["interactions"].append(("s2", "j1", True, day(50)))  # j1 is in a training pair too, if s2 is
    with load(write_tables(tmp_path, rows)) as tables:
        pairs = sft_pairs(tables, SFT_WINDOWS)
        train, held_out = (pairs.filter(pl.col("job_seeker_id").is_in(["s1", "s3"]) == held) for held in (False, True))
        texts = set(window_texts(tables, SFT_WINDOWS, train, held_out)["text"])
    assert not any("future" in text for text in texts)
    assert "I was a nurse for 1 years" not in texts
    assert "I was a cook for 0 years" in texts
    trained = set(train["jd"])
    assert texts >= trained
    assert not texts & (set(held_out["jd"]) - trained)


def test_bits_a_character() -> None:
    # 10 tokens at ln 4 = 1.386 nats are 2 bits each, 20 bits; over 40 characters half a bit each
    assert bits_per_character(1.3862943611, 10, 40) == pytest.approx(0.5)


class _Losses(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_evaluate(self, args: object, state: object, control: object, metrics: dict[str, float], **_: object) -> None:
        self.seen.append(metrics["eval_loss"])


def test_the_best_epoch_is_kept_and_training_ends_where_it_no_longer_gets_better(tmp_path: Path) -> None:
    losses = _Losses()
    overfit = {**SFT_SETTINGS["sft"], "epochs": 30, "learning_rate": 0.02, "patience": 2}
    config = sft_config(tmp_path / "workspace", sft=overfit)
    with load(write_tables(tmp_path, sft_rows())) as tables:
        folder = train_sft(tables, SFT_WINDOWS, config, callbacks=[losses])
        _, held_out = hold_out_seekers(sft_pairs(tables, SFT_WINDOWS), config.sft.holdout, config.sft.seed)
    assert len(losses.seen) < 30
    assert min(losses.seen) < losses.seen[-1]
    recorded = read_record(folder).metrics["heldout_loss"]
    assert recorded == pytest.approx(min(losses.seen), rel=0.02), "not the last epoch's"
    assert recorded < (min(losses.seen) + losses.seen[-1]) / 2
    model, tokenizer = load_causal_lm(folder)
    rows = tokenize_pairs(tokenizer, TINY, held_out, config.generator.max_cv_tokens, config.sft.max_jd_tokens).rows
    assert recorded == pytest.approx(mean_loss(model, rows), abs=1e-5), "each token counts alike, whatever its batch"


def _killed(folder: Path, failpoint: str) -> None:
    # sums, and so weights, are the same to the last bit only on as many threads; other tests may have changed ours
    environment = {**os.environ, VARIABLE: failpoint, "SFT_WORKER_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-m", "tests.sft_worker", str(folder)], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["pretraining.saved", "training.saved"])
def test_a_killed_run_goes_on_to_the_same_weights_and_its_lock_is_taken_over(trained, tmp_path: Path, moment) -> None:  # type: ignore[no-untyped-def]
    _killed(tmp_path, moment)
    work = tmp_path / "workspace" / ("bases" if moment.startswith("pre") else "generators")
    (lock,) = work.glob(".*/.lock")
    assert json.loads(lock.read_text())["pid"] != os.getpid()
    with load(write_tables(tmp_path, sft_rows())) as tables:
        again = train_sft(tables, SFT_WINDOWS, sft_config(tmp_path / "workspace"))
    assert read_record(again).weights_sha256 == read_record(trained[0]).weights_sha256


def test_a_large_base_is_saved_within_its_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_common, "LORA_FROM", 0)  # from which size on a base is large
    config = sft_config(tmp_path / "workspace", sft={**SFT_SETTINGS["sft"], "epochs": 1})
    with load(write_tables(tmp_path, sft_rows())) as tables:
        with pytest.raises(KeyboardInterrupt):  # in the one epoch of 4 steps
            train_sft(tables, SFT_WINDOWS, config, callbacks=[_InterruptAfter(3)])
        (steps,) = config.generators_dir.glob(".sft-*/steps")
        assert {path.name for path in steps.glob("checkpoint-*")} <= {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
        counter = _StepCounter()
        again = train_sft(tables, SFT_WINDOWS, config, callbacks=[counter])
        assert counter.n <= 2, "not from the start"
        whole = train_sft(tables, SFT_WINDOWS, config.model_copy(update={"workspace": tmp_path / "other"}))
    assert read_record(again).weights_sha256 == read_record(whole).weights_sha256


def test_a_run_that_was_killed_after_its_last_step_does_no_step_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trl_common, "LORA_FROM", 0)
    config = sft_config(tmp_path / "workspace", sft={**SFT_SETTINGS["sft"], "epochs": 1, "max_steps": 3})
    steps = _StepCounter()
    with load(write_tables(tmp_path, sft_rows())) as tables:
        with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
            killed.setattr(sft, "held_out_metrics", _interrupt)  # what follows the training
            train_sft(tables, SFT_WINDOWS, config)
        again = train_sft(tables, SFT_WINDOWS, config, callbacks=[steps])
        whole = train_sft(tables, SFT_WINDOWS, config.model_copy(update={"workspace": tmp_path / "other"}))
    assert steps.n <= 1
    assert read_record(again).weights_sha256 == read_record(whole).weights_sha256


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_two_runs_of_the_same_inputs_do_not_write_over_each_other(trained) -> None:  # type: ignore[no-untyped-def]
    folder, config, data = trained
    with (
        load(write_tables(data, sft_rows())) as tables,
        exclusive_lock(folder.parent / f".{folder.name}" / ".lock"),
        pytest.raises(StoreLockedError, match=f"process {os.getpid()}"),
    ):
        train_sft(tables, SFT_WINDOWS, config)


@pytest.mark.parametrize("damage", ["flip", "cut", "no hashes"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(trained, tmp_path: Path, damage: str, caplog) -> None:  # type: ignore[no-untyped-def]
    config = sft_config(tmp_path / "workspace", sft={**SFT_SETTINGS["sft"], "epochs": 3})
    with load(write_tables(tmp_path, sft_rows())) as tables:
        with pytest.raises(KeyboardInterrupt):  # in the third epoch of 4 steps
            train_sft(tables, SFT_WINDOWS, config, callbacks=[_InterruptAfter(9)])
        (steps,) = config.generators_dir.glob(".sft-*/steps")
        assert {p.name for p in steps.glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-8"}
        path = steps / "checkpoint-8" / ("hashes.json" if damage == "no hashes" else "model.safetensors")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        if damage == "no hashes":
            path.unlink()
        else:
            path.write_bytes(data if damage == "flip" else data[: len(data) // 2])
        counter = _StepCounter()
        again = train_sft(tables, SFT_WINDOWS, config, callbacks=[counter])
    assert counter.n == 8, "two of three epochs again"
    assert "checkpoint-8 is incomplete or altered" in caplog.text
    whole = sft_config(tmp_path / "other", sft={**SFT_SETTINGS["sft"], "epochs": 3})
    with load(write_tables(tmp_path, sft_rows())) as tables:
        assert read_record(again).weights_sha256 == read_record(train_sft(tables, SFT_WINDOWS, whole)).weights_sha256


class _SpoilAt(TrainerCallback):
    """A weight that is no number, from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: object, state: TrainerState, control: object, model: object, **_: object) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                next(model.parameters()).fill_(torch.nan)  # type: ignore[attr-defined]


def test_a_loss_that_is_no_number_stops_the_run_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    config = sft_config(tmp_path / "workspace")
    with (
        load(write_tables(tmp_path, sft_rows())) as tables,
        pytest.raises(TrainingError, match=r"checkpoint-4 is the last good.*Lower `sft.learning_rate`"),
    ):
        train_sft(tables, SFT_WINDOWS, config, callbacks=[_SpoilAt(6)])
    assert trained_generators(config.generators_dir) == []
    assert [p.name for p in config.generators_dir.glob(".sft-*/steps/checkpoint-*")] == ["checkpoint-4"]


def test_lora_keeps_the_base_and_saves_the_adapter_alone(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    base, _, _ = trained
    changes = {
        "generator": {"base": str(base), "max_cv_tokens": 24},
        "sft": {**SFT_SETTINGS["sft"], "tuning": "lora", "lora_rank": 2},
    }
    with load(write_tables(tmp_path, sft_rows())) as tables:
        folder = train_sft(tables, SFT_WINDOWS, sft_config(tmp_path / "workspace", **changes))
    record = read_record(folder)
    assert record.adapter_sha256 is not None
    assert record.weights_sha256 == read_record(base).weights_sha256
    assert not (folder / "model.safetensors").exists()
    tuned, _ = load_causal_lm(folder)
    plain, _ = load_causal_lm(base)
    changed = [not torch.equal(a, b) for a, b in zip(tuned.parameters(), plain.parameters(), strict=True)]
    assert any(changed), "the adapter is merged in"


def test_altered_weights_and_records_are_refused(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(trained[0], folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="altered or cut short"):
        read_record(folder)
    (folder / RECORD_NAME).write_text(json.dumps({"stage": "sft"}))
    with pytest.raises(CheckpointError, match="is damaged, or of another version"):
        read_record(folder)
    (folder / RECORD_NAME).unlink()
    with pytest.raises(CheckpointError, match="girl train sft"):
        read_record(folder)


def test_an_empty_window_is_named(tmp_path: Path) -> None:
    with load(write_tables(tmp_path, sft_rows())) as tables, pytest.raises(EmptyWindowError, match="sft"):
        train_sft(tables, Windows(*(day(0) for _ in range(5))), sft_config(tmp_path / "workspace"))


@pytest.mark.parametrize("n_items", [None, 60])
def test_the_loss_on_cpus_and_its_gradients_are_trls(tmp_path: Path, n_items: int | None) -> None:
    tokenizer = train_tokenizer(["abc def ghi. jkl mno. "] * 9, 300)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
    )
    pairs = pl.DataFrame({"cv": ["abc", "abc def ghi jkl"], "jd": ["ghi. jkl mno.", "mno"]})
    rows = tokenize_pairs(tokenizer, TINY, pairs, max_cv_tokens=20, max_jd_tokens=20).rows
    trainer = build_sft_trainer(model, tokenizer, rows, [], SFTConfig(batch_size=2), tmp_path)
    batch = next(iter(trainer.get_train_dataloader()))
    found = []
    for compute_loss in (trainer.compute_loss, partial(SFTTrainer.compute_loss, trainer)):
        model.zero_grad()
        loss = compute_loss(model, dict(batch), num_items_in_batch=n_items)
        loss.backward()
        found.append((loss.item(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (ours, our_gradient), (trls, trl_gradient) = found
    assert ours == pytest.approx(trls, rel=1e-5)
    torch.testing.assert_close(our_gradient, trl_gradient, rtol=1e-4, atol=1e-6)
