"""Data of an experiment: the ranking windows and the windows before them, with texts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

from girl_features.contract import FeatureContract
from girl_features.errors import StoreError
from girl_features.input.decision_texts import DecisionTexts, decisions_with_texts
from girl_features.input.splits import Windows, ranking_split
from girl_features.input.tables import Tables
from girl_features.lab.experiment.fits import LabelledTexts
from girl_features.ranker import PairTexts
from girl_features.schema import DECIDED_AT, JOB_ID, JOB_SEEKER_ID
from girl_features.sql import connected
from girl_features.store.parts import PartsStore

_KEYS = [JOB_SEEKER_ID, JOB_ID, DECIDED_AT]
# least and largest number of decisions of a seeker in the ranking training window
COUNT_SLICES = {"0 decisions": (0, 0), "1-4 decisions": (1, 4), "5-9 decisions": (5, 9), "10+ decisions": (10, np.inf)}

# removes the CV versions that no decision from $start on refers to
_DELETE_UNRANKED = """
    DELETE FROM job_seekers WHERE (job_seeker_id, updated_at) NOT IN (
        SELECT DISTINCT i.job_seeker_id, v.updated_at
        FROM (SELECT * FROM interactions WHERE decided_at >= $start::TIMESTAMPTZ) i
        ASOF JOIN (SELECT job_seeker_id, updated_at FROM job_seekers) v
            ON i.job_seeker_id = v.job_seeker_id AND i.decided_at > v.updated_at)
"""


class ExperimentData(NamedTuple):
    """The windows of one data set."""

    name: str
    decisions: dict[str, pl.DataFrame]  # part -> rows of decisions_with_texts, with is_cold_start
    history: DecisionTexts  # of the generator's windows; the controls learn from them, as the generator did
    windows: Windows

    @property
    def slices(self) -> dict[str, np.ndarray]:
        """Masks (n_test,) bool by name: all, cold-start seekers, and ranges of training decisions."""
        test = self.decisions["test"]
        counted = self.decisions["train"].group_by(JOB_SEEKER_ID).len("n_decisions")
        n = test.join(counted, on=JOB_SEEKER_ID, how="left", maintain_order="left")["n_decisions"].fill_null(0)
        by_count = {name: n.is_between(low, high).to_numpy() for name, (low, high) in COUNT_SLICES.items()}
        return {"all": np.ones(test.height, bool), "cold": test["is_cold_start"].to_numpy(), **by_count}


def load_data(name: str, tables: Tables, windows: Windows) -> ExperimentData:
    """Read the decisions of every window with their texts; EmptyWindowError for a ranking window of one class."""
    split = ranking_split(tables, windows)
    decisions = {}
    for part, ranked in split._asdict().items():
        frame = decisions_with_texts(tables, *windows.bounds(part))
        frame = frame.join(ranked.select(*_KEYS, "is_cold_start"), on=_KEYS, maintain_order="left")
        assert frame.height == ranked.height, "a decision was lost or doubled"
        decisions[part] = frame
    history = DecisionTexts.of(decisions_with_texts(tables, None, windows.rl_end))
    return ExperimentData(name, decisions, history, windows)


def keep_ranked_cvs(tables: Tables, windows: Windows) -> None:
    """Delete the CV versions that no decision of the ranking windows refers to: they need no generated JD."""
    tables.connection.execute(_DELETE_UNRANKED, {"start": windows.rl_end})


def generated_texts(data: ExperimentData, store: PartsStore, contract: FeatureContract) -> dict[str, np.ndarray]:
    """Return part -> (n,) object array of tuples: the JDs generated from the CV version of each decision, if any."""
    jds_of_version = generated_by_version(store, contract)
    texts = {}
    for part, frame in data.decisions.items():
        keys = frame.select(JOB_SEEKER_ID, "updated_at", "cv_hash").iter_rows()
        texts[part] = np.empty(frame.height, dtype=object)  # np.array would make the tuples a second axis
        texts[part][:] = [jds_of_version.get(key, ()) for key in keys]
    return texts


def generated_by_version(store: PartsStore, contract: FeatureContract) -> dict[tuple[object, ...], tuple[str, ...]]:
    """Return (job_seeker_id, updated_at, cv_hash) -> the JDs generated from that CV version."""
    relation = store.scan("generated_jds", contract.fingerprint)
    if relation is None:
        raise StoreError(f"no generated JD of contract {contract.fingerprint!r} is stored; run `girl materialize`")
    with connected() as connection:
        query = f"SELECT job_seeker_id, updated_at, cv_hash, generated_jds FROM {relation}"
        rows = connection.execute(query).pl().iter_rows()
        return {(seeker, updated_at, cv_hash): tuple(texts) for seeker, updated_at, cv_hash, texts in rows}


def text_parts(data: ExperimentData, generated: dict[str, np.ndarray]) -> list[LabelledTexts]:
    """Return ids, texts and outcomes of each ranking window, for rankers that read texts."""
    parts = []
    for part, frame in data.decisions.items():
        texts = DecisionTexts.of(frame)
        pairs = PairTexts(texts.job_seeker_ids, texts.job_ids, texts.cvs, texts.jds, generated[part])
        parts.append(LabelledTexts(pairs, texts.matched))
    return parts
