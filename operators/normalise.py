"""One raw record of any layout becomes an Example, or a Rejection with a reason; `layouts.py` has the layouts.

Layouts are recognised row by row, or the user's own `columns` say where things stand. Text is kept verbatim.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from operators.layouts import accepted_roles, listed
from operators.read_layout import Conversation, Row, read_row
from operators.rejections import Rejection
from operators.turns import Exchange, kind, last_exchange

MAX_DEPTH = 100  # of lists and objects in each other: far less than where a reader of JSON may give up


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
    """Map one raw record to an Example: of a conversation, its last exchange.

    `columns` names the raw columns of what stands there: instruction, input and output, or messages; system, history; and the
    role, content, user and assistant of turns. Without it the layout is recognised.
    Raises Rejection with reason not_an_object, missing_field, wrong_type, empty_instruction, empty_output,
    no_user_turn, no_assistant_turn or invalid_unicode.
    """
    row = _read(record, columns)
    if row.conversation is None:
        fields, rest = (row.instruction, row.input, row.output), row.rest
    else:
        exchange = _last(row.conversation)
        fields, rest = _fields(row.conversation, exchange), {**row.rest, **_unused(row.conversation, exchange)}
    _require_fields(*fields)
    return Example(*fields, task=_task(record), extra=_extra(rest), messages=_messages(row.conversation))


def _read(record: Any, columns: Mapping[str, str] | None) -> Row:
    if not isinstance(record, Mapping):
        raise Rejection("not_an_object", f"found {kind(record)}, expected an object with named columns")
    return read_row(record, columns)


def _last(conversation: Conversation) -> Exchange:
    exchange = last_exchange(conversation.turns, conversation.first_answer)
    if exchange is None:
        raise _no_exchange(conversation)
    return exchange


def _no_exchange(conversation: Conversation) -> Rejection:
    turns, column = conversation.turns, conversation.column
    roles = f"roles: {listed(turn.role for turn in turns)}" if turns else "it has no turn"
    if all(turn.side != "user" for turn in turns):
        return Rejection(
            "no_user_turn", f"column {column!r} has no turn of a user; {roles}; accepted: {accepted_roles()}"
        )
    return Rejection(
        "no_assistant_turn",
        f"column {column!r} has no turn of an assistant after one of a user; {roles}; accepted: {accepted_roles()}",
    )


def _fields(conversation: Conversation, exchange: Exchange) -> tuple[str, str, str]:
    """Instruction, input and output of an exchange; the turns before it stand in the input, a line each and more."""
    turns = conversation.turns
    before = "\n".join(f"{turn.role}: {turn.text or ''}" for turn in turns[: exchange.question])
    instruction, output = turns[exchange.question].text or "", turns[exchange.answer].text or ""
    if exchange.question == conversation.asked:
        instruction = conversation.instruction
        before = "\n\n".join(filter(None, (before, conversation.input)))
    return instruction, before, output


def _unused(conversation: Conversation, exchange: Exchange) -> dict[str, Any]:
    """The turns after the question but for the answer, such as tool calls and a last word of the user, under their column."""
    if not conversation.whole:
        return {}
    turns = conversation.turns
    used = {turns[exchange.question].place, turns[exchange.answer].place}
    places = dict.fromkeys(turn.place for turn in turns[exchange.question :] if turn.place not in used)
    return {conversation.column: [conversation.objects[place] for place in places]} if places else {}


def _require_fields(instruction: str, input: str, output: str) -> None:
    if not instruction.strip():
        raise Rejection("empty_instruction", "the instruction is empty or white space alone")
    if not output.strip():
        raise Rejection("empty_output", "the output is empty or white space alone")
    for name, text in (("instruction", instruction), ("input", input), ("output", output)):
        _require_unicode(name, text)


def _task(record: Mapping[str, Any]) -> str | None:
    task = record.get("task")
    return task if isinstance(task, str) and task else None


def _extra(rest: dict[str, Any]) -> str:
    extra = strict_json(rest)
    _require_shallow(rest, extra)
    _require_unicode("another column", extra)
    return extra


def _messages(conversation: Conversation | None) -> str | None:
    if conversation is None:
        return None
    messages = strict_json(conversation.objects)
    _require_shallow({"turns": conversation.objects}, messages)
    _require_unicode("a turn", messages)
    return messages


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


def _require_unicode(name: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Rejection("invalid_unicode", f"{name} holds a lone surrogate at character {error.start}") from error
