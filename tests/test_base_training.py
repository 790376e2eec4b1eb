"""Training a pretrained base: the dtype of its weights, and what is settled by its size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from girl_features.config import PPOConfig, RewardConfig, SFTConfig
from girl_features.errors import CheckpointError, ConfigError
from girl_features.generator.checkpoint import (
    RECORD_NAME,
    REWARD_RECORD_NAME,
    n_parameters,
    read_record,
    write_record,
)
from girl_features.generator.opening import find_generator, was_trained_as
from girl_features.generator.transformers_engine import load_causal_lm
from girl_features.generator.tuning import LORA_FROM, settle_tuning
from girl_features.trainers import precision
from girl_features.trainers.precision import cpu_has_bfloat16, settle_precision
from girl_features.trainers.reward import train_reward
from girl_features.trainers.rl import train_ppo
from girl_features.trainers.sft import train_sft
from girl_features.trainers.tiny import train_tokenizer
from tests.input_tables import load, write_tables
from tests.training_world import SFT_WINDOWS, WINDOWS, config_for, market, sft_config, sft_rows

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _save_base(folder: Path, dtype: torch.dtype) -> Path:
    tokenizer = train_tokenizer(["I am a cook of 9 years. Wanted: a nurse, driver, welder. Shifts."] * 9, 300)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **shape, **ids))
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(workspace: Path, base: Path, tuning: str):  # type: ignore[no-untyped-def]
    lora = {"tuning": tuning, "lora_rank": 8}
    rates = {"learning_rate": 3e-3 if tuning == "full" else 2e-2, "epochs": 2, "max_jd_tokens": 40}
    return config_for(
        workspace,
        generator={"base": str(base), "trained_until": "2020-01-01"},
        sft={**lora, **rates, "holdout": 0.2, "batch_size": 4},
        reward={**lora, **rates, "learning_rate": 1e-3, "epochs": 2},
        ppo={**lora, "iterations": 1, "evaluate_every": 1, "critic_warmup": 0},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):  # type: ignore[no-untyped-def]
    """Folders of the three stages by tuning and dtype of the base, each trained in the same way."""
    folders: dict[tuple[str, str], dict[str, Path]] = {}
    for tuning in ("full", "lora"):
        for name, dtype in DTYPES.items():
            root = tmp_path_factory.mktemp(f"{tuning}-{name}")
            config = _config(root / "workspace", _save_base(root / "base", dtype), tuning)
            with load(write_tables(root, market(36))) as tables:
                sft = train_sft(tables, WINDOWS, config)
                reward = train_reward(tables, WINDOWS, config)
                folders[tuning, name] = {"sft": sft, "reward": reward, "ppo": train_ppo(tables, WINDOWS, config)}
    return folders


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("stage", "metric"), [("sft", "heldout_loss"), ("reward", "train_loss"), ("ppo", "heldout_loss")]
)
def test_a_base_in_another_dtype_trains_to_the_loss_of_the_float32_one(
    trained,  # type: ignore[no-untyped-def]
    tuning: str,
    dtype: str,
    stage: str,
    metric: str,
) -> None:
    name = REWARD_RECORD_NAME if stage == "reward" else RECORD_NAME
    found, wanted = (read_record(trained[tuning, d][stage], name).metrics[metric] for d in (dtype, "float32"))
    assert found == pytest.approx(wanted, abs=0.02)
    assert stage == "reward" or found < 5.65, "something was learned; ln 300 is 5.70"


@pytest.mark.parametrize("dtype", DTYPES)
def test_nearly_every_weight_moves_in_every_stage(trained, dtype: str) -> None:  # type: ignore[no-untyped-def]
    folders = trained["full", dtype]
    starts = {"sft": folders["sft"].parents[2] / "base", "reward": folders["sft"], "ppo": folders["sft"]}
    for stage, start in starts.items():
        before, after = load_file(start / "model.safetensors"), load_file(folders[stage] / "model.safetensors")
        matrices = [name for name in before if ".layers." in name and before[name].ndim == 2]
        moved = torch.cat([(before[name].float() != after[name]).flatten() for name in matrices])
        assert moved.float().mean() > 0.98, stage


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_training_saves_and_merges_is_float32(trained, tuning: str, dtype: str) -> None:  # type: ignore[no-untyped-def]
    for folder in trained[tuning, dtype].values():
        for path in folder.glob("*.safetensors"):
            assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}, path
    model, _ = load_causal_lm(trained[tuning, dtype]["sft"])
    assert model.dtype == torch.float32, "an adapter is merged into float32 weights, whatever those of the base are"
    assert load_causal_lm(trained[tuning, dtype]["sft"].parents[2] / "base")[0].dtype == DTYPES[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_adapter_holds_no_embeddings_and_gives_the_text_of_what_was_trained(trained, dtype: str) -> None:  # type: ignore[no-untyped-def]
    folder = trained["lora", dtype]["sft"]
    tensors = load_file(folder / "adapter_model.safetensors")
    assert all("lora_" in name for name in tensors)
    assert not any("embed" in name or "lm_head" in name for name in tensors)
    # rank 8 on 4 attention matrices and 3 of the feed-forward network, in 2 layers: 8 (in + out) numbers for each
    assert sum(t.numel() for t in tensors.values()) == 2 * 8 * (4 * (32 + 32) + 3 * (32 + 64))
    record = read_record(folder)
    assert record.metrics["n_parameters"] == n_parameters(folder)
    assert (record.precision, record.settings["tuning"]) == ("float32", "lora")


def test_the_alternatives_to_ppo_go_on_from_an_adapter_by_another_one(trained) -> None:  # type: ignore[no-untyped-def]
    root = trained["lora", "bfloat16"]["sft"].parents[2]
    config = _config(root / "workspace", root / "base", "lora")
    with load(write_tables(root, market(36))) as tables:
        own = {"algo": "rloo", "batch_size": 8, "minibatch_size": 4, "lora_rank": 2, "learning_rate": 1e-6}
        rloo = config.model_copy(update={"ppo": config.ppo.model_copy(update=own)})
        folder = train_ppo(tables, WINDOWS, rloo)
        in_full = rloo.model_copy(update={"ppo": rloo.ppo.model_copy(update={"tuning": "full"})})
        with pytest.raises(ConfigError, match=r"set `ppo\.tuning: lora`"):
            train_ppo(tables, WINDOWS, in_full)
    kl = pl.read_parquet(folder / "metrics.parquet")["kl"].drop_nulls()
    assert kl.len() and kl.abs().max() < 1e-3, "the reference is the tuned generator, not its base"
    shutil.rmtree(folder)


def test_parameters_are_counted_from_the_headers_whatever_the_dtype(trained, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    bases = {name: trained["full", name]["sft"].parents[2] / "base" for name in DTYPES}
    model, _ = load_causal_lm(bases["float32"])
    assert {n_parameters(folder) for folder in bases.values()} == {model.num_parameters()}
    assert n_parameters(trained["lora", "bfloat16"]["sft"]) == model.num_parameters(), "an adapter counts as its base"
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert n_parameters(tmp_path) == model.num_parameters()
    next(tmp_path.glob("*.safetensors")).write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="is damaged or cut short"):
        n_parameters(tmp_path)


@pytest.mark.parametrize(
    ("settings", "base", "size", "tuning", "rate"),
    [
        (SFTConfig(), "tiny", 2_000_000, "full", 1e-3),
        (SFTConfig(), "tiny", LORA_FROM, "full", 1e-3),
        (SFTConfig(), "x", LORA_FROM - 1, "full", 5e-5),
        (SFTConfig(), "x", LORA_FROM, "lora", 4e-4),
        (SFTConfig(tuning="full"), "x", LORA_FROM, "full", 5e-5),
        (SFTConfig(tuning="lora", learning_rate=0.1), "x", 1000, "lora", 0.1),
        (RewardConfig(), "tiny", 2_000_000, "full", 3e-4),
        (RewardConfig(), "x", LORA_FROM, "lora", 4e-4),
        (RewardConfig(), "x", 1000, "full", 5e-5),
        (PPOConfig(), "tiny", 2_000_000, "full", 5e-5),
        (PPOConfig(), "x", LORA_FROM, "lora", 5e-5),
    ],
)
def test_the_size_of_the_base_settles_tuning_and_learning_rate(
    settings: SFTConfig | RewardConfig | PPOConfig, base: str, size: int, tuning: str, rate: float
) -> None:
    settled = settle_tuning(settings, base, size)
    assert (settled.tuning, settled.learning_rate) == (tuning, rate)
    unchanged = {"tuning", "learning_rate"}
    assert settled.model_dump(exclude=unchanged) == settings.model_dump(exclude=unchanged)


def test_generators_of_an_earlier_release_are_still_found(tmp_path: Path) -> None:
    config = sft_config(tmp_path / "workspace")
    with load(write_tables(tmp_path, sft_rows())) as tables:
        folder = train_sft(tables, SFT_WINDOWS, config)
    earlier = json.loads((folder / RECORD_NAME).read_text())
    del earlier["precision"]
    assert earlier["settings"] == {
        "tuning": "full",
        "lora_rank": 16,
        "epochs": 2.0,
        "learning_rate": 0.001,
        "batch_size": 4,
        "gradient_accumulation": 1,
        "max_jd_tokens": 16,
        "holdout": 0.2,
        "patience": 2,
        "seed": 0,
        "max_steps": -1,
        "max_cv_tokens": 24,
        "tiny": config.generator.tiny.model_dump(mode="json"),
    }, "what the earlier release wrote, so that the hash of the inputs is its hash too"
    (folder / RECORD_NAME).write_text(json.dumps(earlier))
    assert find_generator(config)[0] == folder


def test_a_generator_is_found_by_what_auto_means_for_its_base(trained) -> None:  # type: ignore[no-untyped-def]
    folder = trained["lora", "bfloat16"]["sft"]
    base = folder.parents[2] / "base"
    config = _config(folder.parents[1], base, "lora")
    assert was_trained_as(config, folder)
    automatic = _config(folder.parents[1], base, "auto")
    assert not was_trained_as(automatic, folder), "a small base is tuned in full"
    copy = folder.parent / "large"
    shutil.copytree(folder, copy)
    record = read_record(folder)
    write_record(copy, record.model_copy(update={"metrics": {**record.metrics, "n_parameters": LORA_FROM}}))
    assert was_trained_as(automatic, copy), "a large one by LoRA"
    shutil.rmtree(copy)


def test_bfloat16_needs_the_instructions_a_large_model_and_no_other_wish(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has, chosen in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda has=has: has)
        assert settle_precision("auto", LORA_FROM) == chosen
        assert settle_precision("auto", LORA_FROM - 1) == "float32"
        assert settle_precision("float32", LORA_FROM) == "float32"
    assert caplog.text == ""
    assert settle_precision("bfloat16", 1000) == "bfloat16"
    assert "slower than in float32" in caplog.text
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settle_precision("auto", 1000) == "bfloat16"


@pytest.mark.parametrize(
    ("capabilities", "cpu_info", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "", True),
        ({"avx512_bf16": False, "amx_bf16": True}, "", True),
        ({"avx512_bf16": False, "amx_bf16": False}, "flags : avx512_bf16", False),
        ({}, "flags\t\t: fpu avx2 avx512_bf16\n", True),
        ({}, "Features : fp asimd bf16\n", True),
        ({}, "flags : avx2\nmodel name : bf16\n", False),
    ],
)
def test_the_cpu_is_asked_for_its_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], cpu_info: str, expected: bool
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpu_info)
    monkeypatch.setattr(precision, "CPU_INFO", path)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert cpu_has_bfloat16() is expected
    path.unlink()
    assert cpu_has_bfloat16() is (expected and bool(capabilities))


def test_the_wish_for_bfloat16_is_recorded_and_trains_in_it(tmp_path: Path) -> None:
    base = _save_base(tmp_path / "base", torch.float32)
    config = _config(tmp_path / "workspace", base, "full")
    config = config.model_copy(update={"sft": config.sft.model_copy(update={"precision": "bfloat16", "epochs": 2})})
    with load(write_tables(tmp_path, market(24))) as tables:
        record = read_record(train_sft(tables, WINDOWS, config))
    assert (record.precision, record.settings["precision"]) == ("bfloat16", "bfloat16")
    assert was_trained_as(config, next((tmp_path / "workspace" / "generators").glob("sft-*")))
