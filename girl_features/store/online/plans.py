"""Plans of online requests: views, features and types, resolved once while Feast's registry stays the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from feast import utils
from feast.feature_service import FeatureService
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.online_stores.helpers import compute_versioned_name
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from girl_features.store.online.packed import single_keys
from girl_features.store.online.request_ids import request_ids
from girl_features.store.online.response import IdColumn

MAX_PLANS = 100
Features = list[str] | FeatureService


class RequestedView(NamedTuple):
    """One feature view of a request."""

    view: FeatureView
    stored_view: str  # its `view_id`
    join_key: str
    features: list[str]
    names: list[str]  # of the features in the response


class RequestPlan(NamedTuple):
    """Everything that a request asks for, except its ids."""

    registry: Any  # kept alive, so that no other registry gets its id()
    registry_read_at: datetime | None
    views: list[RequestedView]
    id_types: dict[str, ValueType]  # by join key
    feature_types: dict[str, ValueType]
    key_version: int
    is_for_feast: bool  # only Feast's own code can answer it; the ids are checked here all the same

    def ids_in(self, entity_rows: list[dict[str, Any]] | Mapping[str, Any]) -> list[IdColumn] | None:
        """Return the ids in `entity_rows`; None if Feast has to answer, or to report what is wrong with the request.

        Raises:
            DataError: an id is missing, or not exactly one of the ids that the store can hold.
        """
        values_by_key = _by_join_key(entity_rows)
        is_ours = not self.is_for_feast and values_by_key.keys() == self.id_types.keys()
        columns: list[IdColumn] = []
        for name, value_type in self.id_types.items():
            values: Any = values_by_key.get(name)
            if not isinstance(values, (list, tuple)) and hasattr(values, "tolist"):  # an array, or a pandas Series
                values = values.tolist()
            if not isinstance(values, (list, tuple)):
                is_ours = False
                continue
            column = self._id_column(name, values, value_type)
            is_ours = is_ours and bool(column) and len(values) == len(columns[0].keys if columns else values)
            columns += [] if column is None else [column]
        return columns if is_ours else None

    def _id_column(self, name: str, values: Sequence[Any], value_type: ValueType) -> IdColumn | None:
        with suppress(OverflowError, UnicodeEncodeError):  # `request_ids` says which id it was
            keys = single_keys(name, values, value_type, self.key_version)
            if keys is not None:
                return IdColumn(name, values, value_type, keys)
        if any(isinstance(value, ValueProto) for value in values):
            return None
        values = request_ids(name, values, value_type)
        keys = single_keys(name, values, value_type, self.key_version)
        return None if keys is None else IdColumn(name, values, value_type, keys)


class RequestPlanCache:
    """Plans by request. Feast has one such cache for a process, and empties it when two of its stores take turns."""

    def __init__(self) -> None:
        self._plans: dict[tuple[Any, ...], RequestPlan] = {}

    def plan_for(
        self, config: RepoConfig, registry: Any, project: str, features: Features, full_feature_names: bool
    ) -> RequestPlan:
        """Return the plan of a request."""
        feature_names = features.name if isinstance(features, FeatureService) else tuple(features)
        request = (id(registry), project, feature_names, full_feature_names)
        read_at = getattr(registry, "cached_registry_proto_created", None)
        plan = self._plans.get(request)
        if plan is not None and read_at is not None and plan.registry_read_at == read_at and registry.is_cache_valid():
            return plan
        plan = _make_plan(config, registry, project, features, full_feature_names)
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
) -> RequestPlan:
    context = utils._get_cached_request_context(registry, project, features, full_feature_names)
    _, on_demand, _, _, _, grouped, _, request_data, entityless = context
    is_for_feast = bool(on_demand or request_data or entityless)
    views: list[RequestedView] = []
    id_types: dict[str, ValueType] = {}
    for view, names in grouped:
        renamed, keys = view.projection.join_key_map, [key for key in view.join_keys if key != DUMMY_ENTITY_ID]
        is_for_feast = is_for_feast or bool(renamed) or len(view.join_keys) != 1 or not keys
        id_types |= {
            renamed.get(f.name, f.name): f.dtype.to_value_type() for f in view.entity_columns if f.name in keys
        }
        prefix = view.projection.name_to_use()
        response_names = [f"{prefix}__{name}" if full_feature_names else name for name in names]
        views += [RequestedView(view, view_id(config, view), key, list(names), response_names) for key in keys[:1]]
    read_at = getattr(registry, "cached_registry_proto_created", None)
    types = OnlineStore._build_feature_types(grouped)
    key_version = config.entity_key_serialization_version
    return RequestPlan(registry, read_at, views, id_types, types, key_version, is_for_feast)


def _by_join_key(entity_rows: list[dict[str, Any]] | Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """Return the ids by join key; empty if the rows differ in their keys, which Feast then reports."""
    if isinstance(entity_rows, Mapping):
        return dict(entity_rows)
    names = entity_rows[0].keys() if entity_rows else ()
    if any(row.keys() != names for row in entity_rows):
        return {}
    return {name: [row[name] for row in entity_rows] for name in names}
