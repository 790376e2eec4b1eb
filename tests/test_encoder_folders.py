"""Encoders of every layout: they load, or are refused by name; static ones have no token limit."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from girl_features.encoder import NO_LIMIT, SentenceTransformerEncoder, is_static
from girl_features.errors import CheckpointError
from girl_features.lookup.encoder_export import export_encoder
from girl_features.lookup.host_encoder import HostEncoder
from girl_features.trainers.tiny import train_tokenizer, warm_start
from tests.encoder_folders import FOLDERS, MAX_TOKENS, WORDS

STATIC = [name for name in FOLDERS if name.startswith(("static", "model2vec"))]
UNLIMITED = [name for name in STATIC if name != "static that cuts"]
EXPORTED = [name for name in FOLDERS if "dense" not in name]


def _texts(n: int, n_words: int = MAX_TOKENS, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, n_words))) for _ in range(n)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("encoders")
    made = {}
    for number, (name, make) in enumerate(FOLDERS.items()):
        made[name] = root / f"encoder{number}"
        make(made[name])
    return made


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_layout_gives_unit_vectors(folders: dict[str, Path], name: str, dtype: str) -> None:
    encoder = SentenceTransformerEncoder(str(folders[name]), dtype=dtype)
    texts = [*_texts(100), "", "   ", "unheard of"]
    encoded = encoder.encode(texts)
    assert encoded.vectors.shape == (len(texts), encoder.contract.dimension)
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-4)
    assert encoder.contract.dtype == ("float32" if name in STATIC else dtype)
    assert is_static(folders[name]) == (name in STATIC)
    assert len(np.unique(encoded.vectors.round(4), axis=0)) > 50


@pytest.mark.parametrize("name", FOLDERS)
def test_cut_texts_are_counted_and_static_encoders_cut_none(folders: dict[str, Path], name: str) -> None:
    encoder = SentenceTransformerEncoder(str(folders[name]))
    assert encoder.contract.max_tokens == (NO_LIMIT if name in UNLIMITED else MAX_TOKENS)
    n_words = [1, MAX_TOKENS - 2, MAX_TOKENS, MAX_TOKENS + 1, 500, 5000]
    texts = [" ".join(random.Random(n).choices(WORDS, k=n)) for n in n_words]
    expected = [name not in UNLIMITED and n > MAX_TOKENS for n in n_words]
    assert encoder.encode(texts).truncated.tolist() == expected
    longer = encoder.encode([f"{text} nurse welder" for text in texts[-1:]]).vectors
    assert np.array_equal(longer, encoder.encode(texts[-1:]).vectors) == (name not in UNLIMITED)


def test_sub_folders_and_shards_hold_the_same_encoder(folders: dict[str, Path]) -> None:
    texts = _texts(200)
    for plain, others in {
        "transformer": ["transformer, normalized", "transformer in a sub-folder", "transformer in shards"],
        "static": ["static in a sub-folder", "static, normalized", "model2vec"],
    }.items():
        wanted = SentenceTransformerEncoder(str(folders[plain])).encode(texts).vectors
        for other in others:
            found = SentenceTransformerEncoder(str(folders[other])).encode(texts).vectors
            np.testing.assert_allclose(found, wanted, atol=2e-3, err_msg=other)


@pytest.mark.parametrize("name", EXPORTED)
def test_a_ranking_host_gets_the_same_vectors(folders: dict[str, Path], name: str, tmp_path: Path) -> None:
    encoder = SentenceTransformerEncoder(str(folders[name]))
    made = export_encoder(encoder, str(folders[name]), _texts(20), tmp_path)
    assert made["min_cosine"] > 0.99
    host = HostEncoder(tmp_path, encoder.contract)
    texts = [*_texts(50, seed=1), "", "   "]
    found, wanted = host.encode(texts), encoder.encode(texts)
    assert (found.vectors * wanted.vectors).sum(axis=1).min() > 0.98
    assert found.truncated.tolist() == wanted.truncated.tolist()


@pytest.mark.parametrize("name", FOLDERS)
def test_tiny_starts_from_the_word_vectors_of_every_layout(folders: dict[str, Path], name: str) -> None:
    tokenizer = train_tokenizer([" ".join(WORDS)] * 20, 400)
    vectors = torch.zeros(len(tokenizer), 16)
    torch.manual_seed(0)
    vectors.normal_()
    before = vectors.clone()
    with torch.no_grad():
        warm_start(vectors, tokenizer, str(folders[name]))
    changed = (vectors != before).any(dim=1)
    known = [tokenizer.convert_tokens_to_ids(f"\u0120{word}") for word in WORDS[1:]]
    assert changed[known].all()
    assert torch.isfinite(vectors).all()


@pytest.mark.parametrize("name", ["transformer", "transformer in a sub-folder", "static in a sub-folder", "model2vec"])
@pytest.mark.parametrize("kept", ["pickled", "none", "cut"])
def test_pickled_missing_and_damaged_weights_are_refused_by_name(name: str, kept: str, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    FOLDERS[name](folder)
    [weights] = folder.rglob("model.safetensors")
    if kept == "cut":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        weights.unlink()
    if kept == "pickled":
        weights.with_name("pytorch_model.bin").write_bytes(b"\x80")
    message = {"pickled": r"no \.safetensors weights, only pytorch_model\.bin", "none": r"no \.safetensors weights"}
    with pytest.raises(CheckpointError, match=message.get(kept, r"cannot be loaded .* download it again")):
        SentenceTransformerEncoder(str(folder))


def test_a_pickled_module_behind_a_sound_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    FOLDERS["transformer, dense"](folder)
    weights = folder / "2_Dense" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(CheckpointError, match=r"2_Dense.* only pytorch_model\.bin"):
        SentenceTransformerEncoder(str(folder))


@pytest.mark.parametrize("text", ["{", "[1]", '[{"path": ""}]', '{"a": 1}'])
def test_a_list_of_modules_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"modules\.json cannot be read"):
        SentenceTransformerEncoder(str(tmp_path))
