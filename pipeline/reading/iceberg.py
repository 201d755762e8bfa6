"""Iceberg tables: the Parquet files of the current snapshot, where they alone give the table's rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from operators.error_text import first_line
from pipeline.storage.files import read
from pipeline.storage.urls import join, open_filesystem
from pipeline.storage.whole_file import open_whole

if TYPE_CHECKING:
    from pyiceberg.table.metadata import TableMetadata

PREFIX = "iceberg://"
FOLDER, SUFFIX = "metadata", ".metadata.json"
_HINT = "version-hint.text"
_VERSION = re.compile(r"v?(\d+)(?:-.*)?\.metadata\.json")  # v3.metadata.json, 00003-<uuid>.gz.metadata.json
_ADVICE = "accepted: a table without, or the same rows as Parquet"
# A value of the first is written and read as one of the second.
_WIDENED = {"int": "long", "float": "double"}


def is_iceberg(path: str) -> bool:
    """Whether a path names an Iceberg table: by its prefix, or a folder by what describes its versions."""
    return path.startswith(PREFIX) or any(name.endswith(SUFFIX) for name in _metadata_names(path))


def files_of_table(path: str) -> list[str]:
    """The Parquet files of a table's current snapshot, sorted; raises ValueError where they alone would not give its rows,
    FileNotFoundError where one is missing. The path is that of the table, or of the file that describes one version of it."""
    try:
        import pyiceberg.io.pyarrow  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "it is an Iceberg table, and pyiceberg is not installed: pip install 'task-specificity[iceberg]'"
        ) from error
    metadata_file = current_metadata(path)
    try:
        table, entries = _read_table(metadata_file)
    except FileNotFoundError:
        raise
    except Exception as error:  # of a stranger's files; pyiceberg's errors have no base of their own
        raise ValueError(f"it cannot be read as an Iceberg table: {metadata_file}: {first_line(error)}") from error
    return sorted(_checked(table, entry.data_file) for entry in entries)


def current_metadata(path: str) -> str:
    """The file that describes a table now. Without a catalog that is the version that version-hint.text names, or the last
    of those that follow it without a gap, since the hint is written after the version; without a hint, the highest version.
    Raises ValueError where that is no single file."""
    place = path.removeprefix(PREFIX).rstrip("/")
    if place.endswith(SUFFIX):
        return place if "://" in place else open_filesystem(place)[1]
    names = _metadata_names(place)
    folder = join(place if "://" in place else open_filesystem(place)[1], FOLDER)
    versions = {name: int(match[1]) for name in names if (match := _VERSION.fullmatch(name))}
    if not versions:
        raise ValueError(f"it is not an Iceberg table: no *{SUFFIX} with a version in its name in {folder}")
    if _HINT in names:
        hint = read(join(folder, _HINT), at_most=1000).decode("utf-8", "replace").strip()
        number = int(hint) if hint.isdecimal() else None
        if number is None:
            named = [name for name in versions if name in (hint, hint + SUFFIX)]
        else:
            while number + 1 in versions.values():
                number += 1
            named = [name for name, version in versions.items() if version == number]
        if not named:
            raise ValueError(
                f"its {_HINT} names the version {hint!r}, which is not in {folder}; accepted: {PREFIX} and the path of "
                f"a file *{SUFFIX} of it"
            )
    else:
        named = [name for name, version in versions.items() if version == max(versions.values())]
    if len(named) > 1:
        raise ValueError(
            f"which of {', '.join(sorted(named))} describes the table now is known to its catalog alone; accepted: "
            f"{PREFIX} and the path of that file"
        )
    return join(folder, named[0])


def _metadata_names(path: str) -> list[str]:
    """Names of the files in the metadata folder of what may be a table."""
    filesystem, inner = open_filesystem(path)
    folder = f"{inner.rstrip('/')}/{FOLDER}"
    if filesystem.get_file_info(folder).type != pafs.FileType.Directory:
        return []
    return [entry.base_name for entry in filesystem.get_file_info(pafs.FileSelector(folder))]


def _read_table(metadata_file: str) -> tuple[TableMetadata, list[Any]]:
    """What a file says of its table, and the entries of the snapshot's live files, of data and of deleted rows.

    `StaticTable` would let the table's own properties name the class that opens its files."""
    from pyiceberg.io.pyarrow import PyArrowFileIO
    from pyiceberg.serializers import FromInputFile

    opener = PyArrowFileIO()
    table = FromInputFile.table_metadata(opener.new_input(metadata_file))
    snapshot = table.current_snapshot()
    manifests = snapshot.manifests(opener) if snapshot else []
    return table, [entry for manifest in manifests for entry in manifest.fetch_manifest_entry(opener)]


def _checked(table: TableMetadata, file: Any) -> str:
    """Where a file of a snapshot lies; raises ValueError unless a reader of Parquet gets the table's rows from it."""
    uri = uri_of(file.file_path)
    if file.content.name != "DATA":
        raise ValueError(f"it is an Iceberg table with deleted rows, which {uri} lists; {_ADVICE}")
    if file.file_format.name != "PARQUET":
        raise ValueError(f"it is an Iceberg table with files of {file.file_format.name}, such as {uri}; {_ADVICE}")
    try:
        with open_whole(uri) as opened:
            schema = pq.ParquetFile(opened).schema_arrow
    except FileNotFoundError as error:
        raise FileNotFoundError(uri) from error
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{uri}, a file of the Iceberg table, is not a Parquet file: {first_line(error)}") from error
    for difference in _differences(table, file.spec_id, schema):
        raise ValueError(f"it is an Iceberg table whose columns have changed: {uri} {difference}; {_ADVICE}")
    return uri


def uri_of(location: str) -> str:
    """A path, or a URL as Arrow takes it, for a location as writers of tables note it."""
    if location.startswith("file:"):
        return re.sub(r"^file:/+", "/", location)
    return re.sub(r"^s3[an]://", "s3://", location)


def _differences(table: TableMetadata, spec: int | None, schema: pa.Schema) -> Iterator[str]:
    """What keeps the columns of a file from being those of the table, which knows them by ids, whatever their names. A column
    that came after the file is null in its rows, and one that is null is none."""
    from pyiceberg.io.pyarrow import pyarrow_to_schema

    try:
        written = pyarrow_to_schema(schema, table.name_mapping(), format_version=table.format_version)
    except Exception as error:  # noqa: BLE001 - as above
        yield f"has columns that cannot be compared with the table's ({first_line(error)})"
        return
    there, now = ({column.field_id: column for column in of.fields} for of in (written, table.schema()))
    specs = table.specs()
    # Files that another table left to this one may lack such a column, whose value is then that of the partition.
    partitions = specs[spec].fields if spec in specs else ()
    in_partition = {field.source_id for field in partitions if str(field.transform) == "identity"}
    for number, column in there.items():
        if number not in now:
            yield f"has the column {column.name!r}, which the table has dropped"
        elif _shape(column) != _shape(now[number]):
            yield f"has the column {column}, where the table has {now[number]}"
    for number, column in now.items():
        if number not in there and number in in_partition:
            yield f"lacks the column {column.name!r}, by which the table is partitioned"
        elif number not in there and getattr(column, "initial_default", None) is not None:
            yield f"lacks the column {column.name!r}, which has the default {column.initial_default!r}"


def _shape(column: Any) -> dict[int, tuple[str | None, str]]:
    """The name and type of a column and of all that is nested in it, by their ids."""
    from pyiceberg.schema import Schema

    schema = Schema(column)
    shape = {}
    for number in schema.field_ids:
        kind = schema.find_type(number)
        text = str(kind) if kind.is_primitive else type(kind).__name__
        shape[number] = (schema.find_column_name(number), _WIDENED.get(text, text))
    return shape
