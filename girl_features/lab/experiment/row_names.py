"""Names of rows: which features, which further columns, and how many labelled decisions a ranker is trained on."""

from __future__ import annotations

import re
from itertools import chain
from typing import NamedTuple

from girl_features.evaluation.controls.columns import CONTROL_COLUMNS
from girl_features.evaluation.results import BASE
from girl_features.schema import FIT_COLUMNS

POOLINGS = ("mean", "max", "attention", "dispersion")
ALL_COLUMNS = "controls"  # stands for all of CONTROL_COLUMNS
FIT = "fit"  # stands for FIT_COLUMNS
ADDED = (*CONTROL_COLUMNS, FIT)  # what a row may add
_POOLED = re.compile(rf"({'|'.join(POOLINGS)})-([1-9][0-9]?)")

ROW_PATTERN = re.compile(r"[a-z][a-z0-9-]*(\+[a-z]+)*(@[1-9][0-9]*)?")


class RowName(NamedTuple):
    """Parts of a name such as `base+lexical+style@300`."""

    features: str  # base, a generator's name, regression, mean-4 ...
    added: tuple[str, ...]  # of ADDED
    n_labels: int | None  # labelled decisions of the training part; None: all

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the further columns."""
        return tuple(chain.from_iterable(FIT_COLUMNS if name == FIT else (name,) for name in self.added))


class JDPooling(NamedTuple):
    """Number of generated JDs of a CV, and the way they become one feature."""

    pooling: str
    k: int


def parse_row(row: str) -> RowName:
    """Return the parts of a row's name. The column `controls` stands for all of them."""
    whole, _, labels = row.partition("@")
    features, *names = whole.split("+")
    added = chain.from_iterable(CONTROL_COLUMNS if name == ALL_COLUMNS else (name,) for name in names)
    return RowName(features, tuple(added), int(labels) if labels else None)


def at_labels(row: str, n_labels: int) -> str:
    """Return the name of the row whose ranker is trained on so many labelled decisions."""
    return f"{row}@{n_labels}"


def base_of(row: str) -> str:
    """Return the row that `row` is compared with in the tables: base, with as many labelled decisions."""
    n_labels = parse_row(row).n_labels
    return BASE if n_labels is None else at_labels(BASE, n_labels)


def parse_pooling(features: str) -> JDPooling | None:
    """Return (mean, 4) for `mean-4`, and None for features that pool nothing."""
    match = _POOLED.fullmatch(features)
    return JDPooling(match[1], int(match[2])) if match else None
