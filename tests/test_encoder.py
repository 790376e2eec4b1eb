"""The sentence encoder, on the real default model (it comes as a package)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from girl_features.encoder import SentenceTransformerEncoder, fastest_dtype, find_encoder_folder, resolve_dtype
from girl_features.errors import CheckpointError

FINGERPRINT = "0b26cdb2f885"  # of all-MiniLM-L6-v2 in float32


@pytest.fixture(scope="module")
def encoder() -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder(batch_size=2)


def test_vectors_are_unit_float32_in_the_texts_order(encoder: SentenceTransformerEncoder) -> None:
    texts = ["head chef of a hotel kitchen", "nurse", "sous chef, restaurant", ""]
    encoded = encoder.encode(texts)
    assert encoded.vectors.shape == (4, encoder.contract.dimension)
    assert encoded.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-5)
    chef, nurse, sous_chef, _ = encoded.vectors
    assert chef @ sous_chef > chef @ nurse
    alone = np.concatenate([encoder.encode([text]).vectors for text in texts])
    np.testing.assert_allclose(encoded.vectors, alone, atol=1e-5)


def test_truncation_is_counted_exactly_at_the_limit(encoder: SentenceTransformerEncoder) -> None:
    limit = encoder.contract.max_tokens  # two of them are [CLS] and [SEP]
    fits, cut = "word " * (limit - 2), "word " * (limit - 1)
    assert encoder.encode(["short", fits, cut]).truncated.tolist() == [False, False, True]
    same = encoder.encode([cut, cut + "nurse"]).vectors
    np.testing.assert_array_equal(same[0], same[1])


def test_no_texts(encoder: SentenceTransformerEncoder) -> None:
    encoded = encoder.encode([])
    assert encoded.vectors.shape == (0, encoder.contract.dimension)
    assert encoded.truncated.shape == (0,)


def test_the_contract_says_what_it_is(encoder: SentenceTransformerEncoder) -> None:
    contract = encoder.contract
    assert (contract.name, contract.dimension, contract.max_tokens) == ("all-MiniLM-L6-v2", 384, 256)
    assert (contract.pooling, contract.normalized, contract.dtype) == ("mean", True, "float32")
    assert contract.fingerprint == FINGERPRINT, "stores of earlier versions hold vectors of this encoder"
    other = SentenceTransformerEncoder(dtype="bfloat16").contract
    assert other.fingerprint != contract.fingerprint, "another precision makes other vectors"


def test_bfloat16_vectors_are_nearly_the_float32_ones(encoder: SentenceTransformerEncoder) -> None:
    texts = ["head chef of a hotel kitchen", "nurse", "sous chef, restaurant " * 40, "driver, parcels"]
    half = SentenceTransformerEncoder(dtype="bfloat16").encode(texts).vectors
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-5)
    cosines = (half * encoder.encode(texts).vectors).sum(axis=1)
    assert cosines.min() > 0.999


def test_auto_keeps_to_the_precision_a_store_was_begun_with(encoder: SentenceTransformerEncoder) -> None:
    fastest = fastest_dtype()
    other = {"float32": "bfloat16", "bfloat16": "float32"}[fastest]
    held = encoder.contract.model_copy(update={"dtype": other})
    assert resolve_dtype("auto", "all-MiniLM-L6-v2", []) == fastest
    assert resolve_dtype("auto", "all-MiniLM-L6-v2", [held]) == other
    assert resolve_dtype("auto", "all-MiniLM-L6-v2", [held.model_copy(update={"dtype": fastest}), held]) == fastest
    assert resolve_dtype("auto", "all-MiniLM-L6-v2", [held.model_copy(update={"weights_sha256": "0"})]) == fastest
    assert resolve_dtype(fastest, "all-MiniLM-L6-v2", [held]) == fastest


def test_a_folder_without_safetensors_and_an_unknown_name_are_refused(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(CheckpointError, match=r"no \.safetensors"):
        SentenceTransformerEncoder(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match=r"set `encoder\.name` to a local folder"):
        find_encoder_folder("no-such-model-anywhere")
