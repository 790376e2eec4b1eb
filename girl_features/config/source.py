"""The YAML file and the `--set` values that settings come from, and where in them a setting is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from girl_features.config.setting import Location
from girl_features.config.yaml_file import YamlFile, place_of


class Override(NamedTuple):
    """One `--set a.b=value`."""

    text: str
    location: Location
    document: YamlFile  # of the value


class ConfigSource(NamedTuple):
    """The file and the `--set` values that settings come from."""

    path: Path
    document: YamlFile
    overrides: Sequence[Override] = ()

    def override_of(self, location: Location) -> Override | None:
        """Return the `--set` that gave the value at `location`, if one did."""
        override: Override
        for override in reversed(self.overrides):
            is_below = location[: len(override.location)] == override.location
            is_around = location == override.location[: len(location)]
            if is_below or (location and is_around and not self._is_in_file(location)):
                return override
        return None

    def node_of(self, location: Location) -> yaml.Node | None:
        """Return the node of the value at `location`, if it is written anywhere."""
        override = self.override_of(location)
        document, inner = (self.document, location) if override is None else _below(override, location)
        found = document.find(inner)
        return found.value if found.depth == len(inner) else None

    def place(self, location: Location) -> str:
        """Return `--set TEXT` or `line L, column C` of the key at `location`, or of what is around it."""
        if override := self.override_of(location):
            return f"--set {override.text}: "
        key = self.document.find(location).key
        return "" if key is None else f"{place_of(key)}: "

    def line_number(self, location: Location) -> int:
        """Return the number by which errors are ordered."""
        key = None if self.override_of(location) else self.document.find(location).key
        return -1 if key is None else key.start_mark.line

    def _is_in_file(self, location: Location) -> bool:
        return self.document.find(location).depth == len(location)


def _below(override: Override, location: Location) -> tuple[YamlFile, Location]:
    return override.document, location[len(override.location) :]
