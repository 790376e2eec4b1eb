"""Tiny encoders on disk, of every layout that sentence-transformers and model2vec write, made offline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, StaticEmbedding, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SENTENCE = "i am was a cook nurse driver welder of ships wards trucks and wanted with years in the kitchen"
WORDS = SENTENCE.split()
DIMENSION = 16
MAX_TOKENS = 12


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}, "[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _bert(folder: Path, **options: object) -> Transformer:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS) + 4,
        hidden_size=DIMENSION,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder, **options)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=_tokenizer(), model_max_length=MAX_TOKENS, **names)  # type: ignore[no-untyped-call]
    fast.save_pretrained(folder)
    return Transformer(str(folder), max_seq_length=MAX_TOKENS)


def _transformer(folder: Path, *more: torch.nn.Module) -> None:
    bert = _bert(folder.with_name(f"{folder.name}-bert"))
    SentenceTransformer(modules=[bert, Pooling(DIMENSION), *more]).save(str(folder))


def _table() -> StaticEmbedding:
    torch.manual_seed(0)
    return StaticEmbedding(_tokenizer(), embedding_weights=torch.randn(len(WORDS) + 4, DIMENSION))


def _static(folder: Path) -> None:
    SentenceTransformer(modules=[_table()]).save(str(folder))


def _into_sub_folder(folder: Path, make: Callable[[Path], None], name: str) -> None:
    """Move the files of the first module into a sub-folder, as some versions save them."""
    make(folder)
    modules = json.loads((folder / "modules.json").read_text())
    kept = {"modules.json", "config_sentence_transformers.json", "README.md"}
    (folder / name).mkdir(exist_ok=True)
    for path in list(folder.iterdir()):
        if path.is_file() and path.name not in kept:
            shutil.move(path, folder / name / path.name)
    modules[0]["path"] = name
    (folder / "modules.json").write_text(json.dumps(modules))


def _sharded(folder: Path) -> None:
    _transformer(folder)
    (folder / "model.safetensors").unlink()
    BertModel.from_pretrained(folder.with_name(f"{folder.name}-bert")).save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1


def _model2vec(folder: Path) -> None:
    folder.mkdir()
    table = _table()
    save_file({"embeddings": table.embedding.weight.detach().half()}, folder / "model.safetensors")
    table.tokenizer.save(str(folder / "tokenizer.json"))
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": True}
    (folder / "config.json").write_text(json.dumps(config))


def _quantized_model2vec(folder: Path) -> None:
    _model2vec(folder)
    table = load_file(folder / "model.safetensors")["embeddings"]
    n = len(table)
    tensors = {
        "embeddings": table[: n // 2 + 1].contiguous(),
        "mapping": torch.arange(n) // 2,
        "weights": torch.ones(n),
    }
    save_file(tensors, folder / "model.safetensors")


def _cut_static(folder: Path) -> None:
    table = _table()
    table.tokenizer.enable_truncation(MAX_TOKENS)
    SentenceTransformer(modules=[table]).save(str(folder))


FOLDERS: dict[str, Callable[[Path], None]] = {
    "transformer": _transformer,
    "transformer, normalized": lambda folder: _transformer(folder, Normalize()),
    "transformer, dense": lambda folder: _transformer(folder, Dense(DIMENSION, 8), Normalize()),
    "transformer in a sub-folder": lambda folder: _into_sub_folder(folder, _transformer, "0_Transformer"),
    "transformer in shards": _sharded,
    "static": _static,
    "static in a sub-folder": lambda folder: _into_sub_folder(folder, _static, "0_StaticEmbedding"),
    "static, normalized": lambda folder: SentenceTransformer(modules=[_table(), Normalize()]).save(str(folder)),
    "static that cuts": _cut_static,
    "model2vec": _model2vec,
    "model2vec, quantized": _quantized_model2vec,
}
