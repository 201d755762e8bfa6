"""Places of the inputs at which a plan looks: cells, in an order that follows from the seed and is spread over files by size.

A cell is where a reader can begin: a range of bytes of JSON lines, a row group of Parquet, a range of rows of a dataset. What
can only be read from its beginning (CSV, JSON, packed text) has its cells in its first bytes, which stand for the others.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from operators.error_text import first_line
from pipeline.reading.chunks import Chunk
from pipeline.reading.first_bytes import HEAD_BYTES, is_plain
from pipeline.reading.readers import read_chunk
from pipeline.reading.rows import Unread
from pipeline.storage.urls import is_url, name_of
from pipeline.storage.whole_file import open_whole

CELL_BYTES = 32 << 10  # of text
REMOTE_CELL_BYTES = 256 << 10  # where each look is a request
CELL_ROWS = 64  # of a dataset
GROUP_ROWS = 256  # of a row group of Parquet that are looked at
HEAD_OF_FILE = 4 << 20  # of a file that can only be read from its beginning
COUNTED = ("saved", "hub", "lance")  # kinds whose chunks are ranges of rows
IN_ROWS = (*COUNTED, "parquet")  # kinds whose rows are known before they are read
GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Look:
    """A cell as it was looked at: rows that were read, `rows` that it has, and `size` of it, in the unit of its stratum."""

    unread: list[Unread]
    chunk: Chunk
    rows: int
    size: int


class Stratum:
    """The chunks of one kind of one input, cut into cells; `size` is their bytes, or rows where these are known."""

    def __init__(self, chunks: list[Chunk], seed: int):
        self.kind, self._chunks = chunks[0].kind, chunks
        self.sizes = [chunk_size(chunk) for chunk in chunks]
        self.size = sum(self.sizes)
        self._cells = [self._cell_count(chunk, size) for chunk, size in zip(chunks, self.sizes, strict=True)]
        self.cells = sum(self._cells)
        self._random = random.Random(seed)

    def _cell_count(self, chunk: Chunk, size: int) -> int:
        if chunk.kind == "parquet":
            return max(0, chunk.stop - chunk.start)
        if chunk.kind in COUNTED:
            return -(-size // CELL_ROWS)
        return -(-size // _cell_bytes(chunk))

    def looks(self) -> Iterator[Look]:
        """Looks at cells, none twice, in an order of which every beginning is spread over all of them."""
        edges = np.r_[0, np.cumsum(self._cells)]
        heads: dict[int, Iterator[Look]] = {}
        for cell in spread(self.cells, self._random.random()):
            place = int(np.searchsorted(edges, cell, side="right")) - 1
            chunk, number = self._chunks[place], cell - int(edges[place])
            if self._is_from_beginning(chunk):
                look = next(heads.setdefault(place, self._pieces_of_head(chunk)), None)
            else:
                look = self._look(chunk, number)
            if look is not None:
                yield look

    def whole(self) -> Iterator[Look]:
        """Every row, chunk by chunk."""
        for chunk, size in zip(self._chunks, self.sizes, strict=True):
            rows = list(_rows_of(chunk))
            yield Look(rows, chunk, len(rows), size)

    def _is_from_beginning(self, chunk: Chunk) -> bool:
        if chunk.kind == "jsonl":
            return chunk.compression is not None or not _plain(chunk.uri, chunk.size)
        return chunk.kind not in IN_ROWS

    def _look(self, chunk: Chunk, number: int) -> Look:
        if chunk.kind == "jsonl":
            end = chunk.stop if chunk.stop >= 0 else chunk.size
            start = chunk.start + number * _cell_bytes(chunk)
            stop = min(start + _cell_bytes(chunk), end)
            rows = list(_rows_of(replace(chunk, start=start, stop=stop)))
            return Look(rows, chunk, len(rows), stop - start)
        if chunk.kind in COUNTED:
            start = chunk.start + number * CELL_ROWS
            stop = min(start + CELL_ROWS, chunk.stop)
            return Look(list(_rows_of(replace(chunk, start=start, stop=stop))), chunk, stop - start, stop - start)
        group = chunk.start + number
        rows = list(itertools.islice(_rows_of(replace(chunk, start=group, stop=group + 1)), GROUP_ROWS))
        size = rows_of_groups(chunk.uri, chunk.size)[group]
        return Look(rows, chunk, size, size)

    def _pieces_of_head(self, chunk: Chunk) -> Iterator[Look]:
        """The rows of the beginning of a file, at random as many each time as a cell of it has; the first look counts them."""
        rows, size = _beginning(chunk)
        self._random.shuffle(rows)
        for number, part in enumerate(np.array_split(np.arange(len(rows)), max(1, -(-size // _cell_bytes(chunk))))):
            taken = [rows[row] for row in part.tolist()]
            yield Look(taken, chunk, 0 if number else len(rows), 0 if number else size)


def _rows_of(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a chunk; raises OSError that names its file."""
    try:
        yield from read_chunk(chunk)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise OSError(f"{chunk.uri} cannot be read whole: {first_line(error)}") from error


def chunk_size(chunk: Chunk) -> int:
    """Bytes of a chunk, or its rows where they are known before they are read."""
    if chunk.kind in COUNTED or (chunk.kind == "jsonl" and chunk.stop >= 0):
        return max(0, chunk.stop - chunk.start)
    if chunk.kind == "parquet":
        return sum(rows_of_groups(chunk.uri, chunk.size)[chunk.start : chunk.stop])
    return chunk.size


@lru_cache(maxsize=4096)
def rows_of_groups(uri: str, size: int) -> list[int]:
    """The rows of each row group of a Parquet file."""
    with open_whole(uri, size) as opened:
        metadata = pq.ParquetFile(opened).metadata
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def spread(count: int, begin: float) -> Iterator[int]:
    """The numbers below `count`, each once, of which every beginning is spread over all: steps of the golden ratio."""
    seen: set[int] = set()
    for step in range(count):
        number = int((begin + step * GOLDEN) % 1.0 * count)
        while number in seen:
            number = (number + 1) % count
        seen.add(number)
        yield number


def _cell_bytes(chunk: Chunk) -> int:
    return REMOTE_CELL_BYTES if is_url(chunk.uri) else CELL_BYTES


@lru_cache(maxsize=4096)
def _plain(uri: str, size: int) -> bool:
    with open_whole(uri, size) as opened:
        return is_plain(bytes(opened.read(HEAD_BYTES)))


def _beginning(chunk: Chunk) -> tuple[list[Unread], int]:
    """The rows of the first bytes of a file, and how many bytes these are."""
    if chunk.size <= HEAD_OF_FILE or chunk.kind == "arrow":
        return list(_rows_of(chunk)), chunk.size
    with _first_bytes(chunk) as head:
        rows: list[Unread] = []
        try:
            rows.extend(row for row in read_chunk(head))
        except (OSError, EOFError):  # where it was cut
            rows = rows[:-1]
        if rows:
            return [_looked_into(row) for row in rows], head.size
    rows = list(itertools.islice(_rows_of(chunk), GROUP_ROWS))
    return rows, sum(row.size for row in rows)


@contextmanager
def _first_bytes(chunk: Chunk) -> Iterator[Chunk]:
    """A file of the first bytes of another."""
    with open_whole(chunk.uri, chunk.size) as opened:
        data = bytes(opened.read(HEAD_OF_FILE))
    with tempfile.TemporaryDirectory(prefix="tss-plan-") as folder:
        path = Path(folder, name_of(chunk.uri))
        path.write_bytes(data)
        yield replace(chunk, uri=str(path), size=len(data), version=None)


def _looked_into(row: Unread) -> Unread:
    raw = row.read()
    return Unread(row.line, row.size, lambda: raw)
