"""`girl join`: a ranker's own training table, with generated-JD columns beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import polars as pl

from girl_features.config import GirlConfig
from girl_features.errors import DataError
from girl_features.pairs import join_pairs
from girl_features.ranker import PairFeatures
from girl_features.schema import DECIDED_AT, JOB_ID, JOB_SEEKER_ID
from girl_features.store.parts import PartsStore
