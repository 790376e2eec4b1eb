"""Load girl.yaml into a GirlConfig, and write a resolved one."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from girl_features.config.messages import validated
from girl_features.config.settings import GirlConfig
from girl_features.config.source import ConfigSource, Override
from girl_features.config.written import set_option
from girl_features.config.yaml_file import parse_yaml, read_yaml
from girl_features.errors import ConfigError

_KINDS: dict[type, str] = {list: "a list", str: "a text"}
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def load_config(path: Path, overrides: list[str] | None = None) -> GirlConfig:
    """Read girl.yaml, apply `a.b=c` overrides, check all values, and make paths absolute.

    Relative paths are taken from the folder of the file. `${NAME}` in a table's `path`, `query` or `database` becomes
    the value of the environment variable NAME.

    Raises:
        ConfigError: the file is absent or not YAML, a key is unknown, a value is wrong, or an environment variable
            is not set; the message names each setting.
    """
    document = read_yaml(path, "`girl init DIR` writes a girl.yaml, or give --config FILE")
    raw = document.values
    if raw is None:
        raise ConfigError(f"{path} is empty: it should hold at least `tables:`; `girl init DIR` writes one to fill in")
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path} should hold a mapping with at least `tables:`, found {_KINDS.get(type(raw), 'a single value')}; "
            f"write each setting as a key, a colon, a space and the value, as in `name: girl`"
        )
    applied = [_apply_override(raw, override) for override in overrides or []]
    return _resolve_paths(validated(GirlConfig, raw, ConfigSource(path, document, applied)), path.parent.resolve())


def write_resolved(config: GirlConfig, path: Path) -> None:
    """Write the config that a run used, with every default filled in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def _apply_override(raw: dict[str, Any], text: str) -> Override:
    """Set one value in `raw`, in place."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes a.b=value, found {text!r}")
    try:
        override = Override(text, tuple(key.split(".")), parse_yaml(value, f"--set {text}"))
    except ConfigError as error:
        raise ConfigError(f"{error}. A shell takes quotes off: for a text, give `{set_option(key, value)}`") from error
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        if node.get(parent) is None:  # absent, or a section whose keys are all commented out
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"--set {text}: {parent!r} holds a value, not a mapping")
    node[last] = override.document.values
    return override


def _resolve_paths(config: GirlConfig, base: Path) -> GirlConfig:
    """Return the same config with its relative paths taken from `base`."""
    settings = config.model_dump()
    generator = settings["generator"]
    folders = {"workspace": settings, "checkpoint": generator, "repo": settings["feast"], "bundle": settings["lookup"]}
    for key, section in folders.items():
        if section[key] is not None:
            section[key] = _absolute(base, section[key], key)
            if section[key].is_file():
                raise ConfigError(f"{key} is {str(section[key])!r}, which is a file; name a folder")
    for section, key in (
        (generator, "base"),
        (generator["tiny"], "embeddings_from"),
        (settings["encoder"], "name"),
        (settings["reward"], "base"),
    ):
        section[key] = _resolve_model(section[key], base)
    settings["reward"]["base"] = settings["reward"]["base"] or None
    for name, table in settings["tables"].items():
        if table["path"] is not None:
            path = _expanded(_expand_variables(table["path"], f"tables.{name}.path"), f"tables.{name}.path")
            table["path"] = os.path.normpath(base / path)  # not resolve(), as the path may be a glob
        if table["query"] is not None:
            table["query"] = _expand_variables(table["query"], f"tables.{name}.query", _in_sql_string)
        if table["database"] is not None:
            setting = f"tables.{name}.database"
            table["database"] = str(_absolute(base, _expand_variables(table["database"], setting), setting))
    return GirlConfig.model_validate(settings)


def _resolve_model(name: str | None, base: Path) -> str | None:
    """Return the absolute path of a model that is a local folder or GGUF file; leave any other name as it is."""
    if not name or name == "tiny":
        return name
    folder = _absolute(base, name, "a model")
    is_local = folder.is_dir() or (name.endswith(".gguf") and folder.is_file())
    return str(folder) if is_local else name


def _absolute(base: Path, path: Path | str, setting: str) -> Path:
    """Return the path from the folder `base`, with its links followed."""
    return (base / _expanded(path, setting)).resolve()


def _expanded(path: Path | str, setting: str) -> Path:
    """Return the path with `~` replaced by the home folder."""
    try:
        if "\0" in str(path):
            raise RuntimeError("a path cannot hold the character NUL")
        return Path(path).expanduser()
    except RuntimeError as error:  # no such user
        raise ConfigError(f"{setting} is {str(path)!r}: {error}; write the whole path") from error


def _in_sql_string(value: str) -> str:
    """Return the value as it stands between the quotes of a string in SQL."""
    return value.replace("'", "''")


def _expand_variables(text: str, setting: str, quoted: Callable[[str], str] = str) -> str:
    """Replace each `${NAME}` in `text` by the value of the environment variable NAME, as `quoted` returns it."""
    for name in _VARIABLE.findall(text):
        if not os.environ.get(name):
            raise ConfigError(
                f"{setting} is {text!r}, but the environment variable {name} is not set; "
                f"set it, or write its value in the place of ${{{name}}}"
            )
    return _VARIABLE.sub(lambda match: quoted(os.environ[match[1]]), text)
