"""Bundle: what a ranking host needs for seekers without a generated JD, in one folder of one contract.

    bundle.json                  the contract, how it was made, and the SHA-256 of the other files
    means.safetensors            mean generated vector (the prior) and mean CV vector
    student.safetensors          weights of the student; may be left out
    neighbours_cv.npy            (m, d) unit CV vectors ...
    neighbours_generated.npy     (m, d) ... and the generated vectors of the same CVs; both may be left out
    neighbours_seeker.npy        (m,) int32: CVs of one seeker have one number, which says nothing else
    encoder.*, tokenizer.json    the sentence encoder for hosts without torch (host_encoder.py); may be left out

No ids and no texts: but vectors say something of people, so treat it as you treat the store.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from girl_features.contract import FeatureContract, sha256_of_files
from girl_features.errors import CheckpointError, ContractMismatchError, require
from girl_features.lookup.vector_map import VectorMap
from girl_features.store.files import fsync_folder

MANIFEST, MEANS, STUDENT = "bundle.json", "means.safetensors", "student.safetensors"
NEIGHBOURS_CV, NEIGHBOURS_GENERATED = "neighbours_cv.npy", "neighbours_generated.npy"
NEIGHBOURS_SEEKER = "neighbours_seeker.npy"


class Bundle(NamedTuple):
    """The stand-ins of one contract."""

    contract: FeatureContract
    prior: np.ndarray  # (d,) float32 mean of the generated vectors
    cv_mean: np.ndarray  # (d,) float32
    student: VectorMap | None
    neighbours_cv: np.ndarray | None  # (m, d) float32 unit vectors, mapped from the file
    neighbours_generated: np.ndarray | None  # (m, d) float32, mapped from the file
    neighbours_seeker: np.ndarray | None = None  # (m,) int32 numbers: whose CVs they are, for evaluations alone


class Manifest(BaseModel):
    """bundle.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["girl-features bundle"] = "girl-features bundle"
    version: Literal[1] = 1
    fingerprint: str
    contract: FeatureContract
    created_at: datetime
    made: dict[str, Any]  # settings and measures, for people
    sha256: dict[str, str]


def write_bundle(
    folder: Path, bundle: Bundle, made: dict[str, Any], write_more: Callable[[Path], object] = lambda folder: None
) -> Path:
    """Write `bundle` as `folder`, in place of one that is there, and return it.

    Args:
        folder: it appears whole or not at all.
        bundle: what to write.
        made: settings and measures to keep beside it.
        write_more: adds files to the folder it is called with.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=folder.parent) as temporary:
        new = Path(temporary) / "new"
        new.mkdir()
        save_file = require("safetensors.numpy", "serve").save_file
        save_file({"prior": bundle.prior, "cv_mean": bundle.cv_mean}, new / MEANS)
        if bundle.student is not None:
            save_file(bundle.student.arrays(), new / STUDENT)
        if bundle.neighbours_cv is not None and bundle.neighbours_generated is not None:
            np.save(new / NEIGHBOURS_CV, bundle.neighbours_cv.astype(np.float32), allow_pickle=False)
            np.save(new / NEIGHBOURS_GENERATED, bundle.neighbours_generated.astype(np.float32), allow_pickle=False)
            if bundle.neighbours_seeker is not None:
                np.save(new / NEIGHBOURS_SEEKER, bundle.neighbours_seeker.astype(np.int32), allow_pickle=False)
        write_more(new)
        manifest = Manifest(
            fingerprint=bundle.contract.fingerprint,
            contract=bundle.contract,
            created_at=datetime.now(UTC),
            made=made,
            sha256={path.name: sha256_of_files([path]) for path in sorted(new.iterdir())},
        )
        (new / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(Path(temporary) / "old")  # a client that has its files open keeps them
        new.rename(folder)
    fsync_folder(folder.parent)
    return folder


def read_bundle(folder: Path, fingerprint: str) -> Bundle:
    """The bundle in `folder`, which must be of the contract with this fingerprint.

    Raises:
        CheckpointError: absent, incomplete, altered, or of another format.
        ContractMismatchError: of another contract.
        MissingExtraError: safetensors is not installed.
    """
    manifest = read_manifest(folder)
    if manifest.fingerprint != manifest.contract.fingerprint:
        raise CheckpointError(f"{folder / MANIFEST} was altered: its contract is not {manifest.fingerprint!r}")
    if manifest.fingerprint != fingerprint:
        raise ContractMismatchError(manifest.fingerprint, fingerprint)
    for name, wanted in manifest.sha256.items():
        path = folder / name
        if Path(name).name != name or not path.is_file() or sha256_of_files([path]) != wanted:
            raise CheckpointError(f"{path} is missing or was altered; make it again with `girl train student`")
    d = manifest.contract.encoder.dimension
    means = _load(folder / MEANS)
    student = None
    if STUDENT in manifest.sha256:
        student = VectorMap.checked(_load(folder / STUDENT), str(folder / STUDENT))
        if student.skip.shape != (d, d):
            raise CheckpointError(f"{folder / STUDENT} maps {student.skip.shape}, but vectors have {d} dimensions")
    near: list[np.ndarray | None] = [None, None]
    if NEIGHBOURS_CV in manifest.sha256:
        near = [_array(folder / name, d) for name in (NEIGHBOURS_CV, NEIGHBOURS_GENERATED)]
        if near[0] is not None and near[1] is not None and len(near[0]) != len(near[1]):
            raise CheckpointError(f"{folder} has {len(near[0])} CVs and {len(near[1])} generated vectors")
    seekers = _seekers(folder / NEIGHBOURS_SEEKER, near[0]) if NEIGHBOURS_SEEKER in manifest.sha256 else None
    for name in ("prior", "cv_mean"):
        if name not in means or means[name].shape != (d,) or not np.isfinite(means[name]).all():
            raise CheckpointError(f"{folder / MEANS} has no {name!r} of {d} finite floats")
    return Bundle(manifest.contract, means["prior"], means["cv_mean"], student, near[0], near[1], seekers)


def read_manifest(folder: Path) -> Manifest:
    """What a bundle says of itself.

    Raises:
        CheckpointError: absent, damaged, or of another format.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"no bundle in {folder} ({error.strerror}); `girl train student` makes one, which can be copied"
        ) from error
    except ValidationError as error:
        raise CheckpointError(f"{folder / MANIFEST} is damaged or of another format; make it again") from error


def _load(path: Path) -> dict[str, np.ndarray]:
    safetensors, numpy_files = require("safetensors", "serve"), require("safetensors.numpy", "serve")
    try:
        return dict(numpy_files.load_file(path))
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file: {error}") from error


def _seekers(path: Path, cvs: np.ndarray | None) -> np.ndarray:
    try:
        numbers = np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable array: {error}") from error
    if cvs is None or numbers.dtype != np.int32 or numbers.shape != (len(cvs),):
        raise CheckpointError(f"{path} holds {numbers.dtype} of shape {numbers.shape}, wanted an int32 for each CV")
    return numbers


def _array(path: Path, dimension: int) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable array: {error}") from error
    if array.dtype != np.float32 or array.ndim != 2 or array.shape[1] != dimension or not len(array):
        raise CheckpointError(f"{path} holds {array.dtype} of shape {array.shape}, wanted float32 (m, {dimension})")
    return np.asarray(array)
