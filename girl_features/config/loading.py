"""Load girl.yaml into a GirlConfig, and write a resolved one."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from girl_features.config.settings import GirlConfig
from girl_features.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
_VARIABLE = re.compile(r"\$\{(\w+)\}")


def load_config(path: Path, overrides: list[str] | None = None) -> GirlConfig:
    """Read girl.yaml, apply `a.b=c` overrides, check all values, and make paths absolute.

    Relative paths are taken from the folder of the file. `${NAME}` in a table's `path` or `database` becomes the
    value of the environment variable NAME.

    Raises:
        ConfigError: the file is absent or not YAML, a key is unknown, a value is wrong, or an environment variable
            is not set; the message names each setting.
    """
    if not path.is_file():
        raise ConfigError(f"no config at {str(path)!r}; `girl init DIR` writes one, or give --config FILE")
    raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} should hold a mapping with at least `tables:`, found {type(raw).__name__}")
    for override in overrides or []:
        _apply_override(raw, override)
    return _resolve_paths(validated(GirlConfig, raw, path), path.parent.resolve())


def read_yaml(path: Path) -> Any:
    """Return the values of a YAML file; raise ConfigError if it is not YAML."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error


def validated(model: type[Model], raw: Any, path: Path) -> Model:
    """Return the values of the file `path` as a pydantic model; the ConfigError names each wrong setting."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {places}") from error


def write_resolved(config: GirlConfig, path: Path) -> None:
    """Write the config that a run used, with every default filled in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), encoding="utf-8")


def _apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one value in `raw`, in place."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set takes a.b=value, found {override!r}")
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"--set {override}: {parent!r} holds a value, not a mapping")
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error


def _resolve_paths(config: GirlConfig, base: Path) -> GirlConfig:
    """Return the same config with its relative paths taken from `base`."""
    settings = config.model_dump()
    generator = settings["generator"]
    folders = {"workspace": settings, "checkpoint": generator, "repo": settings["feast"], "bundle": settings["lookup"]}
    for key, section in folders.items():
        if section[key] is not None:
            section[key] = (base / section[key].expanduser()).resolve()
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
            path = Path(_expand_variables(table["path"], f"tables.{name}.path")).expanduser()
            table["path"] = os.path.normpath(base / path)  # not resolve(), as the path may be a glob
        if table["database"] is not None:
            database = Path(_expand_variables(table["database"], f"tables.{name}.database")).expanduser()
            table["database"] = str((base / database).resolve())
    return GirlConfig.model_validate(settings)


def _resolve_model(name: str | None, base: Path) -> str | None:
    """Return the absolute path of a model that is a local folder; leave the name of any other model as it is."""
    if not name or name == "tiny":
        return name
    folder = base / Path(name).expanduser()
    return str(folder.resolve()) if folder.is_dir() else name


def _expand_variables(text: str, setting: str) -> str:
    """Replace each `${NAME}` in `text` by the value of the environment variable NAME."""
    for name in _VARIABLE.findall(text):
        if not os.environ.get(name):
            raise ConfigError(
                f"{setting} is {text!r}, but the environment variable {name} is not set; "
                f"set it, or write the path without ${{{name}}}"
            )
    return _VARIABLE.sub(lambda match: os.environ[match[1]], text)
