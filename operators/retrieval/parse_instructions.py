"""From what a generator answered to instructions: lists as models write them, without what stands around and in them."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from operators.hashing import fold_space, fold_wording

MOST_ANSWER_CHARS = 1 << 17  # of an answer that are looked at
MOST_CHARS = 1000  # of an instruction
_SHORT = 20  # characters: what is shorter may stand in the prompt or the input by chance
_MOST_RAW_CHARS = 4 * MOST_CHARS  # of an item before its marks are taken off
_BULLET = r"(?:[-*+•‣▪–—]|#{1,6})(?=\s)\s*"
_NUMBER = r"[(\[]?\d{1,4}\s?[.):\]]+(?=\s|[^\W\d_]|[*\"'“`(\[]|$)\s*"
_ITEM = re.compile(f"(?:{_BULLET})?{_NUMBER}|{_BULLET}")
_JSON = re.compile(r"^[ \t]*([\[{])", re.MULTILINE)
_LABEL = re.compile(
    r"(?:(?:alternative|different|new|sample)\s+)?(?:instruction|task|alternative|option|prompt)\s*(?:#?\s*\d{1,4})?\s*[:.)]\s*",
    re.IGNORECASE,
)
# The beginning of a line that speaks of the list rather than being a part of it.
_PREAMBLE = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|ok|great|yes|no problem)\b[!,.:]|"
    r"(?:here|below|these|the following)\b[^.?]{0,80}\b(?:instructions?|tasks?|alternatives?|options?|prompts?|list)\b|"
    r"(?:i hope|let me know|feel free|note:|note that|please note)\b",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "„": "“", "`": "`"}
_AROUND = "> "  # what may stand before each line
_KEYS = ("instruction", "task", "text", "prompt")  # of an object in a JSON list


def parse_instructions(
    answer: str, most: int, *, finished: bool = True, prompt: str = "", input: str = ""
) -> list[str]:
    """At most `most` instructions of an answer, in their order, each of another wording.

    An answer that was cut off (`finished` is false) ends in a piece of an instruction, which is left out. Nor is a text taken
    that stands in `prompt`, the words that asked for it, or that repeats `input`. Never raises.
    """
    answer = answer[:MOST_ANSWER_CHARS]
    thought, closed, after = answer.rpartition("</think>")
    if "<think>" in after or (not closed and "<think>" in thought):
        return []  # it was cut off while it thought
    instructions: list[str] = []
    wordings: set[str] = set()
    asked = _wordings(prompt)
    for item in _items(after, finished):
        if len(item) > _MOST_RAW_CHARS:
            continue
        text = _bare(item)
        wording = fold_wording(text)
        if (
            len(text) <= MOST_CHARS
            and any(char.isalpha() for char in text)
            and not any(map(_is_garbage, text))
            and wording not in wordings | asked
            and not _repeats(text, prompt)
            and not _repeats(text, input)
        ):
            wordings.add(wording)
            instructions.append(text)
        if len(instructions) >= most:
            break
    return instructions[:most]


@lru_cache(maxsize=8)
def _wordings(prompt: str) -> frozenset[str]:
    return frozenset(fold_wording(line) for line in prompt.splitlines())


def _items(answer: str, finished: bool) -> Iterator[str]:
    """Texts that an answer lists: of a JSON list, of marked lines where there are some, or of several plain lines."""
    listed = _of_json(answer)
    if listed is not None:
        yield from listed
        return
    lines = answer.splitlines()
    if not finished and lines and not answer.endswith(("\n", "\r")):
        lines.pop()
    around = "[]{}> " if _JSON.search(answer) else _AROUND  # of a JSON list that is broken
    lines = [line for line in (line.strip().lstrip(around) for line in lines) if line and not line.startswith("```")]
    marked = [line[mark.end() :] for line in lines if (mark := _mark(line))]
    if marked:
        yield from (text for text in marked if not _introduces(text))
        return
    plain = [
        line for place, line in enumerate(lines) if not _introduces(line) and not (place == 0 and line.endswith(":"))
    ]
    if (
        len(plain) > 1 or around != _AROUND
    ):  # one sentence without any mark of a list is what a model says instead of one
        yield from plain


def _introduces(line: str) -> bool:
    """Whether a line speaks of the list."""
    return _PREAMBLE.match(_bare(line[:_MOST_RAW_CHARS])) is not None


def _mark(line: str) -> re.Match[str] | None:
    """What marks a line as an item of a list, perhaps in bold: a number, a bullet, or a label such as `Instruction 2:`."""
    bold = len(line) - len(line.lstrip("*_"))
    item = _ITEM.match(line) or (_ITEM.match(line, bold) if bold > 1 else None)
    return item or _LABEL.match(line, bold if bold > 1 else 0)


def _of_json(answer: str) -> list[str] | None:
    """The texts of a JSON list, which may stand in an object or between other words; None where there is none."""
    # Only at the beginning of a line: an instruction may show a list.
    for beginning in itertools.islice(_JSON.finditer(answer), 2):
        try:
            value, _ = json.JSONDecoder().raw_decode(answer, beginning.start(1))
        except (ValueError, RecursionError):
            continue
        values: Iterable[Any] = value if isinstance(value, list) else value.values()
        inner = next((part for part in values if isinstance(part, list)), None)
        texts = [text for text in map(_text_of, inner if inner is not None else values) if text]
        if texts:
            return texts
    return None


def _text_of(value: Any) -> str | None:
    if isinstance(value, dict):
        value = next((value[key] for key in _KEYS if isinstance(value.get(key), str)), None)
    # "\ud800" is JSON, and no text.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _bare(text: str) -> str:
    """A text in one line without labels, quotes and marks of emphasis around it."""
    text = fold_space(text)
    before = None
    while text != before:
        before = text
        text = re.sub(r"(\*\*|__)(.+?)\1", r"\2", text).strip().removesuffix(",").strip()
        text = text.removeprefix("**").removesuffix("**").strip()
        label = _LABEL.match(text)
        text = text[label.end() :] if label else text
        closing = _QUOTES.get(text[:1])
        if closing and len(text) > 1 and text.endswith(closing) and closing not in text[1:-1]:
            text = text[1:-1].strip()
    return text


def _is_garbage(char: str) -> bool:
    """Whether no person writes such a character: control characters, half of a character, bytes that are no text."""
    return char == "\ufffd" or unicodedata.category(char) in ("Cc", "Cs", "Cn", "Co")


def _repeats(text: str, source: str) -> bool:
    """Whether a text only repeats a source, or a part of it that is too long to be there by chance."""
    small, whole = text.casefold(), " ".join(source.casefold().split())
    if len(whole) <= 2 * len(small) + _SHORT and fold_wording(text) == fold_wording(source):
        return True
    return len(small) >= _SHORT and small in whole
