"""Read a YAML file with the place of each key, and refuse what YAML reads otherwise than it looks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from girl_features.errors import ConfigError

_ODD_NUMBER = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")  # octal, or to the base 60
MAX_VALUES = 100_000  # of a file, with each alias counted as all that it repeats
_ADVICE = "put texts that hold any of : # { } [ ] , & * ! | > % @ ` in quotes, and indent with spaces"


class Found(NamedTuple):
    """The part of a document that lies nearest to a location."""

    depth: int  # number of steps of the location that the document has
    key: yaml.Node | None  # key or list entry of the last of these steps; None for the whole document
    value: yaml.Node | None


class YamlFile(NamedTuple):
    """The values of a YAML text, and the nodes that say where they are."""

    values: Any
    root: yaml.Node | None  # None if the text holds nothing

    def find(self, location: tuple[int | str, ...]) -> Found:
        """Return the node at `location`, or that of the nearest part around it which the document has."""
        key, value = None, self.root
        for depth, step in enumerate(location):
            inner: tuple[yaml.Node, yaml.Node] | None = None
            if isinstance(value, yaml.MappingNode):
                inner = next((pair for pair in value.value if pair[0].value == step), None)
            elif isinstance(value, yaml.SequenceNode) and isinstance(step, int) and step < len(value.value):
                inner = (value.value[step], value.value[step])
            if inner is None:
                return Found(depth, key, value)
            key, value = inner
        return Found(len(location), key, value)


def read_yaml(path: Path, if_absent: str = "name a file that is there") -> YamlFile:
    """Return the values of a YAML file. `if_absent` is the advice if there is none.

    Raises:
        ConfigError: the file cannot be read, is not text in UTF-8 or not YAML, names a key twice, or holds a key, date
            or number that YAML reads otherwise than it looks. The message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not valid YAML: byte {error.start + 1:,} is not UTF-8 text; name a text file, saved as UTF-8"
        ) from error
    except FileNotFoundError as error:
        raise ConfigError(f"no config at {str(path)!r}; {if_absent}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{str(path)!r} is a folder; name a file in it") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> YamlFile:
    """Return the values of a YAML text; errors are those of `read_yaml`, and begin with `name`."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return YamlFile(None, None)
        for problem in _misread(root, loader, {}):
            raise ConfigError(f"{name}, {problem}")
        if _n_values(root, {}) > MAX_VALUES:
            raise ConfigError(
                f"{name}: with what its aliases (*name) repeat it holds more than {MAX_VALUES:,} values; "
                f"write it with fewer aliases"
            )
        return YamlFile(loader.construct_document(root), root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f", {_place(mark)}"
        what = "a tab; YAML takes only spaces there" if r"'\t'" in str(error.problem) else error.problem
        raise ConfigError(f"{name}{place}: this is not valid YAML ({what}); {_ADVICE}") from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ConfigError(
            f"{name}, line {line}: this is not valid YAML: character number {error.position + 1:,} is a control "
            f"character; name a text file"
        ) from error
    except RecursionError as error:
        raise ConfigError(f"{name}: this is not valid YAML: it is nested too deeply") from error


def place_of(node: yaml.Node) -> str:
    """Return `line L, column C` of a node, counted from 1."""
    return _place(node.start_mark)


def _place(mark: yaml.Mark) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _misread(node: yaml.Node, loader: yaml.SafeLoader, checked: dict[int, bool]) -> Iterator[str]:
    """Yield what is wrong in a node: `line L, column C: problem`. `checked` holds True for the nodes around it."""
    if checked.get(id(node)):
        yield f"{place_of(node)}: an alias (*name) stands inside what it is an alias of"
    if id(node) in checked:
        return
    checked[id(node)] = True
    if isinstance(node, yaml.ScalarNode):
        yield from _misread_scalar(node, loader)
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _misread(entry, loader, checked)
    else:
        seen: dict[str, yaml.Node] = {}
        for key, value in node.value:
            yield from _misread_key(key, seen)
            yield from _misread(value, loader, checked)
    checked[id(node)] = False


def _n_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of nodes at and below `node`. `known` holds those of the nodes that were counted before."""
    if id(node) not in known:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        inner = node.value if isinstance(node, yaml.SequenceNode) else [one for pair in pairs for one in pair]
        known[id(node)] = 1 + sum(_n_values(one, known) for one in inner)
    return known[id(node)]


def _misread_key(key: yaml.Node, seen: dict[str, yaml.Node]) -> Iterator[str]:
    if key.tag == "tag:yaml.org,2002:merge":
        return
    if not isinstance(key, yaml.ScalarNode):
        yield f"{place_of(key)}: a key must be a text, found a list or mapping"
    elif key.tag != "tag:yaml.org,2002:str":
        kind = key.tag.rpartition(":")[2]
        read_as = _KINDS.get(kind, kind)
        yield f"{place_of(key)}: YAML reads the key `{key.value}` as {read_as}; put it in quotes: {key.value!r}"
    elif key.value in seen:
        first = seen[key.value].start_mark.line + 1
        yield f"{place_of(key)}: the key {key.value} stands here a second time, after line {first}; keep one of them"
    else:
        seen[key.value] = key


_KINDS = {"bool": "true or false", "int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date"}


def _misread_scalar(node: yaml.ScalarNode, loader: yaml.SafeLoader) -> Iterator[str]:
    try:
        value = loader.construct_object(node)
    except ValueError as error:  # as 2024-13-45, which has the form of a date
        problem = f"`{node.value}` looks like a date or number, but is none ({error})"
        yield f"{place_of(node)}: {problem}; correct it, or put it in quotes"
        return
    if isinstance(value, (int, float)) and _ODD_NUMBER.fullmatch(node.value):
        yield f"{place_of(node)}: YAML reads `{node.value}` as {value}; write {value}, or put it in quotes"
