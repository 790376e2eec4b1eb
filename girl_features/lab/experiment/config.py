"""The YAML of `girl experiment run`: data, generators, rows, predictors, seeds and claims, as one frozen model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from girl_features.config import NAME_PATTERN
from girl_features.errors import ConfigError

CONTROLS = ("cv-twice", "shuffled", "regression", "neighbour", "contrastive", "base-windows")
POOLINGS = ("mean", "max", "attention", "dispersion")
BASELINES = ("ncf", "pjfnn", "apjfnn", "ft-llm", "bigrec", "bigrec-popularity", "bigrec-mlp")
BASELINE_ROW = "baseline"  # the row of what reads texts and ids, and so has no features
_ARM = r"^[a-z][a-z0-9-]{0,39}$"
_POOLED = re.compile(rf"({'|'.join(POOLINGS)})-([1-9][0-9]?)")
Stage = Literal["sft", "reward", "ppo"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSource(_Model):
    """One data set: a girl.yaml, and whether its tables are simulated."""

    config: Path
    simulation: bool = False
    sample_seekers: int | None = Field(None, ge=40, description="write a sample market of this size first, if absent")
    sample_seed: int = 0
    without: tuple[str, ...] = Field((), description="generators and baselines not made on this data set")


class Arm(_Model):
    """One generator: the stages that train it, and how it departs from the data set's girl.yaml."""

    stages: tuple[Stage, ...] = ("sft",)
    set: tuple[str, ...] = Field((), description="as `--set`: sampling.n=8")


class Grid(_Model):
    """Every row with every predictor."""

    rows: tuple[str, ...]
    predictors: tuple[str, ...]


class Claim(_Model):
    """`subject` ranks better than `over`; each is `predictor/row`."""

    name: str
    subject: str
    over: str
    cause: str = Field(
        "", max_length=60, description="what this claim changes, where a lift is missing, to look for why"
    )

    @field_validator("subject", "over")
    @classmethod
    def _two_names(cls, value: str) -> str:
        if value.count("/") != 1:
            raise ValueError(f"should be predictor/row, as mlp/girl, found {value!r}")
        return value


class Cell(NamedTuple):
    """One predictor on one row's features."""

    predictor: str
    row: str


class ExperimentConfig(_Model):
    """What to run. Paths in the file are relative to it."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)] = "experiment"
    workspace: Path = Path(".girl/experiments")
    data: dict[Annotated[str, Field(pattern=NAME_PATTERN)], DataSource]
    generators: dict[Annotated[str, Field(pattern=_ARM)], Arm]
    reference: str = Field("", description="generator the controls stand in for; default: the last")
    samples: str | None = Field(None, description="generator with sampling.n JDs a CV, for rows such as mean-4")
    grids: tuple[Grid, ...]
    baselines: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    n_bootstrap: int = Field(1000, ge=100)
    claims: tuple[Claim, ...] | None = Field(None, description="none given: each generator over base and controls")
    ground_queries: int | None = Field(
        None, ge=1, description="ground so many test decisions by the reference generator"
    )
    judge: tuple[str, str] | None = Field(None, description="two generators whose JDs are compared")

    @model_validator(mode="after")
    def _check(self) -> ExperimentConfig:
        for what, names in (("data", self.data), ("generators", self.generators), ("grids", self.grids)):
            if not names:
                raise ValueError(f"`{what}` is empty")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise ValueError(f"`seeds` must be one or more distinct numbers, found {list(self.seeds)}")
        for name, source in self.data.items():
            known = {*self.generators, *self.baselines}
            if not set(source.without) <= known or set(self.generators) <= set(source.without):
                raise ValueError(
                    f"`data.{name}.without` should name some of `generators` and `baselines`, but not every generator; "
                    f"found {list(source.without)}"
                )
        for role, arm in (("reference", self.reference_arm), ("samples", self.samples)):
            if arm is not None and arm not in self.generators:
                raise ValueError(f"`{role}` is {arm!r}; `generators` has {', '.join(self.generators)}")
        for arm in self.judge or ():
            if arm not in self.generators:
                raise ValueError(f"`judge` names {arm!r}; `generators` has {', '.join(self.generators)}")
        if clash := set(self.generators) & {*CONTROLS, "base", BASELINE_ROW}:
            raise ValueError(f"a generator cannot be called {sorted(clash)[0]!r}: that is a row of its own")
        self._check_rows()
        return self

    def _check_rows(self) -> None:
        for row in dict.fromkeys(row for grid in self.grids for row in grid.rows):
            if row not in {"base", *self.generators, *CONTROLS} and pooled(row) is None:
                known = ["base", *self.generators, *CONTROLS, "mean-4 (or max-, attention-, dispersion-)"]
                raise ValueError(f"no row {row!r}; known are: {', '.join(known)}")
            if pooled(row) is not None and self.samples is None:
                raise ValueError(f"row {row!r} needs `samples`: a generator with several JDs a CV")
        if unknown := sorted(set(self.baselines) - set(BASELINES)):
            raise ValueError(f"no baseline {unknown[0]!r}; known are: {', '.join(BASELINES)}")
        cells = {f"{cell.predictor}/{cell.row}" for cell in self.cells}
        for claim in self.claims or ():
            for side in (claim.subject, claim.over):
                if side not in cells:
                    raise ValueError(f"claim {claim.name!r} speaks of {side!r}, which no grid or baseline runs")

    def only(self, names: Sequence[str] | None) -> ExperimentConfig:
        """The experiment on some of its data sets; None or none for all.

        Raises:
            ConfigError: it has no such data set.
        """
        if not names:
            return self
        if unknown := [name for name in names if name not in self.data]:
            raise ConfigError(f"no data set {unknown[0]!r} in this experiment; it has {', '.join(self.data)}")
        return self.model_copy(update={"data": {name: self.data[name] for name in self.data if name in names}})

    def on(self, data: str) -> ExperimentConfig:
        """What is left of the experiment on one data set, without what is not made there."""
        gone = set(self.data[data].without)
        if not gone:
            return self
        rows = gone | ({cell.row for cell in self.cells if pooled(cell.row)} if self.samples in gone else set())
        grids = [grid.model_copy(update={"rows": tuple(r for r in grid.rows if r not in rows)}) for grid in self.grids]
        return self.model_copy(
            update={
                "generators": {name: arm for name, arm in self.generators.items() if name not in gone},
                "reference": "" if self.reference in gone else self.reference,
                "samples": None if self.samples in gone else self.samples,
                "grids": tuple(grids),
                "judge": None if self.judge and gone & set(self.judge) else self.judge,
                "baselines": tuple(name for name in self.baselines if name not in gone),
                "claims": self.claims and tuple(c for c in self.claims if not _names(c) & rows),
            }
        )

    @property
    def reference_arm(self) -> str:
        """The generator that controls are made beside."""
        return self.reference or list(self.generators)[-1]

    @property
    def cells(self) -> list[Cell]:
        """Every (predictor, row), once, rows together; baselines last."""
        found = [Cell(p, row) for grid in self.grids for row in grid.rows for p in grid.predictors]
        order = list(dict.fromkeys(cell.row for cell in found))
        found = sorted(dict.fromkeys(found), key=lambda cell: order.index(cell.row))
        return [*found, *(Cell(name, BASELINE_ROW) for name in dict.fromkeys(self.baselines))]

    @property
    def all_claims(self) -> list[Claim]:
        """The claims of the file; without any, each generator over base and over each control, by predictor."""
        if self.claims is not None:
            return list(self.claims)
        cells, claims = set(self.cells), []
        for predictor, row in self.cells:
            if row not in self.generators:
                continue
            for other in ("base", *CONTROLS):
                is_own = other != "shuffled" or row == self.reference_arm  # those are the reference's JDs
                if is_own and Cell(predictor, other) in cells:
                    subject, over = f"{predictor}/{row}", f"{predictor}/{other}"
                    claims.append(Claim(name=f"{row} over {other}, {predictor}", subject=subject, over=over))
        return claims


def _names(claim: Claim) -> set[str]:
    """The rows and the baselines that the claim is about."""
    sides = [side.split("/") for side in (claim.subject, claim.over)]
    return {predictor if row == BASELINE_ROW else row for predictor, row in sides}


class Pooled(NamedTuple):
    """How many generated JDs, and how they become one feature."""

    pooling: str
    k: int


def pooled(row: str) -> Pooled | None:
    """`mean-4` -> (mean, 4); None for any other row."""
    match = _POOLED.fullmatch(row)
    return Pooled(match[1], int(match[2])) if match else None


def load_experiment(path: Path) -> ExperimentConfig:
    """The experiment of this YAML; a girl.yaml gives the default experiment on its own tables.

    Raises:
        ConfigError: file absent, not YAML, unknown key or bad value; each place is named.
    """
    if not path.is_file():
        raise ConfigError(f"no experiment at {str(path)!r}; give a YAML with `data:`, or a girl.yaml")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict) or not {"data", "tables"} & set(raw):
        raise ConfigError(f"{path} should hold an experiment (`data:`) or a girl.yaml (`tables:`)")
    try:
        config = ExperimentConfig.model_validate(raw if "data" in raw else _default(raw, path))
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{path}: {places}") from error
    base = path.parent.resolve()
    data = {
        name: source.model_copy(update={"config": (base / source.config.expanduser()).resolve()})
        for name, source in config.data.items()
    }
    return config.model_copy(update={"data": data, "workspace": (base / config.workspace.expanduser()).resolve()})


def _default(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """Base, GIRL-SFT and GIRL with the cheap controls, for the tables of a girl.yaml."""
    name = str(raw.get("name", "girl"))
    return {
        "name": name,
        "workspace": str(Path(str(raw.get("workspace", ".girl"))) / "experiments"),
        "data": {name: {"config": path.name}},
        "generators": {
            "girl-sft": {"stages": ["sft"], "set": ["generator.stage=sft", "sampling.best_of=null"]},  # no reward yet
            "girl": {"stages": ["sft", "reward", "ppo"], "set": ["generator.stage=ppo"]},
        },
        "grids": [
            {
                "rows": ["base", "girl-sft", "girl", "cv-twice", "shuffled", "regression", "neighbour", "base-windows"],
                "predictors": ["mlp", "dot", "lightgbm"],
            },
        ],
    }
