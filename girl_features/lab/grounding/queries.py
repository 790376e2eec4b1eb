"""Queries of grounding: seekers with their CVs and generated JDs, from the test window or as they are now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from girl_features.batch.feature_rows import pool_samples
from girl_features.encoder import TextEncoder
from girl_features.errors import DataError
from girl_features.input.tables import Tables
from girl_features.lab.grounding.open_jobs import JobTable, Query, open_at
from girl_features.lab.text_vectors import VectorTable, encode_once

GeneratedJDs = dict[tuple[str, datetime, bytes], list[str]]
