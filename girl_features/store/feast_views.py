"""Feast objects for the parts store: one set of views and one FeatureService for each contract.

In a Feast repo of your own, one line in one definitions file adds them:

    globals().update(girl_feature_views("/path/to/workspace/store"))

Two contracts never share a column, because the fingerprint is in the name of every view. Feast's own view versions
would not suffice: they do not change with the contract while the schema stays the same.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float32, Int32, Int64, String, UnixTimestamp

from girl_features import schema
from girl_features.contract import EncoderContract, FeatureContract
from girl_features.errors import ConfigError, StoreError
from girl_features.store.entity_types import check_registered, our_entities
from girl_features.store.parts import PartsStore, rows
from girl_features.store.repo import ViewNames, service_name

_KEY_TYPES = {
    ValueType.STRING: String,
    ValueType.UNKNOWN: String,
    ValueType.INT64: Int64,
    ValueType.INT32: Int32,
}
FOREVER = timedelta(0)  # no time to live: a CV is valid until its seeker writes a new one


def girl_feature_views(
    store_dir: str | os.PathLike[str] | None,
    contracts: Sequence[str] | None = None,
    *,
    job_seeker: Entity | None = None,
    job: Entity | None = None,
) -> dict[str, object]:
    """Return Feast objects by name, for the `globals()` of a definitions file.

    These are the entities `job_seeker` and `job`; for each encoder `cv_vectors_<fp>` and `jd_vectors_<fp>`; and for
    each contract `generated_jd_vectors_<fp>`, the texts in `generated_jds_<fp>`, and the FeatureService `girl_<fp>`
    with the three kinds of vector. `<fp>` is a fingerprint. A store without contracts has the entities alone.

    Args:
        store_dir: folder of the parts store (`workspace/store`); None if there is no store yet.
        contracts: fingerprints to include; all of the store's if left out.
        job_seeker: an entity of your repo to use instead of the entity `job_seeker`; its ids must be those of the CV
            table. Where it has integer ids, the views join on integers, though the parts hold their digits as text.
        job: an entity of your repo to use instead of the entity `job`, likewise.

    Raises:
        UnknownContractError: the store has no contract with one of the fingerprints.
        ConfigError: an entity whose ids are neither strings nor integers.
        StoreError: a damaged contract file, or no such folder. (If an unmounted disk counted as a store without
            contracts, `feast apply` would drop every view.) Or our entity would replace another one of that name in the
            registry of the Feast repo in the working directory, which is where `feast apply` runs.
    """
    given = {"job_seeker": job_seeker, "job": job}
    ours = {name: entity for name, entity in our_entities().items() if given[name] is None}
    check_registered(ours.values())
    objects: dict[str, object] = {**ours}
    job_seeker, job = job_seeker or ours["job_seeker"], job or ours["job"]
    for entity in (job_seeker, job):
        if entity.value_type not in _KEY_TYPES:
            raise ConfigError(
                f"the entity {entity.name!r} has {entity.value_type.name} ids, but ours are strings or integers; give "
                f"an entity with value_type=ValueType.STRING or INT64, or leave the argument out to use ours"
            )
    if store_dir is None:
        return objects
    store = PartsStore(Path(store_dir))
    if not store.root.is_dir():
        raise StoreError(f"no store at {store.root}; check the path, or run `girl materialize` to create one")
    chosen = store.contracts().values() if contracts is None else [store.contract(c) for c in contracts]
    for contract in chosen:
        _add_contract(objects, store, contract, job_seeker, job)
    return objects


def _add_contract(
    objects: dict[str, object], store: PartsStore, contract: FeatureContract, job_seeker: Entity, job: Entity
) -> None:
    names = ViewNames.of(contract)
    encoder = contract.encoder
    encoder_tags = {"encoder": encoder.name, "encoder_contract": encoder.fingerprint}
    if names.cv not in objects:  # two contracts may share an encoder
        for view, name, entity in ((rows.CV_VECTORS, names.cv, job_seeker), (rows.JD_VECTORS, names.jd, job)):
            source = _parts_source(store, view, encoder.fingerprint, entity, encoder_tags)
            objects[name] = _feature_view(name, source, entity, _vector_fields(view, encoder), encoder_tags)
    tags = {
        **encoder_tags,
        "contract": contract.fingerprint,
        "generator": contract.generator,
        "prompt_version": contract.prompt_version,
        "trained_until": contract.trained_until.isoformat(),
    }
    source = _parts_source(store, rows.GENERATED_JDS, contract.fingerprint, job_seeker, tags)
    vector_fields = [*_vector_fields(rows.GENERATED_JDS, encoder), Field(name=schema.N_GENERATED, dtype=Int64)]
    if contract.pipeline_version > 1:  # rows of version 1 do not have it
        vector_fields.append(Field(name=schema.GENERATED_JD_DISPERSION, dtype=Float32))
    vector_fields.append(Field(name=schema.CV_HASH, dtype=String))  # lets a lookup see that a CV has changed
    text_fields = [Field(name=schema.GENERATED_JDS, dtype=Array(String)), Field(name=schema.CV_HASH, dtype=String)]
    objects[names.generated] = _feature_view(names.generated, source, job_seeker, vector_fields, tags)
    objects[names.texts] = _feature_view(names.texts, source, job_seeker, text_fields, tags)
    objects[service_name(contract.fingerprint)] = FeatureService(
        name=service_name(contract.fingerprint),
        features=[entry for name in names[:3] if isinstance(entry := objects[name], FeatureView)],
        description="Vectors of CVs, jobs and generated job descriptions, all of one contract",
        tags=tags,
    )


def _parts_source(store: PartsStore, view: str, fingerprint: str, entity: Entity, tags: dict[str, str]) -> FileSource:
    key = rows.VIEWS[view].key
    return FileSource(
        name=f"girl_{view}_{fingerprint}_parts",
        path=str(store.view_dir(view, fingerprint)),
        file_format=ParquetFormat(),
        timestamp_field=schema.EVENT_TIMESTAMP,
        created_timestamp_column=schema.CREATED_TIMESTAMP,
        field_mapping={} if entity.join_key == key else {key: entity.join_key},
        tags=tags,
    )


def _feature_view(
    name: str, source: FileSource, entity: Entity, fields: list[Field], tags: dict[str, str]
) -> FeatureView:
    key = Field(name=entity.join_key, dtype=_KEY_TYPES[entity.value_type])
    return FeatureView(
        name=name, entities=[entity], schema=[key, *fields], source=source, ttl=FOREVER, online=True, tags=tags
    )


def _vector_fields(view: str, encoder: EncoderContract) -> list[Field]:
    spec = rows.VIEWS[view]
    assert spec.vector is not None and spec.known_at is not None
    # Feast checks the vectors of an online write against vector_length only if vector_index is set too
    vector = Field(
        name=spec.vector,
        dtype=Array(Float32),
        vector_index=True,
        vector_length=encoder.dimension,
        vector_search_metric="cosine",
    )
    return [vector, Field(name=spec.known_at, dtype=UnixTimestamp)]
