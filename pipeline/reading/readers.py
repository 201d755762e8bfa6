"""The reader of each kind of file: one chunk, row by row."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.reading import csv_files, json_files, tables, text_files
from pipeline.reading.chunks import Chunk
from pipeline.reading.data_folders import arranged
from pipeline.reading.rows import Unread

READERS = {
    "jsonl": text_files.json_lines,
    "json": json_files.json_file,
    "csv": csv_files.csv_rows,
    "parquet": tables.parquet,
    "arrow": tables.arrow,
    "saved": tables.dataset,
    "lance": tables.lance,
    "hub": tables.dataset,
}


def read_chunk(chunk: Chunk) -> Iterator[Unread]:
    """All rows of a chunk, in order.

    Raises OSError, EOFError or pa.ArrowException where a file breaks off or cannot be told into rows.
    """
    rows = READERS[chunk.kind](chunk)
    return rows if chunk.entry is None else (arranged(row, chunk.entry) for row in rows)
