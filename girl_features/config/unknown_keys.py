"""Advice on an unknown key: the key that was meant, the section that it belongs to, or the keys that there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from functools import cache

from girl_features.config.setting import Location, Setting

# difflib's ratios of two keys, tried in this order: in one section, in two, in one
_NEAR, _NEAR_ELSEWHERE, _FAR = 0.8, 0.9, 0.6


def unknown_key_text(top: Setting, location: Location, *, dotted: bool) -> str:
    """Name the known key that an unknown one was meant to be, or its right place, or the keys that there are.

    Args:
        top: setting of the whole file.
        location: of the unknown key.
        dotted: name keys with their sections, as `--set` does.
    """
    *parents, key = map(str, location)
    around = top.at(location[:-1])
    assert around is not None and around.section is not None, "only sections refuse keys"
    name, known, homes = ".".join([*parents, key]), list(around.section.model_fields), _all_homes(top)
    near = _nearest(key, known, _NEAR)
    home = f"{key} belongs {_under(homes[key])}" if key in homes else ""
    if home and not near:
        return f"{name}: {home}"
    if not near and (elsewhere := _nearest(key, homes, _NEAR_ELSEWHERE)):
        return f"{name}: did you mean {elsewhere[0]}? It belongs {_under(homes[elsewhere[0]])}"
    if near := near or _nearest(key, known, _FAR):
        meant = " or ".join(".".join([*parents, one]) if dotted else one for one in near)
        return f"{name}: did you mean {meant}?" + (f" Or, as {home}, move it there" if home else "")
    return f"{name}: there is no such key; the keys {_under([tuple(parents)])} are {', '.join(known)}"


def _nearest(key: str, known: Iterable[str], cutoff: float) -> list[str]:
    """Return the known key that is most like `key`; several if they are alike. Swapped letters count as no change."""
    key, names = key.casefold(), list(known)
    if swapped := [name for name in names if sorted(name) == sorted(key)]:
        return swapped
    near = get_close_matches(key, names, cutoff=cutoff)
    ratios = [SequenceMatcher(None, name, key).ratio() for name in near]
    return [name for name, ratio in zip(near, ratios, strict=True) if ratio == ratios[0]]


def _under(homes: list[tuple[str, ...]]) -> str:
    names = [f"under `{'.'.join(home)}`" if home else "at the top level" for home in homes]
    return " or ".join(names)


@cache
def _all_homes(top: Setting) -> dict[str, list[tuple[str, ...]]]:
    return _homes(top)


def _homes(setting: Setting, home: tuple[str, ...] = ()) -> dict[str, list[tuple[str, ...]]]:
    """Return every known key and the sections that have it."""
    homes: dict[str, list[tuple[str, ...]]] = {}
    section = setting.section
    for key in section.model_fields if section is not None else ():
        homes.setdefault(key, []).append(home)
        inner = setting.inner(key)
        assert inner is not None
        for step in ("<name>", 0):  # of a mapping of sections, or a list of them
            if inner.section is None and (entry := inner.inner(step)) is not None and entry.section is not None:
                inner = entry
        for name, places in _homes(inner, (*home, key)).items():
            homes.setdefault(name, []).extend(places)
    return homes
