"""Errors about wrong settings in plain words: the place, what was found there, and what was wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, datetime
from functools import partial
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from girl_features.config.setting import Location, Setting
from girl_features.config.source import ConfigSource
from girl_features.config.unknown_keys import unknown_key_text
from girl_features.config.written import set_option
from girl_features.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
_MOST_PROBLEMS = 10  # that one message describes
_MOST_SHOWN = 80  # characters of a wrong text


def validated(model: type[Model], raw: Any, source: ConfigSource) -> Model:
    """Return the values `raw` of a file as a pydantic model.

    Raises:
        ConfigError: a key is unknown or missing, or a value is wrong; the message names the first ten and their lines.
    """
    top = Setting.of(model)
    problems: dict[Location, Callable[[], str]] = {
        location: partial(_wrong_value, top, location, raw, source) for location in _misread(top, raw)
    }
    missing: dict[Location, Callable[[], str]] = {}
    made = None
    try:
        made = model.model_validate(raw)
    except ValidationError as error:
        for one in error.errors():
            found = missing if one["type"] == "missing" else problems
            found.setdefault(tuple(one["loc"]), partial(_problem, top, one, raw, source))
    if made is not None and not problems:
        return made
    raise ConfigError(f"{source.path}: {'; '.join(_texts(problems, missing, source))}")


def _texts(
    problems: dict[Location, Callable[[], str]], missing: dict[Location, Callable[[], str]], source: ConfigSource
) -> list[str]:
    """Describe the first problems in the order of the file, then the missing settings, and say how many there are."""
    around = {place[:end] for place in problems for end in range(len(place))}  # a part of it is described instead
    places = sorted((place for place in problems if place not in around), key=source.line_number)
    described = {place: problems[place]() for place in places[:_MOST_PROBLEMS]}
    texts = [source.place(place) + text for place, text in described.items()]
    n = len(places)
    for place, describe in missing.items():
        beside = " ".join(text for known, text in described.items() if known[:-1] == place[:-1])
        if f"mean {place[-1]}?" not in beside:  # else it is there, but misspelt
            n += 1
            texts += [source.place(place) + describe()] if len(texts) < _MOST_PROBLEMS else []
    return texts if n == len(texts) else [*texts, f"and {n - len(texts):,} more problems"]


def _problem(top: Setting, error: Any, raw: Any, source: ConfigSource) -> str:
    """Describe one of pydantic's errors in our words."""
    location: Location = tuple(error["loc"])
    name = _name(location)
    if error["type"] == "extra_forbidden":
        return unknown_key_text(top, location, dotted=source.override_of(location) is not None)
    if error["type"] == "missing":
        setting = top.at(location)
        return f"{name} is missing; it should be {setting.wanted() if setting else 'given'}"
    if error["type"] == "value_error":  # of a validator of our own
        return f"{name}: {error['ctx']['error']}" if name else str(error["ctx"]["error"])
    if location[-1:] == ("[key]",):
        inner = top.at(location[:-2])
        wanted = inner.key().wanted() if inner is not None else "another"
        return f"{_name(location[:-2])}: the name {location[-2]!r} should be {wanted}"
    return _wrong_value(top, location, raw, source)


def _wrong_value(top: Setting, location: Location, raw: Any, source: ConfigSource) -> str:
    setting, value = top.at(location), raw
    for step in location:
        value = value[step]
    found = _found(value, source.node_of(location))
    wanted = setting.wanted() if setting is not None else "another value"
    is_text = setting is not None and setting.is_text
    advice = ""
    if is_text and not isinstance(value, (str, list, dict, type(None))):
        advice = f"; put it in quotes{_option(location, source)}"
    return f"{_name(location) or 'the file'} should be {wanted}; found {found}{advice}"


def _option(location: Location, source: ConfigSource) -> str:
    """Return the option with a quoted text for one whose quotes a shell took off."""
    override, node = source.override_of(location), source.node_of(location)
    if override is None or override.location != location or not isinstance(node, yaml.ScalarNode):
        return ""
    return f" that a shell leaves: `{set_option(_name(location), node.value)}`"


def _found(value: Any, node: yaml.Node | None) -> str:
    """Describe a wrong value; `node` is where it is written, if it is written anywhere."""
    kinds: dict[type, str] = {dict: "a mapping", list: "a list", type(None): "nothing"}
    if type(value) in kinds:
        return kinds[type(value)]
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= _MOST_SHOWN else f"a text of {len(value):,} characters"
    plain = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(node, yaml.ScalarNode) and node.value != plain:
        return f"`{node.value}`, which YAML reads as {'the date ' if isinstance(value, date) else ''}{plain}"
    return plain


def _misread(setting: Setting | None, value: Any, location: Location = ()) -> Iterator[Location]:
    """Yield the places of truth values where numbers are wanted, and of numbers where times are.

    pydantic would take `yes` for 1, and 2024 for a time on 1 January 1970.
    """
    if isinstance(value, (dict, list)):
        for step, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _misread(None if setting is None else setting.inner(step), entry, (*location, step))
    elif setting is not None and setting.type in (int, float):
        if isinstance(value, bool):
            yield location
    elif setting is not None and setting.type is datetime:
        is_digits = isinstance(value, str) and value.strip("+-. ").replace(".", "").isdigit()
        if isinstance(value, (int, float)) or is_digits:
            yield location


def _name(location: Location) -> str:
    """Return `a.b`, and `entry 2 of a.b` for an entry of a list."""
    if location and isinstance(location[-1], int):
        return f"entry {location[-1] + 1} of {_name(location[:-1])}"
    return ".".join(str(step + 1) if isinstance(step, int) else step for step in location)
