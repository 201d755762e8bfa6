"""Rows of JSON lines, JSON and CSV. A row that cannot be read is a Rejection at its line, never an end of the run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from operators.error_text import one_line
from operators.layouts import expand, is_task_file
from operators.rejections import Rejection
from pipeline.reading.chunks import Chunk
from pipeline.reading.rows import (
    KEPT_OF_LARGE_ROW,
    MAX_ROW_BYTES,
    NOTHING,
    RawRow,
    Unread,
    already_read,
    row_of,
    too_large,
)
from pipeline.storage.urls import open_filesystem

MAX_ARRAY_BYTES = 1 << 30  # of a JSON array, which is parsed as a whole


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


def json_lines(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a chunk of JSON lines."""
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
                yield already_read(too_large(line, data, len(data) + rest))
            elif data.strip():
                text = data.removeprefix(b"\xef\xbb\xbf") if line == 1 else data
                yield Unread(line, len(text), partial(_parse_line, line, text))
            line += 1


def _skip_line(file: io.BufferedReader) -> int:
    skipped = 0
    while data := file.readline(1 << 20):
        skipped += len(data)
        if data.endswith(b"\n"):
            break
    return skipped


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
        detail = at or one_line(error)
        return RawRow(line, None, json.dumps(text, ensure_ascii=False), Rejection("malformed_json", detail))
    return RawRow(line, record, text)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _as_json_text(data: bytes) -> str:
    return json.dumps(data.decode("utf-8", "backslashreplace"), ensure_ascii=False)


def json_file(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a JSON array, of a task file of Natural Instructions, or of JSON lines in a file of the name of one."""
    with _open(chunk) as file:
        start = file.peek(1 << 16)[: 1 << 16].removeprefix(b"\xef\xbb\xbf").lstrip()
        if start[:1] != b"[":
            task = _task_file(file)
            yield from json_lines(chunk) if task is None else _rows_of(expand(task))
            return
        data = file.read(MAX_ARRAY_BYTES + 1)
    if len(data) > MAX_ARRAY_BYTES:
        raise OSError(
            f"found a JSON array of more than {MAX_ARRAY_BYTES >> 20} MiB, which is read as a whole; accepted: smaller arrays, "
            "and JSON lines (one object a line) of any size"
        )
    parsed = _parse_line(1, data.removeprefix(b"\xef\xbb\xbf"))
    del data
    if parsed.problem is None:
        records = parsed.record
        del parsed  # the text of the file
        yield from _rows_of(records)
        return
    detail = f"the whole file is one JSON array, and it cannot be read: {parsed.problem.detail}"
    shown = parsed.raw[:KEPT_OF_LARGE_ROW]
    raw = shown if len(parsed.raw) <= KEPT_OF_LARGE_ROW else json.dumps(shown)
    yield already_read(RawRow(1, None, raw, Rejection(parsed.problem.reason, detail)))


def _task_file(file: io.BufferedReader) -> Any:
    """The object of a task file of Natural Instructions; None where the file is another."""
    first = file.readline(MAX_ROW_BYTES + 1)
    line = _parse_line(1, first.removeprefix(b"\xef\xbb\xbf"))
    rest = file.read(1 << 16 if line.problem is None else MAX_ARRAY_BYTES)
    if line.problem is None and rest.strip():
        return None  # JSON lines
    record = (
        line.record if line.problem is None else _parse_line(1, (first + rest).removeprefix(b"\xef\xbb\xbf")).record
    )
    return record if isinstance(record, dict) and is_task_file(record) else None


def _rows_of(records: list[Any]) -> Iterator[Unread]:
    for row, record in enumerate(records, 1):
        yield Unread(row, 0, partial(row_of, row, record))


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


def csv_rows(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a CSV file with a header."""
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
                yield already_read(too_large(line, lines.start.encode("utf-8", "surrogateescape"), *error.args))
                continue
            except csv.Error as error:
                yield already_read(RawRow(line, None, NOTHING, Rejection("malformed_csv", one_line(error))))
                continue
            if values is None:
                return
            if values:
                yield Unread(line, sum(map(len, values)), partial(_csv_row, line, header, values))


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
    return row_of(line, dict(zip(header, values, strict=True)))
