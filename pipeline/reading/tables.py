"""Rows of files that hold columns: Parquet, Arrow, Lance, and datasets saved by `datasets` or from the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from operators.error_text import one_line
from operators.rejections import Rejection
from pipeline.reading.chunks import Chunk, open_dataset, open_lance_chunk
from pipeline.reading.delta import Value
from pipeline.reading.first_bytes import HEAD_BYTES, refuse_stand_in, require_stream_end
from pipeline.reading.rows import NOTHING, RawRow, Unread, row_of
from pipeline.storage.whole_file import open_whole

# Rows of Parquet that are decoded at once. A file says nothing that can be trusted about how large they will be: columns that
# are stored as a dictionary or by what each value shares with the last take a thousand times less there. More at once would
# save 15 microseconds a row, where the tokenizer takes hundreds.
DECODED_AT_ONCE = 4
TAKEN_AT_ONCE = 1000  # rows of a dataset, whose table lies on the disk as it lies in memory
_ARROW, _ARROW_STREAM = b"ARROW1", b"\xff\xff\xff\xff"  # what a file of each begins with


def parquet(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a chunk's row groups."""
    with open_whole(chunk.uri, chunk.size) as opened:
        file = pq.ParquetFile(opened)
        require_names(file.schema_arrow)
        row = 1 + sum(file.metadata.row_group(group).num_rows for group in range(chunk.start))
        for batch in file.iter_batches(batch_size=DECODED_AT_ONCE, row_groups=range(chunk.start, chunk.stop)):
            yield from _rows_of(row, _with_partition(batch, chunk.partition or {}))
            row += batch.num_rows


def _with_partition(batch: pa.RecordBatch, values: Mapping[str, Value]) -> pa.RecordBatch:
    """A batch with the columns that a table keeps in its log: what a file has under such a name does not count."""
    batch = batch.drop_columns([name for name in values if name in batch.schema.names])
    for name, value in values.items():
        batch = batch.append_column(name, pa.array([value] * batch.num_rows))
    return batch


def require_names(schema: pa.Schema) -> None:
    """Raise OSError where two columns have one name."""
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise OSError(f"two columns have the name {twice!r}; accepted: a schema in which each has its own")


def _arrow_row(line: int, batch: pa.RecordBatch | pa.Table, place: int) -> RawRow:
    try:
        record = {name: batch.column(i)[place].as_py() for i, name in enumerate(batch.schema.names)}
    except UnicodeDecodeError as error:
        return RawRow(line, None, NOTHING, Rejection("invalid_utf8", one_line(error)))
    except (ValueError, ArithmeticError, RecursionError) as error:  # a date after the year 9999, for one
        detail = f"a column holds a value that cannot be read: {one_line(error)}; accepted: the row without that column"
        return RawRow(line, None, NOTHING, Rejection("wrong_type", detail))
    return row_of(line, record)


def arrow(chunk: Chunk) -> Iterator[Unread]:
    """The rows of an Arrow file, or of an Arrow stream in a file."""
    with open_whole(chunk.uri, chunk.size) as opened:
        head = bytes(opened.read(HEAD_BYTES))
        refuse_stand_in(head, (_ARROW, _ARROW_STREAM))
        if not head.startswith(_ARROW):
            require_stream_end(opened)
        opened.seek(0)
        tables: Any = pa.ipc.open_file(opened) if head.startswith(_ARROW) else pa.ipc.open_stream(opened)
        require_names(tables.schema)
        batches = (
            (tables.get_batch(number) for number in range(tables.num_record_batches))
            if head.startswith(_ARROW)
            else tables
        )
        row = 1
        for batch in batches:
            yield from _rows_of(row, batch)
            row += batch.num_rows


def dataset(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a chunk's range of a Hugging Face dataset, as they lie in its table: what it was made to look like for a
    training loop does not count, and images and sounds are not decoded."""
    table = open_dataset(chunk).with_format("arrow").select(range(chunk.start, chunk.stop))
    row = chunk.start + 1
    for batch in table.iter(batch_size=TAKEN_AT_ONCE):
        yield from _rows_of(row, batch)
        row += batch.num_rows


def lance(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a chunk's range of a Lance dataset, in its order; rows that it has deleted are none and have no number."""
    opened = open_lance_chunk(chunk)
    require_names(opened.schema)
    row = chunk.start + 1
    batches = opened.to_batches(
        offset=chunk.start, limit=chunk.stop - chunk.start, batch_size=DECODED_AT_ONCE, scan_in_order=True
    )
    for batch in batches:
        yield from _rows_of(row, batch)
        row += batch.num_rows
    if row != chunk.stop + 1:
        raise OSError(f"row {row:,} and those after it are missing")


def _rows_of(row: int, batch: pa.RecordBatch | pa.Table) -> Iterator[Unread]:
    """The rows of a batch, the first of which has a number."""
    size = batch.nbytes // max(1, batch.num_rows)
    for place in range(batch.num_rows):
        yield Unread(row + place, size, partial(_arrow_row, row + place, batch, place))
