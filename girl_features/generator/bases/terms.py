"""Terms of base models that are not free of conditions: nobody gets such a model before the terms were accepted."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from girl_features.errors import CheckpointError
from girl_features.generator.bases.catalogue import KnownBase
from girl_features.store.files import write_whole
from girl_features.store.user_files import keep_out_of_git

_RECORD = "terms.json"


def check_terms(known: KnownBase, bases_dir: Path) -> None:
    """Check that the terms of a base were accepted in this workspace.

    Raises:
        CheckpointError: they were not.
    """
    if not is_accepted(known, bases_dir):
        raise CheckpointError(
            f"{known.name} comes under {known.licence}: read them at {known.terms}, and if you agree, run "
            f"`girl bases --accept {known.name}`"
        )


def is_accepted(known: KnownBase, bases_dir: Path) -> bool:
    """True if a base has no terms, or if they were accepted in this workspace."""
    return known.terms is None or known.terms in str(_accepted(bases_dir).get(known.name, ""))


def accept_terms(known: KnownBase, bases_dir: Path) -> None:
    """Record in the workspace that its user accepts the terms of a base."""
    keep_out_of_git(bases_dir.parent)
    accepted = _accepted(bases_dir) | {known.name: f"{known.terms} on {datetime.now(UTC):%Y-%m-%d}"}
    write_whole(bases_dir / _RECORD, json.dumps(accepted, indent=1).encode())


def _accepted(bases_dir: Path) -> dict[str, str]:
    try:
        accepted = json.loads((bases_dir / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return accepted if isinstance(accepted, dict) else {}
