"""One setting of a config model: its type and limits, and a description of the values that are right there."""

from __future__ import annotations

import types
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel

Location: TypeAlias = tuple[int | str, ...]  # names of sections and keys, and numbers of list entries
_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}
_TIME = "a date, or a date and time, such as 2024-01-31 or 2024-01-31 12:00:00"
_SIDES = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))
_NAME_TEXTS = {"_": "small letters, digits and underscores", "-": "small letters, digits and hyphens"}


class Setting(NamedTuple):
    """The type of one setting, and its limits."""

    type: Any  # without None and without Annotated
    limits: tuple[Any, ...] = ()  # pydantic's metadata
    is_optional: bool = False

    @classmethod
    def of(cls, annotation: Any, limits: Sequence[Any] = ()) -> Setting:
        """Return the setting of an annotation."""
        if get_origin(annotation) is Annotated:
            inner, *more = get_args(annotation)
            more = [part for one in more for part in getattr(one, "metadata", [one])]
            return cls.of(inner, [*limits, *more])
        if get_origin(annotation) in (Union, types.UnionType):
            parts = [part for part in get_args(annotation) if part is not type(None)]
            if len(parts) == 1:
                return cls.of(parts[0], limits)._replace(is_optional=True)
        return cls(annotation, tuple(limits))

    @property
    def section(self) -> type[BaseModel] | None:
        """The model of a section; None if the setting is a value."""
        return self.type if isinstance(self.type, type) and issubclass(self.type, BaseModel) else None

    @property
    def is_text(self) -> bool:
        """True if a text is wanted."""
        return self.type in (str, Path) or get_origin(self.type) is Literal

    def key(self) -> Setting:
        """Return the setting of the names in a mapping."""
        return Setting.of(get_args(self.type)[0])

    def inner(self, step: int | str) -> Setting | None:
        """Return the setting one step further down, or None if there is none."""
        if self.section is not None:
            field = self.section.model_fields.get(str(step))
            return None if field is None else Setting.of(field.annotation, field.metadata)
        if get_origin(self.type) is dict:
            return Setting.of(get_args(self.type)[1])
        if get_origin(self.type) is tuple and isinstance(step, int):
            return Setting.of(get_args(self.type)[0])  # all entries of our lists are of one type
        return None

    def at(self, location: Location) -> Setting | None:
        """Return the setting at `location` below this one, or None if there is none."""
        found: Setting | None = self
        for step in location:
            found = None if found is None else found.inner(step)
        return found

    def wanted(self) -> str:
        """Describe the values that are right here."""
        text = self._kind()
        if bounds := [f"{word} {value}" for side, word in _SIDES if (value := self._limit(side)) is not None]:
            text += f", {' and '.join(bounds)}"
        if (pattern := self._limit("pattern")) is not None:
            characters = _NAME_TEXTS["-" if "-]" in pattern else "_"]
            text += f" of up to 40 {characters}, which begins with a letter"
        if (length := self._limit("max_length")) is not None:
            text += f" of up to {length} characters"
        return text + (", or null" if self.is_optional else "")

    def _kind(self) -> str:
        if self.section is not None:
            return f"a mapping with keys of: {', '.join(self.section.model_fields)}"
        if get_origin(self.type) is Literal:
            return f"one of {', '.join(map(str, get_args(self.type)))}"
        if get_origin(self.type) is dict:
            return "a mapping"
        if get_origin(self.type) is tuple:
            arguments = get_args(self.type)
            number = "" if arguments[-1] is Ellipsis else f" of {len(arguments)}"
            return f"a list{number}, with each entry {Setting.of(arguments[0]).wanted()}"
        return _TIME if self.type is datetime else _TYPES.get(self.type, "another value")

    def _limit(self, name: str) -> Any:
        return next((value for one in self.limits if (value := getattr(one, name, None)) is not None), None)
