"""One raw record of any recognised layout becomes an Example, or a Rejection with a reason.

Layouts are recognised row by row: Alpaca, Dolly, Natural Instructions, chat `messages`, ShareGPT `conversations`,
`prompt`/`completion`; or the user's own `columns`. Text is kept verbatim.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from operators.rejections import Rejection

MAX_DEPTH = 100  # of lists and objects in each other: far less than where a reader of JSON may give up
FIELDS = ("instruction", "input", "output")
# Field name by raw column, per layout, in the order in which they are tried; a leading "?" marks a column that may be absent.
FLAT_LAYOUTS: dict[str, dict[str, str]] = {
    "alpaca": {"instruction": "instruction", "input": "?input", "output": "output"},
    "dolly": {"instruction": "instruction", "input": "?context", "output": "response"},
    "natural instructions": {"instruction": "definition", "input": "?input", "output": "output"},
    "natural instructions, targets": {"instruction": "definition", "input": "?input", "output": "targets"},
    "prompt/completion": {"instruction": "prompt", "input": "?", "output": "completion"},
}
TURN_LAYOUTS = {"messages": ("role", "content"), "conversations": ("from", "value")}
USER_ROLES, ASSISTANT_ROLES = {"user", "human"}, {"assistant", "gpt", "model", "chatgpt", "bot"}
ACCEPTED = (
    "instruction+output, instruction+response, definition+output, definition+targets, messages, conversations, "
    "prompt+completion"
)


@dataclass(frozen=True)
class Example:
    """A valid row; `task` is None where the corpus names none, `extra` is one JSON object of all other columns, `messages` the
    turns of a conversation as they were, as JSON, and None where the row was none."""

    instruction: str
    input: str
    output: str
    task: str | None
    extra: str
    messages: str | None = None


def normalise(record: Any, columns: Mapping[str, str] | None = None) -> Example:
    """Map one raw record to an Example.

    `columns` maps instruction, input and output to raw column names; without it the layout is recognised.
    Raises Rejection with reason not_an_object, missing_field, wrong_type, empty_instruction, empty_output,
    no_user_turn, no_assistant_turn or invalid_unicode.
    """
    if not isinstance(record, Mapping):
        raise Rejection("not_an_object", f"found {_kind(record)}, expected an object with named columns")
    fields, rest, turns = _from_columns(record, columns) if columns else _from_layout(record)
    if not fields["instruction"].strip():
        raise Rejection("empty_instruction", "the instruction is empty or white space alone")
    if not fields["output"].strip():
        raise Rejection("empty_output", "the output is empty or white space alone")
    extra, messages = strict_json(rest), None if turns is None else strict_json(turns)
    _require_shallow(rest, extra)
    if messages is not None:
        _require_shallow({"turns": turns}, messages)
    for name, text in (*fields.items(), ("a turn", messages or ""), ("another column", extra)):
        _require_unicode(name, text)
    task = record.get("task")
    return Example(**fields, task=task if isinstance(task, str) and task else None, extra=extra, messages=messages)


# The fields of an example, the other columns, and the turns where the row is a conversation.
_Parts = tuple[dict[str, str], dict[str, Any], list[Any] | None]


def _from_columns(record: Mapping[str, Any], columns: Mapping[str, str]) -> _Parts:
    layout = {field: columns.get(field, "?") if field == "input" else columns[field] for field in FIELDS}
    return _flat(record, layout)


def _from_layout(record: Mapping[str, Any]) -> _Parts:
    for layout in FLAT_LAYOUTS.values():
        if all(column in record for column in layout.values() if not column.startswith("?")):
            return _flat(record, layout)
    for column, (role, content) in TURN_LAYOUTS.items():
        if column in record:
            return _turns(record, column, role, content)
    names = ", ".join(str(key)[:100] for key in list(record)[:12]) or "none"
    raise Rejection("missing_field", f"columns found: {names}; accepted: {ACCEPTED}")


def _flat(record: Mapping[str, Any], layout: Mapping[str, str]) -> _Parts:
    rest = dict(record)
    fields = {}
    for field, column in layout.items():
        name = column.lstrip("?")
        value = rest.pop(name, None) if name else None
        if isinstance(value, list) and field != "input":
            # Several references: the first counts, the others stay with the row.
            if len(value) > 1:
                rest[name] = value[1:]
            value = value[0] if value else ""
        if value is None and column.startswith("?"):
            value = ""
        if value is None:
            raise Rejection("missing_field", f"column {name!r} ({field}) is absent or null")
        fields[field] = _require_text(name, value)
    return fields, rest, None


def _turns(record: Mapping[str, Any], column: str, role_key: str, content_key: str) -> _Parts:
    turns = record[column]
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise Rejection("wrong_type", f"column {column!r} must be a list of turns, found {_kind(turns)}")
    if any(isinstance(turn.get(role_key), (list, Mapping)) for turn in turns):
        raise Rejection("wrong_type", f"column {column!r} has a turn whose {role_key!r} is no single value")
    spoken = [(str(turn.get(role_key)), text_of_turn(column, turn.get(content_key))) for turn in turns]
    users = [i for i, (role, _) in enumerate(spoken) if role in USER_ROLES]
    if not users:
        raise Rejection("no_user_turn", f"column {column!r} has no turn of {sorted(USER_ROLES)}")
    question = users[-1]
    replies = [i for i, (role, _) in enumerate(spoken) if role in ASSISTANT_ROLES and i > question]
    if not replies:
        raise Rejection("no_assistant_turn", f"column {column!r} has no assistant turn after its last user turn")
    rest = {key: value for key, value in record.items() if key != column}
    unused = [turn for i, turn in enumerate(turns) if i > question and i != replies[-1]]
    if unused:
        rest[column] = unused  # tool calls and the like between question and answer stay with the row
    before = "\n".join(f"{role}: {content}" for role, content in spoken[:question])
    return {"instruction": spoken[question][1], "input": before, "output": spoken[replies[-1]][1]}, rest, turns


def text_of_turn(column: str, value: Any) -> str:
    """Text of a turn: a string, null (a turn that only calls a tool), or a list of text parts."""
    if value is None:
        return ""
    if isinstance(value, list) and all(
        isinstance(part, Mapping) and isinstance(part.get("text"), str) for part in value
    ):
        return "".join(part["text"] for part in value)
    return _require_text(column, value)


def strict_json(columns: Any) -> str:
    """Strict JSON of the user's columns: dates and the like as text; NaN and infinities, which JSON has not, as null.

    Raises Rejection with reason wrong_type where they are nested too deeply.
    """
    try:
        try:
            return json.dumps(columns, ensure_ascii=False, default=str, allow_nan=False)
        except ValueError:
            return json.dumps(_finite(columns), ensure_ascii=False, default=str)
    except RecursionError as error:
        raise Rejection("wrong_type", "a column is nested too deeply") from error


def _require_shallow(columns: dict[str, Any], text: str) -> None:
    # What one function could parse or write, another that is called from deeper in the program could not.
    level: list[Any] = [columns]
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    for _ in range(MAX_DEPTH):
        inner = [value for outer in level for value in (outer.values() if isinstance(outer, Mapping) else outer)]
        level = [value for value in inner if isinstance(value, (Mapping, list, tuple))]
    if level:
        raise Rejection(
            "wrong_type", f"a column is nested too deeply: more than {MAX_DEPTH} lists and objects in each other"
        )


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _require_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise Rejection("wrong_type", f"column {name!r} must be text, found {_kind(value)}")
    return value


def _require_unicode(name: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Rejection("invalid_unicode", f"{name} holds a lone surrogate at character {error.start}") from error


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), type(value).__name__)
