"""Rows of JSON files: of an array, of the array in an object around it, of objects that follow each other, or of lines."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from functools import partial

from operators.layouts import expand, is_task_file
from operators.normalise import strict_json
from pipeline.reading.chunks import Chunk
from pipeline.reading.first_bytes import UTF8_MARK
from pipeline.reading.json_values import JsonText, Value
from pipeline.reading.open_text import BUFFER_BYTES, open_text
from pipeline.reading.rows import KEPT_OF_LARGE_ROW, MAX_ROW_BYTES, RawRow, Unread
from pipeline.reading.text_files import json_lines, parse_line

# Keys of an object that is a row, or a task with all its rows, and no object around rows, whatever lists it holds.
ROW_KEYS = frozenset(
    {
        "instruction",
        "instructions",
        "output",
        "outputs",
        "response",
        "answer",
        "completion",
        "prompt",
        "question",
        "query",
        "definition",
        "Definition",
        "Instances",
        "messages",
        "conversations",
        "conversation",
        "turns",
        "dialog",
        "dialogue",
        "history",
        "chosen",
        "rejected",
    }
)


def json_file(chunk: Chunk) -> Iterator[Unread]:
    """The rows of a JSON file, in any of these shapes. Raises OSError where it breaks off, or is no JSON."""
    with open_text(chunk) as file:
        first = _first_line(file)
        sign = first.lstrip()[:1]
        next_sign = _next_byte(file)
    if sign not in (b"", b"[", b"{"):
        raise OSError(
            "it is no JSON: it begins with neither [ nor {; accepted: an array of objects, or an object a line"
        )
    if sign == b"{" and _is_of_lines(first, next_sign):
        yield from json_lines(chunk)
    elif sign == b"[":
        with open_text(chunk) as file:
            text = JsonText(file)
            yield from _rows_of(text.elements())
            _require_end(text)
    elif sign:
        yield from _objects(chunk)


def _is_of_lines(first: bytes, next_sign: bytes) -> bool:
    """Whether the first line of a file is an object of its own, be it damaged, and what follows is another row."""
    if not next_sign:
        return False
    if parse_line(1, first).problem is None:
        return True
    return next_sign == b"{" and not first.rstrip().endswith((b"{", b"[", b",", b":"))  # it goes on in the next line


def _first_line(file: io.BufferedReader) -> bytes:
    """The first line that is not blank, or its beginning."""
    line = file.readline(MAX_ROW_BYTES + 1).removeprefix(UTF8_MARK)
    while line and not line.strip():
        line = file.readline(MAX_ROW_BYTES + 1)
    return line


def _next_byte(file: io.BufferedReader) -> bytes:
    """The next byte that is no white space, and nothing at the end."""
    while data := file.read(BUFFER_BYTES):
        if data.strip():
            return data.lstrip()[:1]
    return b""


def _objects(chunk: Chunk) -> Iterator[Unread]:
    with open_text(chunk) as file:
        key = _key_of_rows(JsonText(file), set((chunk.columns or {}).values()))
    with open_text(chunk) as file:
        text = JsonText(file)
        if key is None:
            yield from _rows_of(_instances(_following(text)))
            return
        for name in text.members():
            if name == key:
                yield from _rows_of(text.elements())
            elif text.begins_rows():
                raise _two_lists(key, name)
            else:
                text.value(f"in {name!r}")
        _require_end(text)


def _key_of_rows(text: JsonText, columns: set[str]) -> str | None:
    """The key of the list that holds the rows, where an object around them comes next; None where a row does. Of an object that
    is larger than a row may be, the first list of objects is taken for that. Raises OSError where it is neither."""
    keys: list[str] = []
    others: list[type] = []
    size = 0
    for name in text.members():
        if name in ROW_KEYS or name in columns:
            return None
        if not text.begins_rows():
            others.append(type(text.value(f"in {name!r}").value))
            continue
        keys.append(name)
        for element in text.elements():
            size += len(element.text)
            if size > MAX_ROW_BYTES:
                return keys[0]
    if text.peek():
        return None
    if len(keys) > 1:
        raise _two_lists(*keys[:2])
    if not keys and others and (set(others) == {dict} or (set(others) == {list} and len(others) > 1)):
        raise OSError(
            "it is an object of columns and not of rows; accepted: an array of objects (in pandas, orient='records')"
        )
    return keys[0] if keys else None


def _two_lists(first: str, second: str) -> OSError:
    return OSError(
        f"it is an object with two lists of objects, {first!r} and {second!r}; accepted: one, which holds the rows"
    )


def _following(text: JsonText) -> Iterator[Value]:
    """Objects that follow each other."""
    number = 0
    while text.peek():
        number += 1
        value = text.value(f"in row {number}")
        if number == 1 and value.problem is not None and value.problem.reason == "row_too_large" and not text.peek():
            raise OSError(
                f"it is one object, too large for a row ({value.problem.detail}), with no list of rows in it; "
                "accepted: an array of objects, or an object a line"
            )
        yield value


def _instances(values: Iterable[Value]) -> Iterator[Value]:
    """The values, and in place of a task of Natural Instructions those of its rows."""
    for value in values:
        if value.problem is None and isinstance(value.value, dict) and is_task_file(value.value):
            yield from (Value(row, strict_json(row)) for row in expand(value.value))
        else:
            yield value


def _rows_of(values: Iterable[Value]) -> Iterator[Unread]:
    for row, value in enumerate(values, 1):
        yield Unread(row, len(value.text), partial(_row, row, value))


def _row(number: int, value: Value) -> RawRow:
    if value.problem is None:
        return RawRow(number, value.value, value.text)
    shown = value.text[:KEPT_OF_LARGE_ROW].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return RawRow(number, None, json.dumps(shown, ensure_ascii=False), value.problem)


def _require_end(text: JsonText) -> None:
    if text.peek():
        raise OSError(
            "it is no JSON: more follows behind the end of its rows; accepted: one array, or one object around it"
        )
