"""girl.yaml: defaults, overrides, paths, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from girl_features.config import load_config, write_resolved
from girl_features.errors import ConfigError

TABLES = """
tables:
  job_seekers: {path: data/cvs.parquet}
  jobs: {query: "SELECT * FROM jobs", database: jobs.duckdb}
  interactions: {path: /abs/clicks.csv, columns: {job_id: vacancy}}
"""


def _write(folder: Path, text: str = TABLES) -> Path:
    path = folder / "girl.yaml"
    path.write_text(text)
    return path


def test_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path))
    assert config.tables.job_seekers.path == str(tmp_path / "data/cvs.parquet")
    assert config.tables.jobs.database == str(tmp_path / "jobs.duckdb")
    assert config.tables.interactions.path == "/abs/clicks.csv"
    assert config.workspace == tmp_path / ".girl"
    assert config.feast_repo == tmp_path / ".girl" / "feature_repo"


def test_overrides_go_before_the_file_and_are_yaml(tmp_path: Path) -> None:
    path = _write(tmp_path, TABLES + "sampling: {n: 2, top_p: 0.5}\n")
    config = load_config(path, ["sampling.n=8", "evaluate.seeds=[4, 5]", "generator.base=some/model"])
    assert (config.sampling.n, config.sampling.top_p) == (8, 0.5)
    assert config.evaluate.seeds == (4, 5)
    assert config.generator.base == "some/model"


def test_the_resolved_config_reads_back_as_itself(tmp_path: Path) -> None:
    config = load_config(_write(tmp_path), ["windows.sft_share=0.3"])
    write_resolved(config, tmp_path / "run" / "girl.yaml")
    assert load_config(tmp_path / "run" / "girl.yaml") == config


def test_window_ends_without_a_zone_are_utc(tmp_path: Path) -> None:
    ends = "\n".join(
        f"  {name}_end: 2020-0{i}-01" for i, name in enumerate(("sft", "reward", "rl", "train", "valid"), 1)
    )
    config = load_config(_write(tmp_path, TABLES + f"windows:\n{ends}\n"))
    assert config.windows.sft_end == datetime(2020, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("addition", "override", "message"),
    [
        ("sampling: {nn: 2}", None, r"line 6, column 12: sampling\.nn: did you mean n\?"),
        ("", "sampling.n=0", r"sampling\.n should be .* at least 1"),
        ("", "sampling.n", "takes a.b=value"),
        ("sampling: 3", "sampling.n=1", "'sampling' holds a value"),
        ("name: ../escape", None, "name should be a text of up to 40 small letters"),
        ("windows: {sft_end: 2020-01-01}", None, "give all of sft_end"),
        ("windows: {sft_share: 0.9}", None, "the shares sum to"),
        ("generator: {tiny: {hidden_size: 100, n_heads: 6}}", None, "even multiple of n_heads"),
        ("a: [", None, "not valid YAML"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, addition: str, override: str | None, message: str) -> None:
    path = _write(tmp_path, TABLES + addition)
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override] if override else None)


def test_backwards_windows_and_both_sources_are_refused(tmp_path: Path) -> None:
    later = ", ".join(f"{name}_end: 2021-01-01" for name in ("rl", "train", "valid"))
    ends = f"windows: {{sft_end: 2020-05-01, reward_end: 2020-04-01, {later}}}"
    with pytest.raises(ConfigError, match="must not go back in time"):
        load_config(_write(tmp_path, TABLES + ends))
    both = TABLES.replace("path: data/cvs.parquet", "path: a.parquet, query: SELECT 1")
    with pytest.raises(ConfigError, match="either `path` or `query`"):
        load_config(_write(tmp_path, both))


def test_environment_variables_in_table_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIRL_DATA", str(tmp_path / "shared"))
    monkeypatch.setenv("PART", "v2")
    text = TABLES.replace("data/cvs.parquet", "'${GIRL_DATA}/careers/${PART}/*.parquet'")
    config = load_config(_write(tmp_path, text.replace("jobs.duckdb", "'${GIRL_DATA}/jobs.duckdb'")))
    assert config.tables.job_seekers.path == str(tmp_path / "shared/careers/v2/*.parquet")
    assert config.tables.jobs.database == str(tmp_path / "shared/jobs.duckdb")
    override = load_config(_write(tmp_path), ["tables.jobs.database=sub-${PART}.duckdb"])
    assert override.tables.jobs.database == str(tmp_path / "sub-v2.duckdb")
    monkeypatch.setenv("PART", "anna's")
    query = TABLES.replace("path: data/cvs.parquet", """query: "SELECT * FROM '${PART}.parquet'" """)
    found = load_config(_write(tmp_path, query)).tables.job_seekers.query
    assert found == "SELECT * FROM 'anna''s.parquet'", "the value stays inside its quotes"


@pytest.mark.parametrize("setting", ["tables.interactions.path", "tables.jobs.query", "tables.jobs.database"])
def test_an_environment_variable_that_is_not_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.delenv("GIRL_DATA", raising=False)
    with pytest.raises(ConfigError, match=rf"{setting} is .* environment variable GIRL_DATA is not set"):
        load_config(_write(tmp_path), [f"{setting}=${{GIRL_DATA}}/x.parquet"])
    monkeypatch.setenv("GIRL_DATA", "")
    with pytest.raises(ConfigError, match="GIRL_DATA is not set"):
        load_config(_write(tmp_path), [f"{setting}=${{GIRL_DATA}}/x.parquet"])


def test_no_file_and_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="girl init DIR"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="should hold a mapping"):
        load_config(_write(tmp_path, "- a list"))
