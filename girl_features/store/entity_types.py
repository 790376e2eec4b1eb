"""Entities of the user's Feast repo beside ours: Feast keeps one of two that share a name, and says nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from feast import Entity, FeatureView, ValueType
from feast.types import from_value_type

from girl_features.errors import StoreError
from girl_features.schema import JOB_ID, JOB_SEEKER_ID
from girl_features.store.repo import open_repo, registry_path


def our_entities() -> dict[str, Entity]:
    """Return our two entities by name. Each name is also that of an argument of `girl_feature_views`."""
    keys = {"job_seeker": JOB_SEEKER_ID, "job": JOB_ID}
    return {name: Entity(name=name, join_keys=[key], value_type=ValueType.STRING) for name, key in keys.items()}


def check_entities(entities: Iterable[Entity], views: Iterable[FeatureView]) -> None:
    """Refuse two definitions of one entity that differ, and a view that was made with another one than is kept.

    Raises:
        StoreError: names the entity, its two definitions, and what to do.
    """
    kept: dict[str, Entity] = {}
    for entity in entities:
        first = kept.setdefault(entity.name, entity)
        if not are_alike(first, entity):
            raise StoreError(
                f"two definitions of the entity {entity.name!r} have {_described(first)} and {_described(entity)}; "
                f"keep yours alone{_way_out(entity.name)}"
            )
    for view in views:
        columns = {column.name: column.dtype for column in view.entity_columns}
        for joined in (kept[name] for name in view.entities if name in kept):
            known = joined.value_type != ValueType.UNKNOWN
            expected = from_value_type(joined.value_type) if known else columns.get(joined.join_key)
            if len(columns) != len(view.entities) or columns.get(joined.join_key) != expected:
                found = " and ".join(f"{dtype} ids in {name!r}" for name, dtype in columns.items())
                raise StoreError(
                    f"the view {view.name!r} joins on the entity {joined.name!r} with {found}, but another definition "
                    f"of that entity, with {_described(joined)}, has taken its place; keep yours alone"
                    f"{_way_out(joined.name)}"
                )


def check_registered(ours: Iterable[Entity]) -> None:
    """Refuse to replace an entity that is registered in the Feast repo of the working directory, as of `feast apply`.

    Raises:
        StoreError: the registry has an entity of such a name with other ids or another join key, or it is damaged.
    """
    registered = registered_entities(Path.cwd())
    for entity in ours:
        theirs = registered.get(entity.name, entity)
        if not are_alike(entity, theirs):
            raise StoreError(
                f"the entity {entity.name!r} of the Feast repo {Path.cwd()} has {_described(theirs)}, and "
                f"`feast apply` would replace it by ours, with {_described(entity)}; keep yours"
                f"{_way_out(entity.name)}. If yours is no longer defined, run `feast apply` once without "
                f"girl_feature_views first"
            )


def registered_entities(repo: Path) -> dict[str, Entity]:
    """Return the entities in the registry of a Feast repo by name; none if there is no repo or no registry yet."""
    if not (repo / "feature_store.yaml").is_file():
        return {}
    store = open_repo(repo)
    registry = registry_path(store.config)
    if registry is not None and not registry.is_file():
        return {}
    return {entity.name: entity for entity in store.list_entities()}


def definition_lines(store_dir: Path, repo: Path) -> str:
    """Return the lines of Python that add our views to the Feast repo `repo`, and hand over its entities of our names.

    Raises:
        StoreError: the registry is damaged.
    """
    theirs, ours = registered_entities(repo), our_entities()
    other = [name for name in ours if name in theirs and not are_alike(ours[name], theirs[name])]
    arguments = "".join(f", {name}={name}" for name in other)
    return (
        "from girl_features.store.feast_views import girl_feature_views\n"
        f"globals().update(girl_feature_views({str(store_dir.resolve())!r}{arguments}))"
    )


def are_alike(first: Entity, second: Entity) -> bool:
    """True if two entities have the same join key and type, so that either may stand for the other."""
    return first.join_key == second.join_key and first.value_type == second.value_type


def _described(entity: Entity) -> str:
    return f"{entity.value_type.name} ids in {entity.join_key!r}"


def _way_out(name: str) -> str:
    if name not in our_entities():
        return ""
    return f", and hand it over in the file that defines it: girl_feature_views(STORE_DIR, {name}={name})"
