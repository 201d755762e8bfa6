"""Part files: each stage writes Parquet parts under names of its own and returns a record of each.

Names are new for every attempt, and only recorded parts are ever read: a retried task leaves a file that nobody lists. The
records, a few hundred bytes each, are all that the driver sees of the data. A part is checked when it is read: every page
against its own checksum, and a part of an earlier run as a whole against the digest in its record.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from operators.schema import conform
from pipeline.storage import files, urls

Record = dict[str, Any]


class DamagedPart(RuntimeError):
    """A part file that is not what was written: cut off, changed, or gone."""


def to_parquet(table: pa.Table, metadata: dict[str, str] | None = None) -> pa.Buffer:
    """A table as the bytes of a Parquet file with page checksums."""
    sink = pa.BufferOutputStream()
    schema = table.schema.with_metadata(metadata) if metadata else table.schema
    pq.write_table(table.cast(schema), sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def write_part(folder: str, table: pa.Table, schema: pa.Schema) -> Record:
    """Write `table` as one part of `folder`; the record holds its path, rows, bytes and digest."""
    path = urls.join(folder, f"{uuid.uuid4().hex}.parquet")
    return {**write_table(path, conform(table, schema)), "rows": len(table)}


def write_table(path: str, table: pa.Table) -> Record:
    """Write a table as one file of a name that is known; the record holds path, bytes and digest."""
    data = to_parquet(table)
    files.write(path, data)
    return {"path": path, "bytes": data.size, "digest": files.digest_of(memoryview(data))}


def read_table(path: str, columns: list[str] | None = None) -> pa.Table:
    """The table of a file, or some of its columns; raises DamagedPart."""
    filesystem, inner = urls.open_filesystem(path)
    try:
        return pq.read_table(
            inner,
            columns=columns,
            filesystem=filesystem,
            memory_map=not urls.is_url(path),
            page_checksum_verification=True,
        )
    except (OSError, pa.ArrowException) as error:
        raise DamagedPart(f"{path}: {_damage(error)}") from error


def read_part(record: Record, columns: list[str] | None = None) -> pa.Table:
    """The table of one recorded part, or some of its columns; raises DamagedPart."""
    return read_table(record["path"], columns)


def read_whole(record: Record) -> pa.Table:
    """The table of a part that an earlier run has published, after a look at every byte of it; raises DamagedPart."""
    return pq.read_table(pa.BufferReader(checked_bytes(record)))


def checked_bytes(record: Record) -> bytes:
    """The bytes of a recorded part; raises DamagedPart where they are not those that were written."""
    try:
        data = files.read(record["path"])
    except OSError as error:
        raise DamagedPart(f"{record['path']}: {_damage(error)}") from error
    if "digest" in record and files.digest_of(data) != record["digest"]:
        raise DamagedPart(
            f"{record['path']}: is damaged: its {len(data):,} bytes are not the {record['bytes']:,} that were written"
        )
    return data


def _damage(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is gone"
    lines = str(error).strip().splitlines()
    return f"is damaged or cut off: {lines[0] if lines else type(error).__name__}"


def record_table(records: Iterable[Record]) -> pa.Table:
    """Records as the output batch of a Ray Data stage."""
    return pa.table({"record": pa.array([json.dumps(record) for record in records], pa.string())})
