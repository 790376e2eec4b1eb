"""Bundle: one folder with everything that a ranking host needs for seekers without a generated JD.

    bundle.json                  contract, settings, measures, and the SHA-256 of the other files
    means.safetensors            mean generated vector (the prior) and mean CV vector
    student.safetensors          weights of the student; optional
    neighbours_cv.npy            (m, d) unit CV vectors; optional
    neighbours_generated.npy     (m, d) generated vectors of the same CVs; optional
    neighbours_seeker.npy        (m,) int32 numbers, equal for CVs of the same seeker; optional
    encoder.*, tokenizer.json    sentence encoder for hosts without torch (host_encoder.py); optional

A bundle holds no ids and no texts. Its vectors still describe people, so protect it as you protect the store.
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
    """Stand-ins of one contract."""

    contract: FeatureContract
    prior: np.ndarray  # (d,) float32 mean of the generated vectors
    cv_mean: np.ndarray  # (d,) float32
    student: VectorMap | None
    neighbours_cv: np.ndarray | None  # (m, d) float32 unit vectors, mapped from the file
    neighbours_generated: np.ndarray | None  # (m, d) float32, mapped from the file
    neighbours_seeker: np.ndarray | None = None  # (m,) int32, equal for CVs of one seeker; only for evaluations


class BundleManifest(BaseModel):
    """Content of bundle.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["girl-features bundle"] = "girl-features bundle"
    version: Literal[1] = 1
    fingerprint: str
    contract: FeatureContract
    created_at: datetime
    made: dict[str, Any]  # settings and measures, for readers
    sha256: dict[str, str]


def write_bundle(
    folder: Path, bundle: Bundle, made: dict[str, Any], write_more: Callable[[Path], object] = lambda folder: None
) -> Path:
    """Write `bundle` to `folder`, which replaces an earlier bundle as a whole, and return the folder.

    The manifest keeps `made`, settings and measures. `write_more` writes further files to the folder that it is given.

    Raises:
        CheckpointError: `folder` holds something else than a bundle.
    """
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise CheckpointError(f"{folder} is there and holds no bundle; name another folder, or move it away")
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
        manifest = BundleManifest(
            fingerprint=bundle.contract.fingerprint,
            contract=bundle.contract,
            created_at=datetime.now(UTC),
            made=made,
            sha256={path.name: sha256_of_files([path]) for path in sorted(new.iterdir())},
        )
        (new / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(Path(temporary) / "old")  # clients that have its files open can go on reading them
        new.rename(folder)
    fsync_folder(folder.parent)
    return folder


def read_bundle(folder: Path, fingerprint: str) -> Bundle:
    """Read the bundle in `folder` and check its hashes.

    Raises:
        CheckpointError: the bundle is missing, incomplete, altered, or of another format.
        ContractMismatchError: it does not belong to the contract with this fingerprint.
        MissingExtraError: safetensors is not installed.
    """
    manifest = read_bundle_manifest(folder)
    if manifest.fingerprint != manifest.contract.fingerprint:
        raise CheckpointError(f"{folder / MANIFEST} was altered: its contract is not {manifest.fingerprint!r}")
    if manifest.fingerprint != fingerprint:
        raise ContractMismatchError(manifest.fingerprint, fingerprint)
    for name, expected in manifest.sha256.items():
        path = folder / name
        if Path(name).name != name or not path.is_file() or sha256_of_files([path]) != expected:
            raise CheckpointError(f"{path} is missing or was altered; make it again with `girl train student`")
    d = manifest.contract.encoder.dimension
    means = _load_tensors(folder / MEANS)
    for name in ("prior", "cv_mean"):
        if name not in means or means[name].shape != (d,) or not np.isfinite(means[name]).all():
            raise CheckpointError(f"{folder / MEANS} has no {name!r} of {d} finite floats")
    bundle = Bundle(manifest.contract, means["prior"], means["cv_mean"], None, None, None)
    if STUDENT in manifest.sha256:
        student = VectorMap.checked(_load_tensors(folder / STUDENT), str(folder / STUDENT))
        if student.skip.shape != (d, d):
            raise CheckpointError(f"{folder / STUDENT} maps {student.skip.shape}, but vectors have {d} dimensions")
        bundle = bundle._replace(student=student)
    if NEIGHBOURS_CV in manifest.sha256:
        cvs, generated = _load_vectors(folder / NEIGHBOURS_CV, d), _load_vectors(folder / NEIGHBOURS_GENERATED, d)
        if len(cvs) != len(generated):
            raise CheckpointError(f"{folder} has {len(cvs)} CVs and {len(generated)} generated vectors")
        bundle = bundle._replace(neighbours_cv=cvs, neighbours_generated=generated)
    if NEIGHBOURS_SEEKER in manifest.sha256:
        n_cvs = 0 if bundle.neighbours_cv is None else len(bundle.neighbours_cv)
        bundle = bundle._replace(neighbours_seeker=_load_numbers(folder / NEIGHBOURS_SEEKER, n_cvs))
    return bundle


def read_bundle_manifest(folder: Path) -> BundleManifest:
    """Read the manifest of a bundle.

    Raises:
        CheckpointError: the manifest is missing, damaged, or of another format.
    """
    try:
        return BundleManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"no bundle in {folder} ({error.strerror}); make one with `girl train student`, or copy one to this folder"
        ) from error
    except ValidationError as error:
        raise CheckpointError(
            f"{folder / MANIFEST} is damaged or of another format; make it again with `girl train student`"
        ) from error


def _load_tensors(path: Path) -> dict[str, np.ndarray]:
    safetensors, numpy_files = require("safetensors", "serve"), require("safetensors.numpy", "serve")
    try:
        return dict(numpy_files.load_file(path))
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


def _load_array(path: Path, mmap_mode: Literal["r"] | None = None) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode=mmap_mode, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable array: {error}") from error


def _load_vectors(path: Path, dimension: int) -> np.ndarray:
    vectors = _load_array(path, "r")
    if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != dimension or not len(vectors):
        form = f"{vectors.dtype} of shape {vectors.shape}, wanted float32 (m, {dimension})"
        raise CheckpointError(f"{path} holds {form}; make the bundle again with `girl train student`")
    return vectors


def _load_numbers(path: Path, n: int) -> np.ndarray:
    numbers = _load_array(path)
    if numbers.dtype != np.int32 or numbers.shape != (n,):
        raise CheckpointError(f"{path} holds {numbers.dtype} of shape {numbers.shape}, wanted an int32 for each CV")
    return numbers
