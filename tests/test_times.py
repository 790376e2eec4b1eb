"""Times of the input tables: formats, numbers since 1970, and zones."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from girl_features.config import TableConfig
from girl_features.config.times import check_time_format, check_time_zone
from girl_features.errors import DataError
from girl_features.input.tables import Tables
from tests.input_tables import load, write_tables

N = 1000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read(folder: Path, values: Any, suffix: str = "parquet", **settings: str) -> Tables:
    """Load a table job_seekers with one row for each time in `values`; row i has the id 'i'."""
    times = values if isinstance(values, pa.Array) else pa.array(values)
    table = pa.table(
        {"job_seeker_id": [f"{i}" for i in range(len(times))], "cv": ["cv"] * len(times), "updated_at": times}
    )
    path = folder / f"seekers.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    else:
        duckdb.from_arrow(table).write_csv(str(path))
    config = write_tables(folder, {"interactions": []})
    return load(config.model_copy(update={"job_seekers": TableConfig(path=str(path), **settings)}))  # type: ignore[arg-type]


def times_of(tables: Tables) -> list[datetime]:
    rows = tables.connection.execute("SELECT updated_at FROM job_seekers ORDER BY job_seeker_id::INTEGER").fetchall()
    return [row[0].astimezone(UTC) for row in rows]


def moments(n: int = N, seed: int = 0, first: int = 1990) -> list[datetime]:
    """`n` times without a zone between the year `first` and 2023, in microseconds."""
    random = Random(seed)
    start, seconds = datetime(first, 1, 1), (datetime(2023, 12, 30) - datetime(first, 1, 1)).total_seconds()
    return [
        start + timedelta(seconds=random.randrange(int(seconds)), microseconds=random.randrange(10**6))
        for _ in range(n)
    ]


FORMATS = {
    "%d.%m.%Y %H:%M": "minutes",
    "%d.%m.%Y": "days",
    "%m/%d/%Y %I:%M:%S %p": "seconds",
    "%d-%b-%Y %H:%M:%S.%f": "microseconds",
    "%Y%m%d": "days",
    "%d/%m/%y %H:%M": "minutes",
    "%Y-%m-%dT%H:%M:%S%z": "seconds",
    "d'%d m\"%m y%Y": "days",
    "%A, %d %B %Y": "days",
}
PARTS = {"days": ("hour", "minute", "second", "microsecond"), "minutes": ("second", "microsecond")}
PARTS |= {"seconds": ("microsecond",), "microseconds": ()}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("time_format", FORMATS)
def test_times_in_another_format_are_read_as_they_were_written(tmp_path: Path, time_format: str, suffix: str) -> None:
    zone = ZoneInfo("Asia/Kolkata") if "%z" in time_format else UTC
    written = [moment.replace(tzinfo=zone) for moment in moments()]
    with read(tmp_path, [f" {m.strftime(time_format)}" for m in written], suffix, time_format=time_format) as tables:
        kept = dict.fromkeys(PARTS[FORMATS[time_format]], 0)
        assert times_of(tables) == [moment.replace(**kept).astimezone(UTC) for moment in written]  # type: ignore[arg-type]
        notes = {note.code for note in tables.report.notes}
        assert notes == (set() if "%z" in time_format else {"naive_timestamps"})


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_day_first_date_is_rejected_and_names_the_setting(tmp_path: Path, suffix: str) -> None:
    formats = ["%d.%m.%Y", "%d/%m/%Y", "%d-%m-%Y", "%-d.%-m.%y", "%d-%m-%y", "%d/%m/%y", "%d.%m.%Y %H:%M", "%d %b %Y"]
    formats += ["%m/%d/%Y", "%b %d, %Y", "%Y%m%d", "%d-%m-%y %H:%M:%S"]
    random = Random(0)
    values = [moment.strftime(random.choice(formats)) for moment in moments()]
    with read(tmp_path, values, suffix) as tables:
        assert tables.report.tables["job_seekers"] == (N, 0, {"bad_time": N})
        rows = tables.connection.execute("SELECT detail FROM rejections").fetchall()
        assert all("`tables.job_seekers.time_format`" in detail for (detail,) in rows)


def test_the_setting_that_the_rejection_names_reads_the_dates(tmp_path: Path) -> None:
    with read(tmp_path, ["03.04.2021", "13.04.2021"], "csv", time_format="%d.%m.%Y") as tables:
        assert times_of(tables) == [datetime(2021, 4, 3, tzinfo=UTC), datetime(2021, 4, 13, tzinfo=UTC)]


def test_what_does_not_fit_the_format_is_rejected(tmp_path: Path) -> None:
    wrong = ["2021-04-03", "31.02.2021", "03.04.2021 10:00", "4", None, "  "]
    with read(tmp_path, wrong, "csv", time_format="%d.%m.%Y") as tables:
        assert tables.report.tables["job_seekers"].rejected == {"bad_time": 4, "null_time": 2}
        assert tables.report.rejections[0].detail == "updated_at is not of time_format %d.%m.%Y: 2021-04-03"


NUMBERS = {"epoch_s": 1, "epoch_ms": 10**3, "epoch_us": 10**6, "epoch_ns": 10**9}


@pytest.mark.parametrize("unit", NUMBERS)
@pytest.mark.parametrize("is_fraction", [False, True])
@pytest.mark.parametrize("zone", [{}, {"time_zone": "Asia/Tokyo"}])
def test_the_unit_that_a_rejected_number_suggests_reads_it(
    tmp_path: Path, unit: str, is_fraction: bool, zone: dict[str, str]
) -> None:
    seconds = [1_300_000_000, 1_700_000_000]
    numbers = [f" {second * NUMBERS[unit]}{'.0' if is_fraction else ''}" for second in seconds]
    with read(tmp_path, numbers, "csv", **zone) as tables:
        detail = tables.report.rejections[0].detail
    setting = re.search(
        r"; set `tables\.job_seekers\.(time_format: \w+)`(, and remove `tables\.\w+\.(\w+)`)?\Z", detail
    )
    assert setting and setting[3] == next(iter(zone), None), detail
    with read(tmp_path, numbers, "csv", **yaml.safe_load(setting[1])) as tables:
        assert times_of(tables) == [datetime.fromtimestamp(second, UTC) for second in seconds]


def test_days_as_whole_numbers_suggest_their_format(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        read(tmp_path, [20210403, 20200131])
    setting = re.search(r"set `tables\.job_seekers\.(time_format: .*)`\Z", str(refused.value))
    assert setting, refused.value
    with read(tmp_path, [20210403, 20200131], **yaml.safe_load(setting[1])) as tables:
        assert times_of(tables) == [datetime(2021, 4, 3, tzinfo=UTC), datetime(2020, 1, 31, tzinfo=UTC)]


UNITS = {"epoch_s": 10**6, "epoch_ms": 10**3, "epoch_us": 1}


@pytest.mark.parametrize("kind", ["int64", "float64", "decimal", "csv", "text", "hugeint"])
@pytest.mark.parametrize("unit", [*UNITS, "epoch_ns"])
def test_numbers_since_1970_are_exact(tmp_path: Path, unit: str, kind: str) -> None:
    microseconds = [(m.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) for m in moments(first=1900)]
    scale = UNITS.get(unit)
    numbers = [m // scale if scale else m * 1000 + m % 1000 for m in microseconds]
    expected = [n * scale if scale else n // 1000 for n in numbers]
    fine = [Decimal(n) + Decimal(n % 1000) / 1000 for n in numbers]  # with thousandths of the unit
    values: Any = pa.array(numbers)
    if kind == "float64":
        values = pa.array([float(n) for n in numbers])
        expected = [round(float(n) * scale if scale else float(n) / 1000) for n in numbers]
    elif kind == "decimal":
        values = pa.array(fine, pa.decimal128(28, 3))
        expected = [int((n * (scale or Decimal("0.001"))).to_integral_value("ROUND_FLOOR")) for n in fine]
    elif kind in ("csv", "text"):
        values = pa.array([f"{n} " for n in numbers])
    elif kind == "hugeint":
        values = pa.array(numbers, pa.decimal128(38, 0))
    with read(tmp_path, values, "csv" if kind == "csv" else "parquet", time_format=unit) as tables:
        found = [(moment - EPOCH) // timedelta(microseconds=1) for moment in times_of(tables)]
        tolerance = 1 if kind == "float64" and unit == "epoch_ns" else 0
        assert len(found) == N and all(abs(a - b) <= tolerance for a, b in zip(found, expected, strict=True))
        codes = {note.code for note in tables.report.notes}
        assert "naive_timestamps" not in codes
        assert ("nanoseconds" in codes) == (
            kind != "float64"
            and (unit == "epoch_ns" or (kind == "decimal" and unit != "epoch_s" and unit != "epoch_ms"))
        )


def test_float32_numbers_are_read_as_they_are(tmp_path: Path) -> None:
    numbers = pa.array([m.replace(tzinfo=UTC).timestamp() for m in moments(first=1900)], pa.float32())
    with read(tmp_path, numbers, time_format="epoch_s") as tables:
        assert times_of(tables) == [EPOCH + timedelta(seconds=number) for number in numbers.to_pylist()]


@pytest.mark.parametrize("kind", ["naive", "text", "format"])
def test_nanoseconds_are_cut_downwards_before_and_after_1970(tmp_path: Path, kind: str) -> None:
    random = Random(0)
    numbers = [n for i in range(N // 2) for n in (random.randrange(-3000, 3000), random.randrange(-(10**18), 10**18))]
    values: Any = pa.array(numbers, pa.timestamp("ns"))
    settings = {}
    if kind != "naive":
        values = [f"{EPOCH + timedelta(seconds=n // 10**9):%Y-%m-%d %H:%M:%S}.{n % 10**9:09}" for n in numbers]
        settings = {"time_format": "%Y-%m-%d %H:%M:%S.%n"} if kind == "format" else {}
    with read(tmp_path, values, **settings) as tables:
        assert times_of(tables) == [EPOCH + timedelta(microseconds=n // 1000) for n in numbers]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300, -1e300, 10.0**18])
@pytest.mark.parametrize("unit", [*UNITS, "epoch_ns"])
def test_numbers_that_are_no_time_are_rejected(tmp_path: Path, unit: str, value: float) -> None:
    if unit == "epoch_ns" and value == 10.0**18:
        pytest.skip("it is a time in 2001")
    with read(tmp_path, [value, 1.6e9 * 10**6 / UNITS.get(unit, 0.001)], time_format=unit) as tables:
        assert tables.report.tables["job_seekers"].rejected == {"bad_time": 1}


ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Africa/Casablanca",
    "UTC",
]


def in_zone(moment: datetime, name: str) -> datetime:
    """The documented rule: a time that occurs twice is the second, one that does not exist is that much later."""
    first, second = (moment.replace(tzinfo=ZoneInfo(name), fold=fold).astimezone(UTC) for fold in (0, 1))
    return max(first, second) if first < second else first


@lru_cache
def around_changes(name: str) -> list[datetime]:
    """Times on both sides of every change of clocks from 2000 to 2023, and others."""
    zone, found = ZoneInfo(name), []
    for hours in range(0, 24 * 365 * 23, 6):
        moment = datetime(2000, 1, 1, tzinfo=UTC) + timedelta(hours=hours)
        if moment.astimezone(zone).utcoffset() != (moment + timedelta(hours=6)).astimezone(zone).utcoffset():
            local = moment.astimezone(zone).replace(tzinfo=None)
            found += [local + timedelta(minutes=minutes) for minutes in range(-60, 8 * 60, 30)]
    return [*found, *moments(first=2000)]


@pytest.mark.parametrize("kind", ["us", "ns", "s", "csv", "text", "format"])
@pytest.mark.parametrize("zone", ZONES)
def test_times_without_a_zone_are_of_the_given_one(tmp_path: Path, zone: str, kind: str) -> None:
    naive = [moment.replace(microsecond=0) for moment in around_changes(zone)]
    settings = {"time_zone": zone}
    values: Any = [moment.isoformat(" ") for moment in naive]
    if kind in ("us", "ns", "s"):
        values = pa.array(naive, pa.timestamp(kind))
    elif kind == "format":
        values, settings["time_format"] = [f"{m:%d.%m.%Y %H:%M:%S}" for m in naive], "%d.%m.%Y %H:%M:%S"
    with read(tmp_path, values, "csv" if kind == "csv" else "parquet", **settings) as tables:
        assert times_of(tables) == [in_zone(moment, zone) for moment in naive]
        assert not {note.code for note in tables.report.notes} & {"naive_timestamps"}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_times_with_a_zone_keep_it(tmp_path: Path, suffix: str) -> None:
    values = ["2021-04-03T10:00:00+05:30", "2021-04-03 10:00:00Z", "2021-04-03 10:00:00", "2021-04-03"]
    with read(tmp_path, values, suffix, time_zone="Europe/Berlin") as tables:
        hours = [(moment.day, moment.hour + moment.minute / 60) for moment in times_of(tables)]
        assert hours == [(3, 4.5), (3, 10), (3, 8), (2, 22)]
    zoned = pa.array([datetime(2021, 4, 3, 10, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    with read(tmp_path, zoned, time_zone="Europe/Berlin") as tables:
        assert times_of(tables) == [datetime(2021, 4, 3, 10, tzinfo=UTC)]


def test_a_date_begins_at_midnight_of_the_zone(tmp_path: Path) -> None:
    with read(tmp_path, [date(2021, 7, 1), date(2021, 1, 1)], time_zone="America/New_York") as tables:
        assert times_of(tables) == [datetime(2021, 7, 1, 4, tzinfo=UTC), datetime(2021, 1, 1, 5, tzinfo=UTC)]


def test_a_format_for_a_column_of_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is TIMESTAMP already; remove `tables.job_seekers.time_format`"):
        read(tmp_path, moments(2), time_format="%d.%m.%Y")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_zone": "Europe/Berln"}, "no time zone.*Europe/Berlin"),
        ({"time_zone": "CEST"}, "no time zone"),
        ({"time_zone": ""}, "no time zone"),
        ({"time_zone": "'; DROP"}, "no time zone"),
        ({"time_format": "%d.%m.%Q"}, "no pattern for times"),
        ({"time_format": ""}, "no pattern for times"),
        ({"time_format": "dd.mm.yyyy"}, "does not give a year, a month and a day"),
        ({"time_format": "%d.%m. %H:%M"}, "does not give a year, a month and a day"),
        ({"time_format": "%d.%m.%Y %I:%M"}, "morning from evening"),
        ({"time_format": "%Y-%m-%d %M"}, "leaves out a part"),
        ({"time_format": "%Y-%m-%d %H:%S"}, "leaves out a part"),
        ({"time_format": "%Y-%m-%d %H:%M.%f"}, "leaves out a part"),
        ({"time_format": "epoch"}, "epoch_s, epoch_ms"),
        ({"time_format": "epoch_s", "time_zone": "Europe/Berlin"}, "leave out `time_zone`"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(settings: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TableConfig(path="x.csv", **settings)  # type: ignore[arg-type]


def test_every_format_of_the_tests_is_accepted_and_so_is_every_zone() -> None:
    for time_format in FORMATS:
        assert check_time_format(time_format) == time_format
    for zone in ZONES:
        assert check_time_zone(zone) == zone
