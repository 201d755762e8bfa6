"""Rows of JSON lines. A row that cannot be read is a Rejection at its line, never an end of the run; a file that
breaks off, or is not what its name says, is an OSError."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from functools import partial

from operators.error_text import one_line
from operators.rejections import Rejection
from pipeline.reading.chunks import Chunk
from pipeline.reading.first_bytes import UTF8_MARK
from pipeline.reading.json_values import breaks_off
from pipeline.reading.open_text import BUFFER_BYTES, not_utf8, open_text
from pipeline.reading.rows import MAX_ROW_BYTES, RawRow, Unread, already_read, too_large
from pipeline.storage.whole_file import open_whole


def count_lines(chunk: Chunk) -> int:
    """How many lines of a JSON lines file begin in the chunk's byte range."""
    begins = 1 if chunk.start == 0 else 0
    with open_whole(chunk.uri, chunk.size) as file:
        file.seek(max(chunk.start - 1, 0))
        left = chunk.stop - 1 - max(chunk.start - 1, 0)
        while left > 0 and (data := file.read(min(left, BUFFER_BYTES))):
            begins += data.count(b"\n")
            left -= len(data)
    return begins


def json_lines(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a chunk of JSON lines; raises OSError where the last line breaks off."""
    with open_text(chunk) as file:
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
                text = data.removeprefix(UTF8_MARK) if line == 1 else data
                _require_whole(line, text)
                yield Unread(line, len(text), partial(parse_line, line, text))
            line += 1


def _require_whole(line: int, data: bytes) -> None:
    """Raise OSError for an object that the end of the file cuts off: nobody knows what else was to follow."""
    if data.endswith(b"\n") or not data.lstrip().startswith(b"{"):
        return
    try:
        json.loads(data.decode("utf-8", "replace"))
    except json.JSONDecodeError as error:
        if breaks_off(error):
            raise OSError(
                f"it breaks off in line {line}: an object has no end; is the file whole? accepted: the whole file, or the same "
                "without its last line"
            ) from error
    except (ValueError, RecursionError):
        return  # a number of thousands of digits, a nested bomb: the row is rejected


def _skip_line(file: io.BufferedReader) -> int:
    skipped = 0
    while data := file.readline(BUFFER_BYTES):
        skipped += len(data)
        if data.endswith(b"\n"):
            break
    return skipped


def parse_line(line: int, data: bytes) -> RawRow:
    """The row of a line of JSON, or its rejection."""
    try:
        text = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return RawRow(
            line,
            None,
            _as_json_text(data.rstrip(b"\r\n")),
            Rejection("invalid_utf8", not_utf8(data, error.start)),
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
