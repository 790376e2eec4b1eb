"""What an online request asks for, worked out once for as long as Feast's registry stays the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from feast import utils
from feast.feature_service import FeatureService
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from girl_features.store.online.keys import single_keys
from girl_features.store.online.response import Keys

MAX_PLANS = 100

EntityRows = list[dict[str, Any]] | Mapping[str, Any]


class Part(NamedTuple):
    """One feature view of a request."""

    view: FeatureView
    place: str  # where its rows are
    join_key: str
    features: list[str]
    names: list[str]  # the features' names in the response


class Asked(NamedTuple):
    """The ids of one request."""

    ids: list[Keys]
    key_bytes: dict[str, list[bytes]]  # by join key


class Plan(NamedTuple):
    """What a request asks for, but for its ids."""

    registry: Any  # kept, so that its id stays its own
    registry_read_at: datetime | None
    parts: list[Part]
    id_types: dict[str, ValueType]  # by join key
    feature_types: dict[str, ValueType]
    key_version: int

    def asked(self, entity_rows: EntityRows) -> Asked | None:
        """The ids in `entity_rows`; None where they need Feast's conversions or its complaints."""
        columns = _columnar(entity_rows)
        if columns.keys() != self.id_types.keys():
            return None
        ids: list[Keys] = []
        key_bytes: dict[str, list[bytes]] = {}
        for name, value_type in self.id_types.items():
            values = columns[name]
            own = None
            if isinstance(values, (list, tuple)):
                own = single_keys(name, values, value_type, self.key_version)
            if own is None or len(own) != len(next(iter(key_bytes.values()), own)):
                return None
            key_bytes[name] = own
            ids.append(Keys(name, values, value_type))
        return Asked(ids, key_bytes)


class Plans:
    """Plans by request. Feast's cache of the same is one for a process and emptied when its stores take turns."""

    def __init__(self) -> None:
        self._plans: dict[tuple[Any, ...], Plan] = {}

    def of(
        self,
        config: RepoConfig,
        registry: Any,
        project: str,
        features: list[str] | FeatureService,
        full_feature_names: bool,
    ) -> Plan | None:
        """The plan of a request, or None if Feast's own path must take it."""
        named = features.name if isinstance(features, FeatureService) else tuple(features)
        asked = (id(registry), project, named, full_feature_names)
        read_at = getattr(registry, "cached_registry_proto_created", None)
        plan = self._plans.get(asked)
        if plan is not None and read_at is not None and plan.registry_read_at == read_at and registry.is_cache_valid():
            return plan
        plan = _plan(config, registry, project, features, full_feature_names)
        if plan is not None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[asked] = plan
        return plan


def view_id(config: RepoConfig, view: FeatureView) -> str:
    """Name of a view in its project, with its version where Feast versions views."""
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    return f"{config.project}_{name}"


def _plan(
    config: RepoConfig, registry: Any, project: str, features: list[str] | FeatureService, full_feature_names: bool
) -> Plan | None:
    context = utils._get_cached_request_context(registry, project, features, full_feature_names)
    _, on_demand, _, _, _, grouped, _, request_data, entityless = context
    views = [view for view, _ in grouped]
    if on_demand or request_data or entityless or any(not _has_one_plain_key(view) for view in views):
        return None
    parts, id_types = [], {}
    for view, names in grouped:
        prefix = view.projection.name_to_use()
        out = [f"{prefix}__{name}" if full_feature_names else name for name in names]
        [field], [key] = view.entity_columns, view.join_keys
        id_types[key] = field.dtype.to_value_type()
        parts.append(Part(view, view_id(config, view), key, list(names), out))
    read_at = getattr(registry, "cached_registry_proto_created", None)
    types = OnlineStore._build_feature_types(grouped)
    return Plan(registry, read_at, parts, id_types, types, config.entity_key_serialization_version)


def _has_one_plain_key(view: FeatureView) -> bool:
    return not view.projection.join_key_map and len(view.join_keys) == 1 and view.join_keys[0] != DUMMY_ENTITY_ID


def _columnar(entity_rows: EntityRows) -> dict[str, Sequence[Any]]:
    """Ids by join key; an empty mapping where rows differ in their keys, which Feast then reports."""
    if isinstance(entity_rows, Mapping):
        return dict(entity_rows)
    names = entity_rows[0].keys() if entity_rows else ()
    if any(row.keys() != names for row in entity_rows):
        return {}
    return {name: [row[name] for row in entity_rows] for name in names}
