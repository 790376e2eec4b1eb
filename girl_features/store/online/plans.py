"""Plans of online requests: views, features and types, resolved once while Feast's registry stays the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from feast import utils
from feast.feature_service import FeatureService
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.Value_pb2 import RepeatedValue
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from girl_features.errors import StoreError
from girl_features.store.entity_ids import exact_ids
from girl_features.store.online.packed import single_keys
from girl_features.store.online.response import IdColumn

MAX_PLANS = 100
Features = list[str] | FeatureService
EntityRows = list[dict[str, Any]] | Mapping[str, Any]
IdTypes = dict[str, dict[ValueType, str]]  # join key -> types of the ids, each with a view that has them


class RequestedView(NamedTuple):
    """One feature view of a request."""

    view: FeatureView
    stored_view: str  # its `view_id`
    join_key: str
    key_type: ValueType
    features: list[str]
    names: list[str]  # of the features in the response


class RequestPlan(NamedTuple):
    """Everything that a request asks for, except its ids."""

    registry: Any  # kept alive, so that no other registry gets its id()
    registry_read_at: datetime | None
    views: list[RequestedView]
    id_types: IdTypes
    feature_types: dict[str, ValueType]
    key_version: int

    def ids_in(self, entity_rows: EntityRows) -> list[IdColumn] | None:
        """Return the ids in `entity_rows`; None if Feast has to convert them, or to report what is wrong with them.

        Raises:
            DataError: an id is missing, or cannot be of the type that the entity declares.
        """
        values_by_key = _by_join_key(entity_rows)
        if values_by_key.keys() != self.id_types.keys():
            return None
        columns: list[IdColumn] = []
        for name, value_types in self.id_types.items():
            values: Sequence[Any] = values_by_key[name]
            if isinstance(values, (str, bytes, RepeatedValue)):
                return None
            keys = {}
            for value_type in value_types:
                found = single_keys(name, values, value_type, self.key_version)
                if found is None:
                    values = exact_ids(repr(name), values, value_type)
                    found = single_keys(name, values, value_type, self.key_version)
                if found is None:
                    return None
                keys[value_type] = found
            if len(values) != len(columns[0].values if columns else values):
                return None
            columns.append(IdColumn(name, values, value_type, keys))
        return columns


class RequestPlanCache:
    """Plans by request. Feast has one such cache for a process, and empties it when two of its stores take turns."""

    def __init__(self) -> None:
        self._plans: dict[tuple[Any, ...], RequestPlan] = {}

    def plan_for(
        self, config: RepoConfig, registry: Any, project: str, features: Features, full_feature_names: bool
    ) -> RequestPlan | None:
        """Return the plan of a request; None if only Feast's own code can answer it."""
        feature_names = features.name if isinstance(features, FeatureService) else tuple(features)
        request = (id(registry), project, feature_names, full_feature_names)
        read_at = getattr(registry, "cached_registry_proto_created", None)
        plan = self._plans.get(request)
        if plan is not None and read_at is not None and plan.registry_read_at == read_at and registry.is_cache_valid():
            return plan
        plan = _make_plan(config, registry, project, features, full_feature_names)
        if plan is not None:
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[request] = plan
        return plan


def view_id(config: RepoConfig, view: FeatureView) -> str:
    """Return the name under which rows of a view are stored: project, view, and version if Feast versions views."""
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    return f"{config.project}_{name}"


def _make_plan(
    config: RepoConfig, registry: Any, project: str, features: Features, full_feature_names: bool
) -> RequestPlan | None:
    context = utils._get_cached_request_context(registry, project, features, full_feature_names)
    _, on_demand, _, _, _, grouped, _, request_data, entityless = context
    if on_demand or request_data or entityless:
        return None
    views: list[RequestedView] = []
    id_types: IdTypes = {}
    for view, names in grouped:
        if view.projection.join_key_map or len(view.join_keys) != 1 or view.join_keys[0] == DUMMY_ENTITY_ID:
            return None
        prefix = view.projection.name_to_use()
        response_names = [f"{prefix}__{name}" if full_feature_names else name for name in names]
        [field], [key] = view.entity_columns, view.join_keys
        key_type = field.dtype.to_value_type()
        id_types.setdefault(key, {})[key_type] = view.name
        views.append(RequestedView(view, view_id(config, view), key, key_type, list(names), response_names))
    read_at = getattr(registry, "cached_registry_proto_created", None)
    types = OnlineStore._build_feature_types(grouped)
    return RequestPlan(registry, read_at, views, id_types, types, config.entity_key_serialization_version)


def with_exact_ids(
    registry: Any, project: str, features: Features, full_feature_names: bool, entity_rows: EntityRows
) -> EntityRows:
    """Return `entity_rows` for Feast's own code, which would cut 5.7 to 5 and take True for 1.

    Raises:
        DataError: an id is missing, or cannot be of the type that the entity declares.
        StoreError: two views join on one id column by ids of two types, of which Feast would take one for both.
    """
    grouped = utils._get_cached_request_context(registry, project, features, full_feature_names)[5]
    id_types: IdTypes = {}
    for view, _ in grouped:
        for field in view.entity_columns:
            name = view.projection.join_key_map.get(field.name, field.name)
            id_types.setdefault(name, {})[field.dtype.to_value_type()] = view.name
    for name, value_types in id_types.items():
        if len(value_types) > 1:
            (one, view), (other, other_view), *_ = value_types.items()
            raise StoreError(
                f"{view!r} joins on {name!r} by {one.name} ids and {other_view!r} by {other.name} ids; ask for them "
                f"in two requests, or give your entity to `girl_feature_views`, so that both have its type"
            )
    only = {name: value_type for name, [value_type] in id_types.items() if name != DUMMY_ENTITY_ID}
    if isinstance(entity_rows, Mapping):
        converted = {
            name: exact_ids(repr(name), values, only[name])
            for name, values in entity_rows.items()
            if name in only and not isinstance(values, RepeatedValue)
        }
        return {**entity_rows, **converted}
    if any(row.keys() != entity_rows[0].keys() for row in entity_rows):
        return entity_rows  # Feast reports it
    columns = {
        name: exact_ids(repr(name), [row[name] for row in entity_rows], value_type)
        for name, value_type in only.items()
        if entity_rows and name in entity_rows[0]
    }
    return [{**row, **{name: ids[i] for name, ids in columns.items()}} for i, row in enumerate(entity_rows)]


def _by_join_key(entity_rows: EntityRows) -> dict[str, Sequence[Any]]:
    """Return the ids by join key; empty if the rows differ in their keys, which Feast then reports."""
    if isinstance(entity_rows, Mapping):
        return dict(entity_rows)
    names = entity_rows[0].keys() if entity_rows else ()
    if any(row.keys() != names for row in entity_rows):
        return {}
    return {name: [row[name] for row in entity_rows] for name in names}
