"""Delta tables: the Parquet files that hold a table's rows now. Others lie beside them that hold rows which are gone."""

from __future__ import annotations

import datetime
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.fs as pafs

from operators.error_text import first_line
from pipeline.storage.urls import is_url, open_filesystem

PREFIX = "delta://"
LOG = "_delta_log"
Value = bool | int | str | None  # of a partition
# What a table may ask of its readers and plain Parquet readers do. Others, such as vectors of deleted rows or columns under
# other names in the files, would give other rows than the table has.
_READ_ALIKE = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
_ADVICE = "accepted: a table without, or the same rows as Parquet"


def is_delta(path: str) -> bool:
    """Whether a path names a Delta table: by its prefix, or a folder by its log."""
    if path.startswith(PREFIX):
        return True
    filesystem, inner = open_filesystem(path)
    return bool(filesystem.get_file_info(f"{inner.rstrip('/')}/{LOG}").type == pafs.FileType.Directory)


def files_of_table(path: str) -> list[str]:
    """The Parquet files of a table's current version, sorted; raises ValueError where they and the values of their partitions
    would not give its rows."""
    return _open_table(path)[1]


def values_of_partitions(path: str) -> dict[str, dict[str, Value]]:
    """The columns of each file that its table keeps in its log in place of the file, with their one value; without a file where
    the table is not partitioned. Raises ValueError as `files_of_table`, and for a value that is no text, whole number, truth
    value or date."""
    table, files = _open_table(path)
    if not table.metadata().partition_columns:
        return {}
    place = _place_of(path)
    root = (table.table_uri if is_url(place) else place).rstrip("/") + "/"
    try:
        added = pa.table(table.get_add_actions()).select(["path", "partition"]).to_pylist()
    except Exception as error:  # of a stranger's log: a value that is none of its column's type, for one
        raise ValueError(f"the partitions of the Delta table cannot be read: {first_line(error)}; {_ADVICE}") from error
    values = {root + unquote(file["path"]): file["partition"] for file in added}
    if len(values) != len(added) or sorted(values) != files:
        raise ValueError(f"it is a Delta table that is partitioned, with files outside its folder; {_ADVICE}")
    return {uri: {name: _scalar(name, value) for name, value in columns.items()} for uri, columns in values.items()}


def _scalar(name: str, value: object) -> Value:
    """A value as JSON has it; a date, as its text, is carried along as one in a column is."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return str(value)
    raise ValueError(f"it is a Delta table that is partitioned by {name}, of type {type(value).__name__}; {_ADVICE}")


def _place_of(path: str) -> str:
    place = path.removeprefix(PREFIX)
    return place if is_url(place) else open_filesystem(place)[1]


def _open_table(path: str) -> tuple[Any, list[str]]:
    """A table and its files, sorted."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError as error:
        raise ValueError(
            "it is a Delta table, and deltalake is not installed: pip install 'task-specificity[delta]'"
        ) from error
    try:
        table = DeltaTable(_place_of(path))
        protocol, files = table.protocol(), sorted(table.file_uris())
    except (DeltaError, OSError) as error:
        raise ValueError(f"it cannot be read as a Delta table: {first_line(error)}") from error
    asked = set(protocol.reader_features or ()) - _READ_ALIKE
    if asked or protocol.min_reader_version == 2:
        raise ValueError(f"it is a Delta table with {', '.join(sorted(asked)) or 'columnMapping'}; {_ADVICE}")
    return table, files
