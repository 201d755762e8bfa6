"""Part files: each stage writes Parquet parts under names of its own and returns a record of each.

Names are new for every attempt, and only recorded parts are ever read: a retried task leaves a file that nobody lists. The
records, a few hundred bytes each, are all that the driver sees of the data.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from operators.schema import conform

Record = dict[str, Any]


def write_part(folder: str | Path, table: pa.Table, schema: pa.Schema) -> Record:
    """Write `table` as one part of `folder`; the record holds its path, rows and bytes."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / f"{uuid.uuid4().hex}.parquet"
    pq.write_table(conform(table, schema), path, compression="zstd")
    return {"path": str(path), "rows": len(table), "bytes": path.stat().st_size}


def read_part(record: Record, columns: list[str] | None = None) -> pa.Table:
    """The table of one recorded part, or some of its columns."""
    return pq.read_table(record["path"], columns=columns, memory_map=True)


def record_table(records: Iterable[Record]) -> pa.Table:
    """Records as the output batch of a Ray Data stage."""
    return pa.table({"record": pa.array([json.dumps(record) for record in records], pa.string())})
