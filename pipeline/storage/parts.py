"""Part files: each stage writes Parquet parts under names of its own and returns a record of each.

Names are new for every attempt, and only recorded parts are ever read: a retried task leaves a file that nobody lists. A part
is checked when it is read: every page against its own checksum, and a part of an earlier run as a whole against the digest in
its record.
"""

from __future__ import annotations

import uuid

import pyarrow as pa
import pyarrow.parquet as pq

from operators.schema import conform, of_earlier_release
from pipeline.storage import files, urls
from pipeline.storage.records import Part
from pipeline.storage.whole_file import BrokenOff, open_whole


class DamagedPart(RuntimeError):
    """A part file that is not what was written: cut off, changed, or gone."""


def to_parquet(table: pa.Table, metadata: dict[str, str] | None = None) -> pa.Buffer:
    """A table as the bytes of a Parquet file with page checksums."""
    sink = pa.BufferOutputStream()
    schema = table.schema.with_metadata(metadata) if metadata else table.schema
    pq.write_table(table.cast(schema), sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def write_part(folder: str, table: pa.Table, schema: pa.Schema) -> Part:
    """Write `table`, which must have the columns of `schema`, as one part of `folder`."""
    return write_table(urls.join(folder, f"{uuid.uuid4().hex}.parquet"), conform(table, schema))


def write_table(path: str, table: pa.Table) -> Part:
    """Write a table as one file of a name that is known."""
    data = to_parquet(table)
    files.write(path, data)
    return Part(path, len(table), data.size, files.digest_of(memoryview(data)))


def read_table(path: str, columns: list[str] | None = None) -> pa.Table:
    """The table of a file, or some of its columns; raises DamagedPart, and where nothing follows for what it holds,
    BrokenOff and PermissionError."""
    try:
        source = open_whole(path) if urls.is_url(path) else path
        return pq.read_table(source, columns=columns, memory_map=not urls.is_url(path), page_checksum_verification=True)
    except (BrokenOff, PermissionError):
        raise
    except (OSError, pa.ArrowException) as error:
        raise DamagedPart(f"{path}: {_damage(error)}") from error


def read_columns(path: str, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` of a file that any release may have written: what it did not have is null. Raises as `read_table`
    does."""
    try:
        there = set(pq.read_schema(open_whole(path) if urls.is_url(path) else path).names)
    except (BrokenOff, PermissionError):
        raise
    except (OSError, pa.ArrowException) as error:
        raise DamagedPart(f"{path}: {_damage(error)}") from error
    return of_earlier_release(read_table(path, [name for name in schema.names if name in there]), schema)


def read_whole(part: Part, columns: list[str] | None = None) -> pa.Table:
    """The table of a part that an earlier run has published, or some of its columns, after a look at every byte of it; raises
    DamagedPart."""
    return pq.read_table(pa.BufferReader(checked_bytes(part)), columns=columns)


def checked_bytes(part: Part) -> bytes:
    """The bytes of a recorded part; raises DamagedPart where they are not those that were written, and where nothing
    follows for what they are, BrokenOff and PermissionError."""
    try:
        data = files.read(part.path)
    except (BrokenOff, PermissionError):
        raise
    except OSError as error:
        raise DamagedPart(f"{part.path}: {_damage(error)}") from error
    if files.digest_of(data) != part.digest:
        raise DamagedPart(
            f"{part.path}: is damaged: its {len(data):,} bytes are not the {part.bytes:,} that were written"
        )
    return data


def _damage(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is gone"
    lines = str(error).strip().splitlines()
    return f"is damaged or cut off: {lines[0] if lines else type(error).__name__}"
