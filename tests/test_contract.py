"""The fingerprint: short, stable, and different whenever anything that makes a vector is."""

from __future__ import annotations

from pathlib import Path

import pytest

from girl_features.contract import FeatureContract, sampling_seed, sha256_of_files, text_hash
from girl_features.errors import CheckpointError
from tests.fakes import feature_contract


def test_fingerprint_is_twelve_hex_digits_and_survives_json() -> None:
    contract = feature_contract()
    assert len(contract.fingerprint) == 12
    int(contract.fingerprint, 16)
    assert FeatureContract.model_validate_json(contract.model_dump_json()).fingerprint == contract.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"generator": "other"},
        {"weights_sha256": "2" * 64},
        {"adapter_sha256": "3" * 64},
        {"trained_until": "2021-01-01T00:00:00+00:00"},
        {"prompt_version": "tiny-2"},
        {"max_cv_tokens": 65},
        {"sampling": {"n": 2, "temperature": 0.7, "top_p": 0.95, "max_new_tokens": 32, "seed": 0}},
        {"sampling": {"n": 1, "temperature": 0.7, "top_p": 0.95, "max_new_tokens": 32, "seed": 1}},
    ],
)
def test_every_part_changes_the_fingerprint(change: dict[str, object]) -> None:
    contract = feature_contract()
    other = FeatureContract.model_validate({**contract.model_dump(mode="json"), **change})
    assert other.fingerprint != contract.fingerprint


def test_best_of_n_is_part_of_the_contract_only_where_it_is_used() -> None:
    contract = feature_contract()
    assert "best_of" not in contract.model_dump_json()
    drawn = contract.sampling.model_copy(update={"best_of": 8, "reward_sha256": "4" * 64})
    other = contract.model_copy(update={"sampling": drawn})
    assert FeatureContract.model_validate_json(other.model_dump_json()) == other
    prints = {c.fingerprint for c in (contract, other)}
    for change in ({"best_of": 9}, {"reward_sha256": "5" * 64}):
        prints.add(other.model_copy(update={"sampling": drawn.model_copy(update=change)}).fingerprint)
    assert len(prints) == 4


def test_a_part_we_do_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="Extra inputs"):
        FeatureContract.model_validate({**feature_contract().model_dump(mode="json"), "mood": "good"})


def test_seeds_differ_by_text_contract_and_sample() -> None:
    seeds = {sampling_seed(text_hash(t), c, s) for t in ("cook", "nurse") for c in ("a", "b") for s in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sampling_seed(text_hash("cook"), "a", 0) == sampling_seed(text_hash("cook"), "a", 0)


def test_file_hash_follows_names_and_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    both = sha256_of_files([first, second])
    assert both == sha256_of_files([second, first])
    second.write_bytes(b"3")
    assert sha256_of_files([first, second]) != both
    with pytest.raises(CheckpointError, match="no weight files"):
        sha256_of_files([])
