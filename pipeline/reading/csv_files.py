"""Rows of CSV files, parsed strictly: a quote that is never closed or stands inside a field rejects no other row."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from operators.rejections import Rejection
from pipeline.reading.chunks import Chunk
from pipeline.reading.open_text import BUFFER_BYTES, not_utf8, open_text
from pipeline.reading.rows import KEPT_OF_LARGE_ROW, MAX_ROW_BYTES, RawRow, Unread, already_read, row_of, too_large

DELIMITERS = (",", ";", "\t")
_QUOTED = re.compile(r'([^"]*+(?:""[^"]*+)*+)("?)')  # what follows a quote, up to the one that ends it
_PLAIN = {delimiter: re.compile(rf'[^"{delimiter}\r\n]*+') for delimiter in DELIMITERS}
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


class _Fault(Exception):
    """Text that is no record, and why."""


@dataclass(frozen=True)
class _Line:
    """A line of the file with its end; of one that is longer than a row may be, the beginning."""

    text: str
    size: int  # characters of the whole line


class _Lines:
    """The lines of a file, which may be looked at before they are taken."""

    def __init__(self, file: io.TextIOWrapper):
        self._file = file
        self._ahead: list[_Line] = []
        self._first = 0  # of those ahead that is not taken
        self.number = 0  # of the last line that was taken

    def look(self, place: int) -> _Line | None:
        """The line at a place among those that follow (from 0), None behind the last."""
        while len(self._ahead) <= self._first + place:
            text = self._file.readline(MAX_ROW_BYTES + 1)
            if not text:
                return None
            size, piece = len(text), text
            while len(piece) > MAX_ROW_BYTES and not piece.endswith(("\n", "\r")):
                piece = self._file.readline(MAX_ROW_BYTES + 1)
                size += len(piece)
            self._ahead.append(_Line(text if size <= MAX_ROW_BYTES else text[:KEPT_OF_LARGE_ROW], size))
        return self._ahead[self._first + place]

    def take(self, count: int) -> str:
        """The text of so many lines, which do not follow any more."""
        taken = self._ahead[self._first : self._first + count]
        self.number += count
        self._first += count
        if self._first > len(self._ahead) // 2:
            del self._ahead[: self._first]
            self._first = 0
        return "".join(line.text for line in taken)


def csv_rows(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a CSV file with a header.

    Raises OSError where the header is none, or the file breaks off in its last row.
    """
    with io.TextIOWrapper(open_text(chunk), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        file._CHUNK_SIZE = BUFFER_BYTES  # type: ignore[attr-defined]  # 8 KiB by default: a request to a store for each
        lines = _Lines(file)
        while (line := lines.look(0)) is not None and not line.text.strip():
            lines.take(1)
        if line is None:
            return
        header, delimiter = _header(lines)
        while (line := lines.look(0)) is not None:
            if not line.text.strip("\r\n"):
                lines.take(1)
                continue
            yield _next_row(lines, header, delimiter)


def _header(lines: _Lines) -> tuple[list[str], str]:
    """The names of the columns, and the delimiter that gives most of them."""
    best: tuple[list[str], str, int] | None = None
    faults = []
    for delimiter in DELIMITERS:
        try:
            names, count = _record(lines, delimiter)
        except _Fault as fault:
            faults.append(str(fault))
            continue
        if best is None or len(names) > len(best[0]):
            best = names, delimiter, count
    if best is None:
        raise OSError(
            f"the header line is no CSV, or larger than a row may be: {faults[0]}; accepted: a first line with the "
            "names of the columns"
        )
    names, delimiter, count = best
    lines.take(count)
    text = delimiter.join(names)
    if _ESCAPED_BYTE.search(text):
        raise OSError(f"the header line is not UTF-8: {_not_utf8(text)}")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise OSError(f"two columns have the name {twice!r}; accepted: a header in which each has its own")
    return names, delimiter


def _next_row(lines: _Lines, header: list[str], delimiter: str) -> Unread:
    number, line = lines.number + 1, lines.look(0)
    if line is not None and line.size > MAX_ROW_BYTES:
        lines.take(1)
        return already_read(too_large(number, line.text.encode("utf-8", "surrogateescape"), line.size))
    try:
        values, count = _record(lines, delimiter)
        problem = None if len(values) == len(header) else f"{len(values)} fields, and the header has {len(header)}"
        cut = len(values) < len(header)
    except _Fault as fault:
        values, count = [], _lines_at_fault(lines, delimiter)
        problem = f"{fault}; accepted: quotes at both ends of a field, and doubled inside it"
        cut = True
    text = lines.take(count)
    if cut and not text.endswith(("\n", "\r")):
        raise OSError(
            f"it breaks off in line {lines.number}: {problem}, and no end of line follows; is the file whole?"
        )
    if problem is not None:
        shown = values or [text[:KEPT_OF_LARGE_ROW]]
        return already_read(RawRow(number, None, _as_json(shown), Rejection("malformed_csv", problem)))
    return Unread(number, len(text), partial(_row, number, header, values))


def _row(number: int, header: list[str], values: list[str]) -> RawRow:
    damaged = next((value for value in values if _ESCAPED_BYTE.search(value)), None)
    if damaged is not None:
        return RawRow(number, None, _as_json(values), Rejection("invalid_utf8", _not_utf8(damaged)))
    return row_of(number, dict(zip(header, values, strict=True)))


def _as_json(values: list[str]) -> str:
    return json.dumps(
        [value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for value in values],
        ensure_ascii=False,
    )


def _not_utf8(text: str) -> str:
    data = text.encode("utf-8", "surrogateescape")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return not_utf8(data, error.start)
    return "it is"


def _lines_at_fault(lines: _Lines, delimiter: str) -> int:
    """How many of the lines that follow belong to a row whose quotes are not in order: those up to the next line that ends
    what is in quotes. Where no line does, the quote was never closed, and its line alone is at fault."""
    place = size = quotes = 0
    while (line := lines.look(place)) is not None and (size := size + line.size) <= MAX_ROW_BYTES:
        quotes += line.text.count('"')
        if quotes % 2 == 0:
            return place + 1 if not place or _ends_quoted(line.text, delimiter) else 1
        place += 1
    return 1


def _ends_quoted(text: str, delimiter: str) -> bool:
    """Whether a line may be the last of a field in quotes: a field ends behind its last quote, and none begins at its first."""
    before, behind = text.partition('"')[0], text.rpartition('"')[2]
    ends = behind.startswith((delimiter, "\r", "\n")) or not behind
    begins = before.endswith(delimiter) or (not before and text[1:2] not in (delimiter, "\r", "\n", ""))
    return ends and not begins


def _record(lines: _Lines, delimiter: str) -> tuple[list[str], int]:
    """The fields of the record that begins with the next line, and how many lines it has. Takes none; raises _Fault."""
    line = lines.look(0)
    if line is None or line.size > MAX_ROW_BYTES:
        raise _Fault("the line is larger than a row may be")
    text, at, count = line.text, 0, 1
    if '"' not in text:
        return text.rstrip("\r\n").split(delimiter), 1
    fields: list[str] = []
    while True:
        if text.startswith('"', at):
            value, text, at, count = _quoted(lines, text, at + 1, count)
        else:
            end = _PLAIN[delimiter].match(text, at).end()  # type: ignore[union-attr]  # it matches nothing too
            value, at = text[at:end], end
        fields.append(value)
        sign = text[at : at + 1]
        if sign in ("", "\r", "\n"):
            return fields, count
        if sign != delimiter:
            raise _Fault(f"a quote stands inside field {len(fields)} or ends before it")
        at += 1


def _quoted(lines: _Lines, text: str, at: int, count: int) -> tuple[str, str, int, int]:
    """The value of a field that is in quotes, the line in which it ends, where in that line, and the lines so far."""
    size, pieces = len(text), []
    while True:
        match = _QUOTED.match(text, at)
        if match is None:
            raise ValueError("the pattern matches nothing too")
        pieces.append(match[1])
        if match[2]:
            return "".join(pieces).replace('""', '"'), text, match.end(), count
        line = lines.look(count)
        if line is None:
            raise _Fault("a quote is never closed")
        size += line.size
        if size > MAX_ROW_BYTES:
            raise _Fault(f"a quote is not closed within the {MAX_ROW_BYTES} bytes that a row may have")
        text, at, count = line.text, 0, count + 1
