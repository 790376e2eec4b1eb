"""Settings of the input: where the three tables are, and how decisions are divided into time windows."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field, field_validator, model_validator

from girl_features.config.section import Section, as_utc


class TableConfig(Section):
    """Location of one input table: a Parquet or CSV file, a glob of such files, or a query that DuckDB runs."""

    path: str | None = Field(None, description="Parquet or CSV file, or a glob; may contain ${VARIABLE}")
    query: str | None = Field(None, description="SELECT that DuckDB runs, instead of a path")
    database: str | None = Field(
        None, description="DuckDB file that the query reads, opened read-only; may contain ${VARIABLE}"
    )
    columns: dict[str, str] = Field(default_factory=dict, description="our column name -> the table's column name")

    @model_validator(mode="after")
    def _path_or_query(self) -> TableConfig:
        if (self.path is None) == (self.query is None):
            raise ValueError("give either `path` or `query`, not both or neither")
        if self.database is not None and self.query is None:
            raise ValueError("`database` goes with `query`")
        return self


class TablesConfig(Section):
    """The three input tables."""

    job_seekers: TableConfig
    jobs: TableConfig
    interactions: TableConfig


class WindowsConfig(Section):
    """Ends of the five time windows before the test window, or the shares of decisions that set these ends.

    The windows follow each other: SFT, reward, RL, ranking train, ranking valid, ranking test. Each ends
    where the next begins; an end is exclusive.
    """

    sft_share: float = Field(0.40, gt=0, lt=1, description="share of all decisions, by time, for SFT")
    reward_share: float = Field(0.10, ge=0, lt=1)
    rl_share: float = Field(0.05, ge=0, lt=1)
    train_share: float = Field(0.27, gt=0, lt=1)
    valid_share: float = Field(0.06, gt=0, lt=1)
    sft_end: datetime | None = Field(None, description="give all five ends, or none to use the shares")
    reward_end: datetime | None = None
    rl_end: datetime | None = None
    train_end: datetime | None = None
    valid_end: datetime | None = None

    @field_validator("sft_end", "reward_end", "rl_end", "train_end", "valid_end")
    @classmethod
    def _utc(cls, value: datetime | None) -> datetime | None:
        return as_utc(value)

    @model_validator(mode="after")
    def _check(self) -> WindowsConfig:
        ends = [self.sft_end, self.reward_end, self.rl_end, self.train_end, self.valid_end]
        given = [end for end in ends if end is not None]
        if given and len(given) < len(ends):
            raise ValueError("give all of sft_end, reward_end, rl_end, train_end, valid_end, or none of them")
        if given != sorted(given):
            raise ValueError("window ends must not go back in time: sft <= reward <= rl <= train <= valid")
        shares = self.sft_share + self.reward_share + self.rl_share + self.train_share + self.valid_share
        if shares >= 1:
            raise ValueError(f"the shares sum to {shares:.2f}; leave some for the test window")
        return self
