"""Values of a JSON text that is read a buffer at a time: elements of an array, members of an object, one after the other."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from operators.error_text import one_line
from operators.rejections import Rejection
from pipeline.reading.open_text import BUFFER_BYTES
from pipeline.reading.rows import KEPT_OF_LARGE_ROW, MAX_ROW_BYTES, too_large_because

_SPACE = re.compile(r"[ \t\n\r]*")
_FIRST_ELEMENT = re.compile(r"\[[ \t\n\r]*([^ \t\n\r])")
_OUTSIDE, _INSIDE = re.compile(r'["\[\]{}]'), re.compile(r'["\\]')  # of a string
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")
# What the parser does not take for the beginning of a value or of the rest of a number, though it may be that.
_CUT_NUMBER = re.compile(r"\.|[eE][+-]?")
_LITERALS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")
_ESCAPE = len(r"\u00e9")


@dataclass(frozen=True)
class Value:
    """A value with its text, or with the reason why it can be no row; of one that is too large, `text` is the beginning."""

    value: Any
    text: str
    problem: Rejection | None = None


class JsonText:
    """A JSON text of any length, of which a buffer and one value are in memory.

    All of it raise OSError where the text breaks off or is no JSON, so that its further values cannot be told apart.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text, self._at = "", 0  # what is read of the file, and where in it the next value begins
        self._ended = self._escaped = False
        self._constants: list[str] = []
        self._strict, self._lenient = (
            json.JSONDecoder(parse_constant=self._constants.append, strict=strict) for strict in (True, False)
        )

    def elements(self) -> Iterator[Value]:
        """The values of the array that comes next."""
        number = 0

        def element() -> Value:
            nonlocal number
            number += 1
            return self.value(f"in row {number}")

        yield from self._separated("[", "]", element)

    def members(self) -> Iterator[str]:
        """The keys of the object that comes next; who is given a key takes its value before the next one."""

        def key() -> str:
            if self.peek() != '"':
                raise self._broken("in a key", "it is not in quotes", self._at)
            name = str(self.value("in a key").value)
            self._take(":")
            return name

        yield from self._separated("{", "}", key)

    def _separated(self, opening: str, closing: str, item: Callable[[], Any]) -> Iterator[Any]:
        self._take(opening)
        if self.peek() == closing:
            return self._take(closing)
        while True:
            yield item()
            if self.peek() == closing:
                return self._take(closing)
            self._take(",")

    def peek(self) -> str:
        """The first character of what comes next, and nothing at the end."""
        while True:
            self._at = _SPACE.match(self._text, self._at).end()  # type: ignore[union-attr]  # it matches nothing too
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_more():
                return ""

    def begins_rows(self) -> bool:
        """Whether an array whose first element is an object comes next."""
        if self.peek() != "[":
            return False
        while (first := _FIRST_ELEMENT.match(self._text, self._at)) is None and self._read_more():
            pass
        return first is not None and first[1] == "{"

    def value(self, where: str) -> Value:
        """The value that comes next; `where` it is, for a message."""
        self.peek()
        decoder, problem = self._strict, None
        while True:
            self._constants.clear()
            try:
                value, end = decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if decoder is self._strict and error.msg.startswith("Invalid control character"):
                    # Where all the rest is in order, the ends of the strings are in no doubt.
                    decoder, problem = self._lenient, Rejection("malformed_json", error.msg.removesuffix(" at"))
                    continue
                if not breaks_off(error):
                    raise self._broken(where, error.msg, error.pos) from error
                if len(self._text) - self._at > MAX_ROW_BYTES:
                    return self._passed_over(where)
                if not self._read_more():
                    raise self._broken(where) from error
            except RecursionError:
                return self._passed_over(where, Rejection("malformed_json", "it is nested too deeply"))
            except ValueError as error:  # a number of thousands of digits
                return self._passed_over(where, Rejection("malformed_json", one_line(error)))
            else:
                goes_on = end == len(self._text) or _CUT_NUMBER.fullmatch(self._text, end)  # a number may
                if goes_on and self._read_more():
                    continue
                return self._valued(value, end, problem)

    def _valued(self, value: Any, end: int, problem: Rejection | None) -> Value:
        text = self._text[self._at : end]
        self._at = end
        if self._constants:
            problem = Rejection("malformed_json", f"{self._constants[0]} is not JSON")
        if len(text) > MAX_ROW_BYTES:
            size = len(text.encode("utf-8", "surrogateescape"))
            return Value(None, text[:KEPT_OF_LARGE_ROW], too_large_because(size))
        if self._escaped and _ESCAPED_BYTE.search(text):
            problem = Rejection("invalid_utf8", "a value holds bytes that are not UTF-8")
        return Value(value, text, problem)

    def _passed_over(self, where: str, problem: Rejection | None = None) -> Value:
        """The value that comes next, of which no more than the beginning is kept."""
        if self.peek() not in ('"', "[", "{"):
            raise self._broken(where, problem.detail if problem else "", self._at)
        kept = self._text[self._at : self._at + KEPT_OF_LARGE_ROW]
        size = depth = 0
        inside = False
        while True:
            sign = (_INSIDE if inside else _OUTSIDE).search(self._text, self._at)
            end = sign.end() if sign else len(self._text)
            size += len(self._text[self._at : end].encode("utf-8", "surrogateescape"))
            self._at = end
            cut = sign is None or (sign[0] == "\\" and end == len(self._text))
            if cut and not self._read_more():
                raise self._broken(where)
            if sign is None:
                continue
            if sign[0] == "\\":
                self._at += 1
            elif sign[0] == '"':
                inside = not inside
            else:
                depth += 1 if sign[0] in "[{" else -1
            if not inside and depth == 0:
                return Value(None, kept, problem or too_large_because(size))

    def _take(self, sign: str) -> None:
        if self.peek() != sign:
            raise self._broken(f"where {sign!r} is to come", "it is not there", self._at)
        self._at += 1

    def _read_more(self) -> bool:
        while not self._ended:
            data = self._file.read(max(BUFFER_BYTES, len(self._text) - self._at))
            self._ended = not data
            more = self._decoder.decode(data, final=self._ended)
            if not _is_unicode(more):
                self._escaped = True
            if more:
                self._text, self._at = self._text[self._at :] + more, 0
                return True
        return False

    def _broken(self, where: str, why: str = "", at: int | None = None) -> OSError:
        """What is wrong with the text at a place in it, or at its end."""
        if at is None or at >= len(self._text):
            return OSError(f"it breaks off {where}: the JSON has no end; is the file whole?")
        near = self._text[at : at + 30].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return OSError(f"it is no JSON {where}: {why}, at {near!r}")


def breaks_off(error: json.JSONDecodeError) -> bool:
    """Whether a text is no JSON because it ends too early: more of it might make it JSON."""
    rest = error.doc[error.pos :].strip()
    return (
        not rest
        or error.msg.startswith("Unterminated string")
        or (error.msg.startswith(r"Invalid \uXXXX") and len(rest) <= _ESCAPE)
        or bool(_CUT_NUMBER.fullmatch(rest))
        or any(literal.startswith(rest) for literal in _LITERALS)
    )


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
