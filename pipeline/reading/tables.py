"""Rows of files that hold columns: Parquet, and datasets saved by `datasets` or from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from operators.error_text import one_line
from operators.rejections import Rejection
from pipeline.reading.chunks import Chunk, open_dataset
from pipeline.reading.rows import NOTHING, RawRow, Unread, already_read, row_of
from pipeline.storage.urls import open_filesystem

# Rows of Parquet that are decoded at once. A file says nothing that can be trusted about how large they will be: columns that
# are stored as a dictionary or by what each value shares with the last take a thousand times less there. More at once would
# save 15 microseconds a row, where the tokenizer takes hundreds.
DECODED_AT_ONCE = 4


def parquet(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a chunk's row groups."""
    filesystem, inner = open_filesystem(chunk.uri)
    with filesystem.open_input_file(inner) as opened:
        file = pq.ParquetFile(opened)
        require_names(file.schema_arrow)
        row = 1 + sum(file.metadata.row_group(group).num_rows for group in range(chunk.start))
        for batch in file.iter_batches(batch_size=DECODED_AT_ONCE, row_groups=range(chunk.start, chunk.stop)):
            for place in range(len(batch)):
                yield Unread(row + place, batch.nbytes // len(batch), partial(_arrow_row, row + place, batch, place))
            row += len(batch)


def require_names(schema: pa.Schema) -> None:
    """Raise OSError where two columns have one name."""
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        raise OSError(f"two columns have the name {twice!r}; accepted: a schema in which each has its own")


def _arrow_row(line: int, batch: pa.RecordBatch, place: int) -> RawRow:
    try:
        record = {name: batch.column(i)[place].as_py() for i, name in enumerate(batch.schema.names)}
    except UnicodeDecodeError as error:
        return RawRow(line, None, NOTHING, Rejection("invalid_utf8", one_line(error)))
    except (ValueError, ArithmeticError, RecursionError) as error:  # a date after the year 9999, for one
        return RawRow(line, None, NOTHING, Rejection("wrong_type", f"a column has no value: {one_line(error)}"))
    return row_of(line, record)


def dataset(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a chunk's range of a Hugging Face dataset."""
    rows = open_dataset(chunk).select(range(chunk.start, chunk.stop))
    for line, record in enumerate(rows, chunk.start + 1):
        yield already_read(row_of(line, dict(record)))
