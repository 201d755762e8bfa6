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

from operators.normalise import Rejection
from pipeline.sources import Chunk, open_dataset, open_filesystem

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
    """All rows of a chunk, in order."""
    readers = {
        "jsonl": _json_lines,
        "json": _json_file,
        "csv": _csv,
        "parquet": _parquet,
        "saved": _dataset,
        "hub": _dataset,
    }
    return readers[chunk.kind](chunk)


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
        Rejection("row_too_large", f"{size} bytes, at most {MAX_ROW_BYTES}; raw holds the first {KEPT_OF_LARGE_ROW}"),
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
        yield RawRow(row, record, json.dumps(record, ensure_ascii=False))


def _csv(chunk: Chunk) -> Iterator[RawRow]:
    csv.field_size_limit(MAX_ROW_BYTES)
    with io.TextIOWrapper(_open(chunk), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, None)
        if header is None:
            return
        while True:
            line = reader.line_num + 1
            try:
                values = next(reader, None)
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
    record = dict(zip(header, values, strict=True))
    return RawRow(line, record, json.dumps(record, ensure_ascii=False))


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
    return RawRow(line, record, json.dumps(record, ensure_ascii=False, default=str))


def _dataset(chunk: Chunk) -> Iterator[RawRow]:
    rows = open_dataset(chunk).select(range(chunk.start, chunk.stop))
    for line, record in enumerate(rows, chunk.start + 1):
        yield RawRow(line, dict(record), json.dumps(record, ensure_ascii=False, default=str))
