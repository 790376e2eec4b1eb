"""The YAML of `girl experiment run` as a frozen model: data, generators, rows, predictors, seeds and claims."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from girl_features.config import NAME_PATTERN
from girl_features.config.messages import validated
from girl_features.config.source import ConfigSource
from girl_features.config.yaml_file import read_yaml
from girl_features.errors import ConfigError
from girl_features.evaluation.results import BASE
from girl_features.lab.experiment.row_names import (
    ADDED,
    ALL_COLUMNS,
    FIT,
    ROW_PATTERN,
    at_labels,
    parse_pooling,
    parse_row,
)

CONTROLS = ("cv-twice", "shuffled", "regression", "neighbour", "contrastive", "base-windows")
BASELINES = ("ncf", "pjfnn", "apjfnn", "ft-llm", "bigrec", "bigrec-popularity", "bigrec-mlp")
BASELINE_ROW = "baseline"  # row of the rankers that read texts and ids instead of features
SEEDLESS = ("cosine", "alone", "bigrec", "bigrec-popularity")  # nothing in them is random, so they are fitted once
_GENERATOR_PATTERN = r"^[a-z][a-z0-9-]{0,39}$"
_NEAR = 0.75  # difflib's ratio of a key and its misspelling


class _ExperimentModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataSource(_ExperimentModel):
    """A data set: its girl.yaml, and whether its tables are simulated."""

    config: Path
    simulation: bool = False
    sample_seekers: int | None = Field(None, ge=40)  # seekers of a sample market, written first if absent
    sample_seed: int = 0
    without: tuple[str, ...] = ()  # generators and baselines not made on this data set


class ExperimentGenerator(_ExperimentModel):
    """A generator of the experiment: the stages that train it, and its changes to the data set's girl.yaml."""

    stages: tuple[Literal["sft", "reward", "ppo"], ...] = ("sft",)
    set: tuple[str, ...] = ()  # as `--set`: sampling.n=8


class Grid(_ExperimentModel):
    """Rows and predictors, each row run with each predictor."""

    rows: tuple[str, ...]
    predictors: tuple[str, ...]
    # each row is also trained on so many labelled decisions, as the row `base@300`
    labels: tuple[Annotated[int, Field(ge=40)], ...] = ()


class Cell(NamedTuple):
    """One predictor on one row's features."""

    predictor: str
    row: str


class Claim(_ExperimentModel):
    """`subject` ranks better than `over`; each is `predictor/row`."""

    name: str
    subject: str
    over: str
    cause: str = Field("", max_length=60)  # what the subject changes, if that might be why a lift is missing

    @field_validator("subject", "over")
    @classmethod
    def _two_names(cls, value: str) -> str:
        if value.count("/") != 1:
            raise ValueError(f"should be predictor/row, as mlp/girl, found {value!r}")
        return value

    @property
    def cells(self) -> tuple[Cell, Cell]:
        """Cells of the two sides, the subject first."""
        return Cell(*self.subject.split("/")), Cell(*self.over.split("/"))


class ExperimentConfig(_ExperimentModel):
    """An experiment. Paths in the file are relative to the file."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = "experiment"
    workspace: Path = Path(".girl/experiments")
    data: dict[Annotated[str, Field(pattern=NAME_PATTERN)], DataSource]
    generators: dict[Annotated[str, Field(pattern=_GENERATOR_PATTERN)], ExperimentGenerator] = Field(default={})
    reference: str = ""  # generator the controls are made from; default: the last
    samples: str | None = None  # generator with several JDs per CV, for rows such as mean-4
    grids: tuple[Grid, ...]
    baselines: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    n_bootstrap: int = Field(1000, ge=100)
    claims: tuple[Claim, ...] | None = None  # default: each generator over base and over the controls
    ground_queries: int | None = Field(None, ge=1)  # most grounding queries, from the reference generator's JDs
    judge: tuple[str, str] | None = None  # two generators whose JDs are compared

    @model_validator(mode="after")
    def _check(self) -> ExperimentConfig:
        for key in ("data", "grids"):
            if not getattr(self, key):
                raise ValueError(f"`{key}` is empty")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise ValueError(f"`seeds` must be one or more distinct numbers, found {list(self.seeds)}")
        for name, source in self.data.items():
            known = {*self.generators, *self.baselines}
            without = set(source.without)
            if not without <= known or (self.generators and set(self.generators) <= without):
                raise ValueError(
                    f"`data.{name}.without` should name some of `generators` and `baselines`, but not every generator; "
                    f"found {list(source.without)}"
                )
        named = [("`reference` is", self.reference_generator), ("`samples` is", self.samples)]
        for key, generator in [*named, *(("`judge` names", generator) for generator in self.judge or ())]:
            if generator is not None and generator not in self.generators:
                raise ValueError(f"{key} {generator!r}; `generators` has {', '.join(self.generators)}")
        if clash := set(self.generators) & {*CONTROLS, "base", BASELINE_ROW}:
            raise ValueError(f"a generator cannot be called {sorted(clash)[0]!r}: that is the name of another row")
        self._check_rows()
        return self

    def _check_rows(self) -> None:
        for whole_row in dict.fromkeys(cell.row for cell in self.cells if cell.row != BASELINE_ROW):
            if not ROW_PATTERN.fullmatch(whole_row):
                raise ValueError(f"row {whole_row!r} should be a name, and may add columns, as base+lexical")
            row, added, n_labels = parse_row(whole_row)
            if row not in {"base", *self.generators, *CONTROLS} and parse_pooling(row) is None:
                known = ["base", *self.generators, *CONTROLS, "mean-4 (or max-, attention-, dispersion-)"]
                raise ValueError(f"no row {row!r}; known are: {', '.join(known)}")
            if parse_pooling(row) is not None and self.samples is None:
                raise ValueError(f"row {row!r} needs `samples`: a generator with several JDs a CV")
            if unknown := sorted(set(added) - set(ADDED)):
                known = [*ADDED, ALL_COLUMNS]
                raise ValueError(f"row {whole_row!r} adds {unknown[0]!r}; known are: {', '.join(known)}")
            if len(set(added)) < len(added):
                raise ValueError(f"row {whole_row!r} adds a column twice")
            if added and row == "base-windows":
                raise ValueError(f"row {whole_row!r}: columns are learned from the windows that {row!r} trains on")
            if n_labels is not None and row == "base-windows":
                raise ValueError(f"row {row!r} has `labels`, but trains on the generator's windows too")
            if (row == "shuffled" or FIT in added) and not self.generators:
                raise ValueError(f"row {whole_row!r} needs a generator: `generators` is empty")
        for grid in self.grids:
            if given := [row for row in grid.rows if "@" in row]:
                raise ValueError(f"row {given[0]!r}: give the numbers of decisions in the grid's `labels`")
            if grid.labels and BASE not in grid.rows:
                raise ValueError(f"a grid with `labels` needs the row {BASE!r}, which its rows are compared with")
        for predictor, row in self.cells:
            n_columns = len(parse_row(row).columns)
            if (predictor == "alone" and n_columns != 1) or (n_columns and predictor.endswith("-plain")):
                wanted = "one column, as base+lexical" if predictor == "alone" else "no further columns"
                raise ValueError(f"predictor {predictor!r} on row {row!r}: it reads {wanted}")
        for key in ("baselines", "ground_queries"):
            if getattr(self, key) and not self.generators:
                raise ValueError(f"`{key}` needs a generator: `generators` is empty")
        if unknown := sorted(set(self.baselines) - set(BASELINES)):
            raise ValueError(f"no baseline {unknown[0]!r}; known are: {', '.join(BASELINES)}")
        for claim in self.claims or ():
            if unknown := ["/".join(cell) for cell in claim.cells if cell not in self.cells]:
                raise ValueError(f"claim {claim.name!r} speaks of {unknown[0]!r}, which no grid or baseline runs")

    def only(self, names: Sequence[str] | None) -> ExperimentConfig:
        """Return the experiment on some of its data sets; on all of them if no names are given."""
        if not names:
            return self
        if unknown := [name for name in names if name not in self.data]:
            raise ConfigError(f"no data set {unknown[0]!r} in this experiment; it has {', '.join(self.data)}")
        return self.model_copy(update={"data": {name: self.data[name] for name in self.data if name in names}})

    def on(self, data: str) -> ExperimentConfig:
        """Return the experiment with only the generators and baselines that this data set has."""
        left_out = set(self.data[data].without)
        if not left_out:
            return self
        rows = set(left_out)
        if self.samples in left_out:
            rows |= {cell.row for cell in self.cells if parse_pooling(parse_row(cell.row).features)}
        rows |= {cell.row for cell in self.cells if parse_row(cell.row).features in rows}
        grids = [grid.model_copy(update={"rows": tuple(r for r in grid.rows if r not in rows)}) for grid in self.grids]
        claims = [claim for claim in self.claims or () if not _names_of(claim) & rows]
        return self.model_copy(
            update={
                "generators": {name: made for name, made in self.generators.items() if name not in left_out},
                "reference": "" if self.reference in left_out else self.reference,
                "samples": None if self.samples in left_out else self.samples,
                "grids": tuple(grids),
                "judge": None if left_out & set(self.judge or ()) else self.judge,
                "baselines": tuple(name for name in self.baselines if name not in left_out),
                "claims": None if self.claims is None else tuple(claims),
            }
        )

    def with_labels_below(self, n: int) -> ExperimentConfig:
        """Return the experiment without the rows, and the claims on them, that need `n` labelled decisions or more."""

        def is_kept(row: str) -> bool:
            return (parse_row(row).n_labels or 0) < n

        grids = (
            grid.model_copy(update={"labels": tuple(labels for labels in grid.labels if labels < n)})
            for grid in self.grids
        )
        claims = [claim for claim in self.claims or () if all(is_kept(cell.row) for cell in claim.cells)]
        return self.model_copy(update={"grids": tuple(grids), "claims": None if self.claims is None else tuple(claims)})

    @property
    def reference_generator(self) -> str | None:
        """Name of the generator the controls are made from; None without any generator."""
        return self.reference or next(reversed(self.generators), None)

    @property
    def added(self) -> tuple[str, ...]:
        """Names of ADDED that some row adds."""
        names = {name for cell in self.cells for name in parse_row(cell.row).added}
        return tuple(name for name in ADDED if name in names)

    @property
    def cells(self) -> list[Cell]:
        """Distinct (predictor, row), those of one row together, baselines last."""
        predictors: dict[str, dict[str, None]] = {}  # row -> its predictors, in order and without repeats
        for grid in self.grids:
            trained = [name for name in grid.predictors if name not in SEEDLESS]  # the others need no label to train
            for row in grid.rows:
                predictors.setdefault(row, {}).update(dict.fromkeys(grid.predictors))
                for n_labels in grid.labels if trained else ():
                    predictors.setdefault(at_labels(row, n_labels), {}).update(dict.fromkeys(trained))
        cells = [Cell(predictor, row) for row, names in predictors.items() for predictor in names]
        return [*cells, *(Cell(name, BASELINE_ROW) for name in dict.fromkeys(self.baselines))]

    def seeds_of(self, predictor: str) -> tuple[int, ...]:
        """Return the seeds a predictor is fitted with: the first alone if nothing in it is random."""
        return self.seeds[:1] if predictor in SEEDLESS else self.seeds

    def folder_of(self, data: str) -> Path:
        """Return the folder of one data set in the workspace."""
        return self.workspace / self.name / data

    @property
    def all_claims(self) -> list[Claim]:
        """Claims of the file, or if it has none, each generator over base and over each control, by predictor."""
        if self.claims is not None:
            return list(self.claims)
        cells, claims = self.cells, []
        for (predictor, row), other in product(cells, ("base", *CONTROLS)):
            # the shuffled JDs are those of the reference generator
            is_pair = row in self.generators and (other != "shuffled" or row == self.reference_generator)
            if is_pair and Cell(predictor, other) in cells:
                subject, over = f"{predictor}/{row}", f"{predictor}/{other}"
                claims.append(Claim(name=f"{row} over {other}, {predictor}", subject=subject, over=over))
        for predictor, row in cells:
            name, plus, columns = row.partition("+")
            if name != "base" and Cell(predictor, f"base+{columns}") in cells and plus and "@" not in row:
                subject, over = f"{predictor}/{row}", f"{predictor}/base+{columns}"
                claims.append(Claim(name=f"{row} over base+{columns}, {predictor}", subject=subject, over=over))
            without = row.removesuffix(f"+{FIT}")
            if without != row and Cell(predictor, without) in cells:
                subject, over = f"{predictor}/{row}", f"{predictor}/{without}"
                claims.append(Claim(name=f"{row} over {without}, {predictor}", subject=subject, over=over))
        return claims


def _names_of(claim: Claim) -> set[str]:
    """Return the rows and the baselines that the claim is about."""
    return {cell.predictor if cell.row == BASELINE_ROW else cell.row for cell in claim.cells}


def load_experiment(path: Path) -> ExperimentConfig:
    """Load the experiment of this YAML; for a girl.yaml, the default experiment on its tables.

    Raises:
        ConfigError: the file is absent or not YAML, or has an unknown key or a bad value; the message names each place.
    """
    document = read_yaml(path, "give the YAML of an experiment (`data:`), or a girl.yaml (`tables:`)")
    raw = document.values
    keys = [str(key).casefold() for key in raw] if isinstance(raw, dict) else []
    is_experiment = bool(get_close_matches("data", keys, cutoff=_NEAR))
    if not is_experiment and not get_close_matches("tables", keys, cutoff=_NEAR):
        raise ConfigError(f"{path} should hold an experiment (`data:`) or a girl.yaml (`tables:`)")
    if not is_experiment:
        name, workspace = str(raw.get("name", "girl")), Path(str(raw.get("workspace", ".girl"))) / "experiments"
        default = read_yaml(Path(__file__).with_name("default.yaml")).values
        raw = {"name": name, "workspace": workspace, "data": {name: {"config": path.name}}, **default}
    config, base = validated(ExperimentConfig, raw, ConfigSource(path, document)), path.parent.resolve()
    data = {
        name: source.model_copy(update={"config": (base / source.config.expanduser()).resolve()})
        for name, source in config.data.items()
    }
    return config.model_copy(update={"data": data, "workspace": (base / config.workspace.expanduser()).resolve()})


def known_models() -> pl.DataFrame:
    """Return model, seconds_a_fit and paper_auc of the models that are known.

    Seconds are those of a fit on 1,000 training pairs and one core of a small server: an order of magnitude. The AUC
    is that on JobRec in the journal version of the paper: another market, for orientation only.
    """
    return pl.read_csv(Path(__file__).with_name("models.csv"))
