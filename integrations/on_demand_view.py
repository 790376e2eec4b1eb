"""An on-demand feature view, so that plain Feast (also `feast serve`) answers with the tiers below the store's.

In the definitions file of a Feast repo:

    views = girl_feature_views("/path/to/workspace/store")
    globals().update(views)
    globals().update(cold_start_view(views, "0123456789ab", "/path/to/workspace/students/0123456789ab"))

Then request `girl_cold_start_0123456789ab:girl_vector` and `...:girl_tier`, with the CV as `cv` (null or an empty text
if there is none). Feast has no deadline: a service that has one should use a FeatureClient.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from feast import FeatureView, Field, RequestSource
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.types import Array, Float32, Int64, String

from girl_features.contract import text_hash
from girl_features.errors import UnknownContractError
from girl_features.input.text_cleaning import clean_cv
from girl_features.lookup.bundle import read_bundle, read_bundle_manifest
from girl_features.lookup.cold_start import ColdStart
from girl_features.lookup.host_encoder import GRAPH, HostEncoder
from girl_features.schema import (
    CV,
    CV_HASH,
    CV_KNOWN_AT,
    CV_VECTOR,
    GENERATED_JD_KNOWN_AT,
    GENERATED_JD_VECTOR,
    GIRL_TIER,
    GIRL_VECTOR,
    Tier,
)

ENCODING_SECONDS = 10.0  # for all CVs of one request
N_NEIGHBOURS = 10
_LOOKED_UP = (GENERATED_JD_VECTOR, GENERATED_JD_KNOWN_AT, CV_HASH, CV_VECTOR, CV_KNOWN_AT)
# Feast stores a view's function as source text in its registry and runs that text in the process that serves it, so
# the function imports everything it needs.
_SOURCE = """\
def {name}(inputs):
    from girl_features.integrations.on_demand_view import answer

    return answer(inputs, {contract!r}, {bundle!r}, {trained_until!r}{options})
"""


def cold_start_view(
    views: Mapping[str, object], contract: str, bundle: str | Path, *, strip_html: bool = False
) -> dict[str, object]:
    """Make the on-demand view of one contract, by its name, for the `globals()` of a definitions file.

    Args:
        views: result of `girl_feature_views`.
        contract: whole fingerprint.
        bundle: folder that `girl train student` wrote, present on every host that serves this repo; read on first
            use. Its encoder encodes the CVs of requests; without an encoder, only the store's CV vectors are used.
        strip_html: make CVs of requests plain, as `tables.job_seekers.strip_html` does with those of the table.

    Raises:
        UnknownContractError: `views` has no view of this contract.
    """
    generated = views.get(f"generated_jd_vectors_{contract}")
    if not isinstance(generated, FeatureView):
        known = [name.removeprefix("generated_jd_vectors_") for name in views if name.startswith("generated_jd_v")]
        raise UnknownContractError(contract, known, "the views given")
    cv = views[f"cv_vectors_{generated.tags['encoder_contract']}"]
    assert isinstance(cv, FeatureView)
    name = f"girl_cold_start_{contract}"
    source = _SOURCE.format(
        name=name,
        contract=contract,
        bundle=str(Path(bundle).expanduser().absolute()),
        trained_until=generated.tags["trained_until"],
        options=", strip_html=True" if strip_html else "",
    )
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    view = OnDemandFeatureView(
        name=name,
        sources=[
            generated[[GENERATED_JD_VECTOR, GENERATED_JD_KNOWN_AT, CV_HASH]],
            cv[[CV_VECTOR, CV_KNOWN_AT]],
            RequestSource(name=f"{name}_request", schema=[Field(name=CV, dtype=String)]),
        ],
        schema=[Field(name=GIRL_VECTOR, dtype=Array(Float32)), Field(name=GIRL_TIER, dtype=Int64)],
        mode="python",
        udf=namespace[name],
        udf_string=source,
        description="Generated-JD vectors or their replacements, and the tier of each",
        tags=dict(generated.tags),
    )
    return {name: view}


def answer(
    inputs: Mapping[str, Sequence[Any]], contract: str, bundle: str, trained_until: str, strip_html: bool = False
) -> dict[str, list[Any]]:
    """Return `girl_vector` and `girl_tier` (a number, 0 is best) of n seekers.

    `inputs` has columns of n values: the features that Feast looked up, and the CVs of the request. `trained_until` is
    the ISO time at which the generator's training data ends. For `strip_html`, see `cold_start_view`.
    """
    generated, generated_at, hashes, cv_vectors, cv_at = (inputs[name] for name in _LOOKED_UP)
    texts = [clean_cv(text, strip_html) if isinstance(text, str) else "" for text in inputs[CV]]
    training_end = datetime.fromisoformat(trained_until)
    is_stale = [_is_stale(*row, training_end) for row in zip(texts, hashes, generated_at, cv_at, strict=True)]
    vectors, tiers = list(generated), [int(Tier.STALE if stale else Tier.GENERATED) for stale in is_stale]
    missing = [i for i, vector in enumerate(generated) if vector is None]
    if missing:
        cold = _cold_start(contract, Path(bundle))
        lower = _lower_tiers(cold, [texts[i] for i in missing], [cv_vectors[i] for i in missing])
        for i, vector, tier in zip(missing, *lower, strict=True):
            vectors[i], tiers[i] = vector.tolist(), int(tier)
    return {GIRL_VECTOR: vectors, GIRL_TIER: tiers}


def _lower_tiers(cold: ColdStart, texts: list[str], stored: list[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return (n, d) vectors and (n,) tiers from CV texts (or empty) and stored CV vectors (or None)."""
    until = time.monotonic() + ENCODING_SECONDS
    cv_vectors: list[Any] = list(stored)
    if cold.encoder is not None:
        with_text = [i for i, text in enumerate(texts) if text]
        given_texts = [texts[i] for i in with_text]
        encoded = cold.encoder.vectors(given_texts, [text_hash(text) for text in given_texts], until)
        for i, vector in zip(with_text, encoded, strict=True):
            if vector is not None:
                cv_vectors[i] = vector
    vectors = np.repeat(cold.prior[None], len(texts), axis=0)
    tiers = np.full(len(texts), Tier.PRIOR, np.int8)
    known = [i for i, vector in enumerate(cv_vectors) if vector is not None]
    if known:
        known_vectors = np.array([cv_vectors[i] for i in known], np.float32)
        vectors[known], tiers[known] = cold.stand_ins(known_vectors, until)
    return vectors, tiers


def _is_stale(text: str, stored_hash: str | None, generated_at: object, cv_at: object, training_end: datetime) -> bool:
    """True if the CV has changed since: by the request's text if there is one, else by the time of the newest CV."""
    if text and stored_hash:
        return text_hash(text) != stored_hash
    if not isinstance(generated_at, datetime) or not isinstance(cv_at, datetime):
        return False
    return _utc(generated_at) < max(_utc(cv_at), _utc(training_end))


def _utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time


@lru_cache(maxsize=8)
def _cold_start(contract: str, folder: Path) -> ColdStart:
    """Load the bundle with its encoder, once per process."""
    bundle = read_bundle(folder, contract)
    has_encoder = GRAPH in read_bundle_manifest(folder).sha256
    encoder = HostEncoder(folder, bundle.contract.encoder) if has_encoder else None
    return ColdStart(bundle, frozenset(Tier), N_NEIGHBOURS, encoder)
