"""Checkpoints: whole, exact, hashed; a damaged one is passed over and a pickle never opened."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from girl_features.errors import CheckpointError
from girl_features.trainers.checkpoints import (
    KEPT,
    Checkpoint,
    load_newest,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)


def _save(root: Path, iteration: int) -> Path:
    return save_checkpoint(root, Checkpoint(iteration, {"w": torch.full((3,), iteration / 7)}, {"lambda": 0.1 * 3}))


def test_what_is_written_comes_back_to_the_bit(tmp_path: Path) -> None:
    _save(tmp_path, 4)
    found = load_newest(tmp_path)
    assert found is not None
    assert found.iteration == 4
    assert torch.equal(found.tensors["w"], torch.full((3,), 4 / 7))
    assert found.state == {"lambda": 0.1 * 3}


def test_nothing_written_is_nothing_found(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "no") is None


def test_only_the_newest_are_kept_and_no_half_written_one_counts(tmp_path: Path) -> None:
    for iteration in (1, 2, 10, 9):
        _save(tmp_path, iteration)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iteration-000009", "iteration-000010"]
    assert KEPT == 2
    (tmp_path / ".iteration-000011").mkdir()
    found = load_newest(tmp_path)
    assert found is not None
    assert found.iteration == 10


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "hashes.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "delete"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, name: str, damage: str, caplog) -> None:  # type: ignore[no-untyped-def]
    _save(tmp_path, 1)
    path = _save(tmp_path, 2) / name
    data = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[-3] ^= 1
        path.write_bytes(data)
    found = load_newest(tmp_path)
    assert found is not None
    assert found.iteration == 1
    assert "iteration-000002" in caplog.text


def test_where_all_are_damaged_the_way_on_is_named(tmp_path: Path) -> None:
    (_save(tmp_path, 1) / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="--no-resume"):
        load_newest(tmp_path)


class _Canary:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return (Path.touch, (Path(self.path),))  # type: ignore[attr-defined]


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    canary = _Canary()
    canary.path = str(tmp_path / "ran")  # type: ignore[attr-defined]
    (_save(tmp_path / "root", 1) / "optimizer.pt").write_bytes(pickle.dumps(canary))
    with pytest.raises(CheckpointError, match=r"optimizer\.pt, which may run code"):
        load_newest(tmp_path / "root")
    assert not (tmp_path / "ran").exists()


def test_an_optimizer_goes_on_exactly_where_it_was(tmp_path: Path) -> None:
    def step(weight: torch.Tensor, optimizer: torch.optim.Optimizer, n: int) -> None:
        for i in range(n):
            optimizer.zero_grad()
            (weight.square().sum() * (i + 1)).backward()
            optimizer.step()

    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    step(weight, optimizer, 3)
    save_checkpoint(tmp_path, Checkpoint(3, {"w": weight, **optimizer_tensors(optimizer, "actor_optimizer")}, {}))
    step(weight, optimizer, 4)

    found = load_newest(tmp_path)
    assert found is not None
    again = torch.nn.Parameter(found.tensors["w"])
    other = torch.optim.AdamW([again], lr=0.1)
    restore_optimizer(other, found.tensors, "actor_optimizer")
    step(again, other, 4)
    assert torch.equal(again, weight)
