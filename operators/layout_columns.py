"""What the columns of a layout hold: texts, turns, and turns that are yet to be made of texts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from operators.layouts import ASSISTANT, CHAT_COLUMNS, SYSTEM_SIDE, USER, listed
from operators.rejections import Rejection
from operators.turns import is_turn, kind, parse_turns, text_of

Text = str | list[Any]  # a text, or turns
ToMake = tuple[str, str]  # a side and a text, of which a turn is made


def text_or_turns(record: Mapping[str, Any], column: str) -> tuple[Text, dict[str, Any]]:
    """The text of a column, or its turns; of a list of texts the first, and the others under the column. Raises Rejection."""
    value = record[column]
    if isinstance(value, str):
        return parse_turns(column, value)[0] if column.casefold() in CHAT_COLUMNS else value, {}
    if is_turn(value):
        return [value], {}
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        return value, {}
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return value[0] if value else "", {column: value[1:]} if len(value) > 1 else {}
    raise Rejection("wrong_type", f"column {column!r} must be text, a list of texts or turns, found {_contents(value)}")


def _contents(value: Any) -> str:
    return kind(value) + (f" of {listed(map(kind, value[:100]))}" if isinstance(value, list) else "")


def text_of_input(record: Mapping[str, Any], column: str | None) -> str:
    value = None if column is None else record[column]
    if value is not None and not isinstance(value, str):
        raise Rejection("wrong_type", f"column {column!r} must be text, found {kind(value)}")
    return value or ""


def system_turn(record: Mapping[str, Any], column: str | None) -> list[ToMake]:
    """The system's turn, from a column of text; any other kind of value is none."""
    value = None if column is None else record[column]
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        value = text_of(f"column {column!r}", value)
    return [(SYSTEM_SIDE, value)] if isinstance(value, str) and value.strip() else []


def history_turns(record: Mapping[str, Any], column: str | None) -> list[Any]:
    """Earlier turns, from a list of pairs of a question and an answer, or of turns."""
    value = None if column is None else record[column]
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    if not isinstance(value, list):
        return []
    if all(isinstance(item, Mapping) for item in value):
        return value
    if all(_is_pair(item) for item in value):
        return [turn for question, answer in value for turn in ((USER, question), (ASSISTANT, answer))]
    raise Rejection(
        "wrong_type",
        f"column {column!r} must be a list of pairs [question, answer] or of turns, found {_contents(value)}; "
        "to leave it out, name the others with `columns` in the configuration",
    )


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(isinstance(text, str) for text in value)
