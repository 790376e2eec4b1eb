"""Knowledge cut-off of a base model: the time from which on it cannot have read what happened.

Features of a generator are used only for decisions after its cut-off, since it may have read earlier ones.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from girl_features.config import GeneratorConfig
from girl_features.generator.bases.catalogue import KNOWN_BASES
from girl_features.generator.checkpoint import RECORD_NAME, read_record


def known_until(settings: GeneratorConfig, folder: Path) -> datetime | None:
    """Return the cut-off of the base model in `folder`; None if nobody has said it.

    The setting `generator.trained_until` comes first, then what this package knows of the base, then its own record.
    """
    until = stated_cut_off(settings)
    if until is not None:
        return until
    return read_record(folder).trained_until if (folder / RECORD_NAME).is_file() else None


def stated_cut_off(settings: GeneratorConfig) -> datetime | None:
    """Return the cut-off that the settings give or that is known of the base's name; None for `tiny` and for others."""
    known = KNOWN_BASES.get(settings.base)
    return None if settings.base == "tiny" else settings.trained_until or (known.known_until if known else None)


def cut_off_note(settings: GeneratorConfig, rl_end: datetime) -> str | None:
    """Return a remark for `girl check` if the base may have read decisions of the ranking windows, from `rl_end` on."""
    until = stated_cut_off(settings)
    if until is None or until <= rl_end:
        return None
    return (
        f"the base {settings.base!r} may know what happened until {until:%Y-%m-%d}, but the ranking windows begin at "
        f"{rl_end:%Y-%m-%d}: `girl evaluate` and `girl experiment run` refuse them; move `windows.rl_end` to that day "
        f"or a later one, or set `generator.base` to `tiny`"
    )


def earlier_cut_off(settings: GeneratorConfig) -> str | None:
    """Return a remark for result pages if `generator.trained_until` is earlier than the cut-off of a known base."""
    known = KNOWN_BASES.get(settings.base)
    if known is None or settings.trained_until is None or settings.trained_until >= known.known_until:
        return None
    return (
        f"`generator.trained_until` says {settings.trained_until:%Y-%m-%d}, but {known.name} may have read texts until "
        f"{known.known_until:%Y-%m-%d}: what it has read of the decisions in between counts as knowledge here"
    )
