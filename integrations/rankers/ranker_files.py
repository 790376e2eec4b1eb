"""Files of a saved ranker: a JSON manifest, and weights whose hashes the manifest holds. No pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from girl_features.contract import sha256_of_files
from girl_features.errors import CheckpointError, require
from girl_features.integrations.rankers.pair_inputs import RankerRow, TrainedOn
from girl_features.ranker import PairFeatures, Ranker
from girl_features.store.user_files import make_way
from girl_features.vectors.regression import Calibration

MANIFEST = "manifest.json"


class _Manifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1] = 1
    sha256: dict[str, str]  # of each other file, by name; filled in when the manifest is written


class _VectorManifest(_Manifest):
    contract: str  # fingerprint of the FeatureContract it was trained on
    dimension: int = Field(ge=1, le=65536)  # of its vectors


class RankerManifest(_VectorManifest):
    """Everything needed to rebuild a ranker around its weights."""

    version: Literal[2] = 2  # type: ignore[assignment]  # version 1 had no column for each tier
    format: Literal["girl-features ranker"] = "girl-features ranker"
    predictor: str
    row: RankerRow
    seed: int
    slope: float
    intercept: float
    columns: tuple[str, ...] = ()  # names of the further columns it reads, in order

    @property
    def trained_on(self) -> TrainedOn:
        """Kind of the pairs it was trained on."""
        return TrainedOn(self.contract, self.dimension, self.columns)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Return (n,) calibrated probabilities of (n,) raw scores."""
        return Calibration(self.slope, self.intercept).probabilities(scores)


class FallbackManifest(_VectorManifest):
    """An enhanced ranker and its base twin, each in a folder; `sha256` is of their manifests."""

    format: Literal["girl-features ranker with fallback"] = "girl-features ranker with fallback"
    predictor: str


class ReductionManifest(_VectorManifest):
    """Projection that makes plain columns."""

    format: Literal["girl-features plain columns"] = "girl-features plain columns"
    n_components: int = Field(ge=1, le=65536)


AnyManifest = TypeVar("AnyManifest", RankerManifest, FallbackManifest, ReductionManifest)


class SavedRanker(Ranker, Protocol):
    """A Ranker that can be written to a folder."""

    def save(self, folder: Path) -> None:
        """Write the ranker, its contract and its calibration to `folder`."""
        ...


def new_manifest(
    predictor: str, row: RankerRow, seed: int, features: PairFeatures, calibration: Calibration
) -> RankerManifest:
    """Return the manifest of a ranker trained on `features`."""
    return RankerManifest(
        predictor=predictor,
        row=row,
        seed=seed,
        contract=features.contract,
        dimension=features.cv.shape[1],
        slope=calibration.slope,
        intercept=calibration.intercept,
        columns=features.column_names,
        sha256={},
    )


def make_folder(folder: Path, names: tuple[str, ...]) -> None:
    """Make the folder of a ranker. Files of these names that no manifest of ours lists are kept as NAME.bak-TIME."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*names, MANIFEST):  # the manifest last, as it tells whose the others are
        make_way(folder / name, lambda path: _is_listed(folder, path.name))


def _is_listed(folder: Path, name: str) -> bool:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    is_ours = isinstance(manifest, dict) and str(manifest.get("format")).startswith("girl-features ")
    return is_ours and name in {MANIFEST, *manifest.get("sha256", {})}


def write_manifest(folder: Path, manifest: AnyManifest, names: tuple[str, ...]) -> None:
    """Write the manifest with the hashes of the files `names`, in one step, after these files.

    If a save is interrupted, the folder has no manifest or an older one whose hashes differ, and `load` refuses it.
    """
    manifest = manifest.model_copy(update={"sha256": {name: sha256_of_files([folder / name]) for name in names}})
    partial = folder / f".{MANIFEST}.partial"
    partial.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST)


def read_manifest(folder: Path, kind: type[AnyManifest], names: tuple[str, ...]) -> AnyManifest:
    """Read the manifest of `folder` and check that the files `names` are the ones it was written for.

    Raises:
        CheckpointError: no manifest, one of another kind or version, or a file is absent or altered.
    """
    manifest = parse_manifest(folder, kind)
    if set(manifest.sha256) != set(names):
        raise CheckpointError(f"{folder} should list the files {sorted(names)}, lists {sorted(manifest.sha256)}")
    for name in names:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is absent; save the ranker again or fetch the whole folder")
        if sha256_of_files([folder / name]) != manifest.sha256[name]:
            raise CheckpointError(
                f"{folder / name} is not the file its manifest was written for; save or fetch it again"
            )
    return manifest


def parse_manifest(folder: Path, kind: type[AnyManifest]) -> AnyManifest:
    """Read the manifest of `folder` without checking the other files.

    Raises:
        CheckpointError: absent, or not a manifest of this kind and version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        if not folder.is_dir():
            raise CheckpointError(f"no ranker in {folder}: there is no such folder; `girl train ranker` writes one")
        contents = sorted(entry.name for entry in folder.iterdir())[:5]
        raise CheckpointError(
            f"no {MANIFEST} in {folder} (found: {contents}); only folders written by `save` are read, never pickles"
        )
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise CheckpointError(f"{path} is no manifest this version reads: {problems}") from error


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Save named arrays as safetensors."""
    safetensors = require("safetensors.numpy", "rank")
    safetensors.save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def read_arrays(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Load named float32 arrays, exactly those of `shapes`.

    Raises:
        CheckpointError: the file is not safetensors, or a name, shape, type or value is not as wanted.
    """
    safetensors, format_error = require("safetensors.numpy", "rank"), require("safetensors", "rank").SafetensorError
    try:
        arrays: dict[str, np.ndarray] = safetensors.load_file(path)
    except format_error as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error
    stored_shapes = {name: array.shape for name, array in arrays.items()}
    if stored_shapes != shapes:
        raise CheckpointError(f"{path} holds {stored_shapes}, wanted {shapes}; it is the file of another ranker")
    for name, array in arrays.items():
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} should be finite float32, found {array.dtype}")
    return arrays
