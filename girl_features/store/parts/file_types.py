"""Column types of the Parquet files of one source, which DuckDB would cast to those of the first file.

Files may differ in the width of integers, floats, text and time units, and may have a column of nulls alone. Any other
difference could change values, and is refused. So are types that DuckDB reads as another value.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

from girl_features.errors import StoreError
from girl_features.sql import parquet_relation

_NULL = "null"  # the name of the type, at the end of the group of a list of nulls
_PLACE = ("file_index", "file_row_number")  # by these names DuckDB gives the place of a row
MAX_DIGITS = 38  # of a decimal in DuckDB
# schemas of the files that were read, each with inode, bytes and time of change of the file
_read: dict[Path, tuple[tuple[int, int, int], pa.Schema]] = {}


def typed_relation(files: Sequence[Path], names: Sequence[str], **options: bool | str) -> str:
    """Return SQL for the rows of Parquet `files`, with the values that each file gives when it is read by itself.

    This holds for the columns `names`. Files that would change each other's values are refused.

    Raises:
        StoreError: two files disagree about a column, or DuckDB cannot read its type, or cannot tell it from another
            one by its name; names the files.
    """
    types: dict[str, tuple[pa.DataType, Path]] = {}
    missing, has_one_type = {*names}, True
    for path in files:
        columns = _columns(path)
        has_place = "file_row_number" in options
        if len(columns) < len(file_schema(path)) or (has_place and not columns.keys().isdisjoint(_PLACE)):
            _refuse_names(path, names, has_place)
        missing = {name for name in missing if name.lower() not in columns}
        for name in names:
            found = columns.get(name.lower(), pa.null())
            if (unreadable := _unreadable(found)) is not None:
                raise StoreError(
                    f"{path}: column {name!r} is {found}, and DuckDB would read {unreadable} as another value; "
                    f"cast it to a number or text in the source"
                )
            first, first_path = types.setdefault(name, (found, path))
            has_one_type &= found == first
            if _group(first).endswith(_NULL):
                types[name] = (found, path)
            elif not _are_alike(_group(first), _group(found)):
                raise StoreError(
                    f"column {name!r} is {first} in {first_path} and {found} in {path}; "
                    f"write both files with one type, for DuckDB would cast one to the other"
                )
    if missing:
        raise StoreError(
            f"no file in {files[0].parent} has a column {min(missing)!r}; they have {', '.join(_columns(files[0]))}; "
            f"correct the view or the source"
        )
    if not has_one_type:
        options["union_by_name"] = True
    return parquet_relation(files, **options)


def _refuse_names(path: Path, names: Sequence[str], has_place: bool) -> None:
    """Refuse a file with two of `names` that differ in case alone, or with a name of DuckDB's if it gives the place."""
    stored = file_schema(path).names
    if has_place and (reserved := [name for name in stored if name.lower() in _PLACE]):
        raise StoreError(f"{path} has a column {reserved[0]!r}, a name that DuckDB needs for itself; rename the column")
    for name in names:
        alike = [found for found in stored if found.lower() == name.lower()]
        if len(alike) > 1:
            raise StoreError(
                f"{path} has the columns {' and '.join(map(repr, alike))}, which DuckDB takes for one, because it "
                f"ignores case; rename one of them"
            )


def file_schema(path: Path) -> pa.Schema:
    """Return the schema of a Parquet file, whose footer is read once until the file changes."""
    status = path.stat()
    identity = (status.st_ino, status.st_size, status.st_mtime_ns)
    known, schema = _read.get(path, (None, None))
    if known != identity:
        schema = pq.read_schema(path)
        _read[path] = (identity, schema)
    return schema


def _columns(path: Path) -> dict[str, pa.DataType]:
    """Return the types of a file's columns by name in lower case, as DuckDB ignores case."""
    return {field.name.lower(): field.type for field in file_schema(path)}


def _are_alike(one: str, other: str) -> bool:
    """True for groups that are equal, or of which one is a list as the other, but has no values in it yet."""
    return one == other or (other.endswith(_NULL) and one.startswith(other.removesuffix(_NULL)))


def _group(kind: pa.DataType) -> str:
    """Return a name that types have in common if DuckDB finds one type for both that holds all values of both."""
    if kinds.is_dictionary(kind):
        return _group(kind.value_type)
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        return f"list of {_group(kind.value_type)}"
    for is_one, name in (
        (kinds.is_integer, "integer"),
        (kinds.is_floating, "float"),
        (kinds.is_decimal, "decimal"),
        (kinds.is_timestamp, "timestamp"),
        (kinds.is_date, "date"),
    ):
        if is_one(kind):
            return name
    if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind):
        return "text"
    is_binary = kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind)
    return "bytes" if is_binary or kinds.is_fixed_size_binary(kind) else str(kind)


def _unreadable(kind: pa.DataType) -> str | None:
    """Return the type, or one inside it, that DuckDB reads as another value; None if there is none."""
    if kinds.is_duration(kind) or (kinds.is_decimal(kind) and kind.precision > MAX_DIGITS):
        return str(kind)
    if kinds.is_dictionary(kind):
        return _unreadable(kind.value_type)
    inside = (_unreadable(kind.field(i).type) for i in range(kind.num_fields))
    return next((found for found in inside if found is not None), None)
