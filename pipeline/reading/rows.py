"""A row of a file: first a place that is not looked into yet, then a record or the reason why there is none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from operators.normalise import strict_json
from operators.rejections import Rejection

MAX_ROW_BYTES = 16 << 20
KEPT_OF_LARGE_ROW = 64 << 10  # of a row over MAX_ROW_BYTES, this much goes to rejected/, with its place in the file
NOTHING = json.dumps("")


@dataclass(frozen=True)
class RawRow:
    """A record at its line or row (from 1), or the reason why there is none; `raw` is what stood there, as JSON."""

    line: int
    record: Any
    raw: str
    problem: Rejection | None = None


@dataclass(frozen=True)
class Unread:
    """A row at its line that takes about `size` bytes of memory; `make` looks into it. A process may die of that."""

    line: int
    size: int
    make: Callable[[], RawRow]

    def read(self) -> RawRow:
        """The row, or its rejection where it is too large: what is no line of a file can be measured only once it is there."""
        row = self.make()
        if row.problem is not None or len(row.raw) <= MAX_ROW_BYTES:
            return row
        return too_large(row.line, row.raw[:KEPT_OF_LARGE_ROW].encode("utf-8", "backslashreplace"), len(row.raw))


def already_read(row: RawRow) -> Unread:
    """A row of which nothing is left to be looked into."""
    return Unread(row.line, len(row.raw), lambda: row)


def row_of(line: int, record: Any) -> RawRow:
    """The row of a record that some reader has made."""
    try:
        return RawRow(line, record, strict_json(record))
    except Rejection as problem:
        return RawRow(line, None, NOTHING, problem)


def too_large(line: int, data: bytes, size: int) -> RawRow:
    """The rejection of a row of `size` bytes that begins with `data`."""
    kept = data[:KEPT_OF_LARGE_ROW].decode("utf-8", "replace")
    return RawRow(
        line,
        None,
        json.dumps(kept, ensure_ascii=False),
        too_large_because(size),
    )


def too_large_because(size: int) -> Rejection:
    """Why a row of `size` bytes is too large."""
    return Rejection("row_too_large", f"{size} bytes, at most {MAX_ROW_BYTES}; raw holds its beginning")
