"""Read one chunk row by row. A row that cannot be read is a Rejection at its line, never an end of the run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from operators.normalise import Rejection, strict_json
from pipeline.sources import Chunk, open_dataset
from pipeline.storage import open_filesystem

MAX_ROW_BYTES = 16 << 20
KEPT_OF_LARGE_ROW = 64 << 10  # of a row over MAX_ROW_BYTES, this much goes to rejected/, with its place in the file


@dataclass(frozen=True)
class RawRow:
    """A record at its line or row (from 1), or the reason why there is none; `raw` is what stood there, as JSON."""

    line: int
    record: Any
    raw: str
    problem: Rejection | None = None


def read_chunk(chunk: Chunk) -> Iterator[RawRow]:
    """All rows of a chunk, in order.

    Raises OSError, EOFError or pa.ArrowException where a file breaks off or cannot be told into rows.
    """
    readers = {
        "jsonl": _json_lines,
        "json": _json_file,
        "csv": _csv,
        "parquet": _parquet,
        "saved": _dataset,
        "hub": _dataset,
    }
    return map(_bounded, readers[chunk.kind](chunk))


def _bounded(row: RawRow) -> RawRow:
    """The row, or its rejection where it is too large: what is not a line of a file can be measured only once it is there."""
    if row.problem is not None or len(row.raw) <= MAX_ROW_BYTES:
        return row
    return _too_large(row.line, row.raw[:KEPT_OF_LARGE_ROW].encode("utf-8", "backslashreplace"), len(row.raw))


def _row(line: int, record: Any) -> RawRow:
    try:
        return RawRow(line, record, strict_json(record))
    except Rejection as problem:
        return RawRow(line, None, json.dumps(""), problem)


def count_lines(chunk: Chunk) -> int:
    """How many lines of a JSON lines file begin in the chunk's byte range."""
    filesystem, inner = open_filesystem(chunk.uri)
    begins = 1 if chunk.start == 0 else 0
    with filesystem.open_input_file(inner) as file:
        file.seek(max(chunk.start - 1, 0))
        left = chunk.stop - 1 - max(chunk.start - 1, 0)
        while left > 0 and (data := file.read(min(left, 1 << 20))):
            begins += data.count(b"\n")
            left -= len(data)
    return begins


def _open(chunk: Chunk) -> io.BufferedReader:
    filesystem, inner = open_filesystem(chunk.uri)
    if chunk.compression:
        return io.BufferedReader(filesystem.open_input_stream(inner, compression=chunk.compression), 1 << 20)
    return io.BufferedReader(filesystem.open_input_file(inner), 1 << 20)


def _json_lines(chunk: Chunk) -> Iterator[RawRow]:
    with _open(chunk) as file:
        offset = 0
        if chunk.start:
            file.seek(chunk.start - 1)
            offset = chunk.start - 1 + _skip_line(file)
        line = chunk.first_line
        while chunk.stop < 0 or offset < chunk.stop:
            data = file.readline(MAX_ROW_BYTES + 1)
            if not data:
                return
            offset += len(data)
            if len(data) > MAX_ROW_BYTES and not data.endswith(b"\n"):
                rest = _skip_line(file)
                offset += rest
                yield _too_large(line, data, len(data) + rest)
            elif data.strip():
                yield _parse_line(line, data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data)
            line += 1


def _skip_line(file: io.BufferedReader) -> int:
    skipped = 0
    while data := file.readline(1 << 20):
        skipped += len(data)
        if data.endswith(b"\n"):
            break
    return skipped


def _too_large(line: int, data: bytes, size: int) -> RawRow:
    kept = data[:KEPT_OF_LARGE_ROW].decode("utf-8", "replace")
    return RawRow(
        line,
        None,
        json.dumps(kept, ensure_ascii=False),
        Rejection("row_too_large", f"{size} bytes, at most {MAX_ROW_BYTES}; raw holds its beginning"),
    )


def _parse_line(line: int, data: bytes) -> RawRow:
    try:
        text = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return RawRow(
            line,
            None,
            _as_json_text(data.rstrip(b"\r\n")),
            Rejection("invalid_utf8", f"byte {error.start} of the line: {error.reason}"),
        )
    try:
        record = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        # The parser counts lines within the row's text, which has but one.
        at = f"character {error.colno} of the line: {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        detail = at or _one_line(error)
        return RawRow(line, None, json.dumps(text, ensure_ascii=False), Rejection("malformed_json", detail))
    return RawRow(line, record, text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _as_json_text(data: bytes) -> str:
    return json.dumps(data.decode("utf-8", "backslashreplace"), ensure_ascii=False)


def _json_file(chunk: Chunk) -> Iterator[RawRow]:
    with _open(chunk) as file:
        start = file.peek(1 << 16)[: 1 << 16].removeprefix(b"\xef\xbb\xbf").lstrip()
        if start[:1] != b"[":
            yield from _json_lines(chunk)
            return
        data = file.read()
    parsed = _parse_line(1, data.removeprefix(b"\xef\xbb\xbf"))
    if parsed.problem is not None:
        detail = f"the whole file is one JSON array, and it cannot be read: {parsed.problem.detail}"
        yield RawRow(
            1,
            None,
            parsed.raw[:KEPT_OF_LARGE_ROW]
            if len(parsed.raw) <= KEPT_OF_LARGE_ROW
            else json.dumps(parsed.raw[:KEPT_OF_LARGE_ROW]),
            Rejection(parsed.problem.reason, detail),
        )
        return
    for row, record in enumerate(parsed.record, 1):
        yield _row(row, record)


class _Lines:
    """Lines of a text file for the CSV parser, which joins those of a quoted field: no more than a row may have at a time."""

    def __init__(self, file: io.TextIOWrapper):
        self._file = file
        self.number = 0  # of the last line
        self.start = ""  # of the row
        self._size = 0

    def begin_row(self) -> None:
        self.start, self._size = "", 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_ROW_BYTES + 1)
        if not line:
            raise StopIteration
        self.number += 1
        self.start += line[: max(0, KEPT_OF_LARGE_ROW - len(self.start))]
        self._size += len(line)
        while len(line) > MAX_ROW_BYTES and not line.endswith(("\n", "\r")):
            line = self._file.readline(MAX_ROW_BYTES + 1)
            self._size += len(line)
            if not line:
                break
        if self._size > MAX_ROW_BYTES:
            raise _RowTooLarge(self._size)
        return line


class _RowTooLarge(Exception):
    """A row of CSV that is over MAX_ROW_BYTES; the parser drops what it has of it and goes on with the next line."""


def _csv(chunk: Chunk) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_ROW_BYTES)
    with io.TextIOWrapper(_open(chunk), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        lines = _Lines(file)
        reader = csv.reader(lines)
        try:
            header = next(reader, None)
        except (csv.Error, _RowTooLarge) as error:
            raise OSError("the header line is no CSV, or larger than a row may be") from error
        if header is None:
            return
        while True:
            line = lines.number + 1
            lines.begin_row()
            try:
                values = next(reader, None)
            except _RowTooLarge as error:
                yield _too_large(line, lines.start.encode("utf-8", "surrogateescape"), *error.args)
                continue
            except csv.Error as error:
                yield RawRow(line, None, json.dumps(""), Rejection("malformed_csv", _one_line(error)))
                continue
            if values is None:
                return
            if values:
                yield _csv_row(line, header, values)


def _csv_row(line: int, header: list[str], values: list[str]) -> RawRow:
    escaped = any("\udc80" <= char <= "\udcff" for value in values for char in value)
    shown = (
        [value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for value in values]
        if escaped
        else values
    )
    if escaped:
        return RawRow(
            line,
            None,
            json.dumps(shown, ensure_ascii=False),
            Rejection("invalid_utf8", "a field holds bytes that are not UTF-8"),
        )
    if len(values) != len(header):
        return RawRow(
            line,
            None,
            json.dumps(values, ensure_ascii=False),
            Rejection("malformed_csv", f"{len(values)} fields, and the header has {len(header)}"),
        )
    return _row(line, dict(zip(header, values, strict=True)))


def _parquet(chunk: Chunk) -> Iterator[RawRow]:
    filesystem, inner = open_filesystem(chunk.uri)
    with filesystem.open_input_file(inner) as opened:
        file = pq.ParquetFile(opened)
        row = 1 + sum(file.metadata.row_group(group).num_rows for group in range(chunk.start))
        for batch in file.iter_batches(batch_size=1000, row_groups=range(chunk.start, chunk.stop)):
            for place in range(len(batch)):
                yield _arrow_row(row + place, batch, place)
            row += len(batch)


def _arrow_row(line: int, batch: pa.RecordBatch, place: int) -> RawRow:
    try:
        record = {name: batch.column(i)[place].as_py() for i, name in enumerate(batch.schema.names)}
    except UnicodeDecodeError as error:
        return RawRow(line, None, json.dumps(""), Rejection("invalid_utf8", _one_line(error)))
    except (ValueError, ArithmeticError, RecursionError) as error:  # a date after the year 9999, for one
        return RawRow(line, None, json.dumps(""), Rejection("wrong_type", f"a column has no value: {_one_line(error)}"))
    return _row(line, record)


def _dataset(chunk: Chunk) -> Iterator[RawRow]:
    rows = open_dataset(chunk).select(range(chunk.start, chunk.stop))
    for line, record in enumerate(rows, chunk.start + 1):
        yield _row(line, dict(record))
