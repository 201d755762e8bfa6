"""One raw record of any layout becomes an Example, or a Rejection with a reason; `layouts.py` has the layouts.

Layouts are recognised row by row, or the user's own `columns` say where things stand. Text is kept verbatim.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from operators.hashing import content_hash
from operators.layouts import accepted_roles, listed
from operators.read_layout import Conversation, Row, read_row
from operators.rejections import Rejection
from operators.turns import Exchange, exchanges, kind, last_exchange

# Characters of all examples of a conversation together: each holds its turns and, as text, those before it, so that what one
# row of a file becomes grows with the square of its length.
MAX_CONTEXTS = 1 << 30
MAX_DEPTH = 100  # of lists and objects in each other: far less than where a reader of JSON may give up


@dataclass(frozen=True)
class Example:
    """A valid row; `task` is None where the corpus names none, `extra` is one JSON object of all other columns, `messages` the
    turns of a conversation as they were, as JSON, and None where the row was none. Where every turn is an example,
    `conversation` is a hash of `messages`, and `turn` the place of the answer in them, from 0."""

    instruction: str
    input: str
    output: str
    task: str | None
    extra: str
    messages: str | None = None
    conversation: str | None = None
    turn: int | None = None


@dataclass(frozen=True)
class RejectedTurn:
    """An answer of a conversation that is no example, and why; `raw` is its turn as JSON."""

    raw: str
    rejection: Rejection


def normalise(record: Any, columns: Mapping[str, str] | None = None) -> Example:
    """Map one raw record to an Example: of a conversation, its last exchange.

    `columns` names the raw columns of what stands there: instruction, input and output, or messages; system, history; and the
    role, content, user and assistant of turns. Without it the layout is recognised.
    Raises Rejection with reason not_an_object, missing_field, wrong_type, empty_instruction, empty_output,
    no_user_turn, no_assistant_turn or invalid_unicode.
    """
    return _last_example(record, _read(record, columns))


def _last_example(record: Mapping[str, Any], row: Row) -> Example:
    if row.conversation is None:
        fields, rest = (row.instruction, row.input, row.output), row.rest
    else:
        exchange = _last(row.conversation)
        fields, rest = _fields(row.conversation, exchange), {**row.rest, **_unused(row.conversation, exchange)}
    _require_fields(*fields)
    return Example(*fields, task=_task(record), extra=_extra(rest), messages=_messages(row.conversation))


def normalise_each(record: Any, columns: Mapping[str, str] | None = None) -> Iterator[Example | RejectedTurn]:
    """Map one raw record to an Example for each turn of an assistant: the last turn of a user before it is the instruction, all
    other turns before it are its context. A turn before any of a user, and one that only calls a tool, is context alone.

    Raises what `normalise` does, before it yields anything, for a record that has no such turn.
    """
    row = _read(record, columns)
    conversation = row.conversation
    pairs = {} if conversation is None else _answers(conversation)
    if conversation is None or not pairs:
        yield _last_example(record, row)
        return
    extra, messages = _extra(row.rest), _messages(conversation) or ""
    name, task, size = content_hash(messages).hex(), _task(record), 0
    for place, exchange in pairs.items():
        fields = _fields(conversation, exchange, between=True) if size <= MAX_CONTEXTS else ("", "", "")
        size += len(messages) + len(fields[1])
        try:
            if size > MAX_CONTEXTS:
                raise Rejection(
                    "row_too_large",
                    f"a conversation of {len(pairs)} answers and {len(messages)} characters: its answers up to this one, "
                    f"each with all turns, have more than {MAX_CONTEXTS} characters; accepted: shorter conversations",
                )
            _require_fields(*fields)
        except Rejection as rejection:
            yield rejected_turn(conversation.objects[place], place, rejection)
        else:
            yield Example(*fields, task=task, extra=extra, messages=messages, conversation=name, turn=place)


def _answers(conversation: Conversation) -> dict[int, Exchange]:
    """The exchanges of a conversation, by the place of the answer's object."""
    turns = conversation.turns
    return {turns[pair.answer].place: pair for pair in exchanges(turns) if not turns[pair.answer].calls}


def rejected_turn(turn: Any, place: int, rejection: Rejection) -> RejectedTurn:
    """The rejection of the turn at a place of a conversation."""
    return RejectedTurn(strict_json(turn), Rejection(rejection.reason, f"messages[{place}]: {rejection.detail}"))


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


def _fields(conversation: Conversation, exchange: Exchange, *, between: bool = False) -> tuple[str, str, str]:
    """Instruction, input and output of an exchange; the turns before it stand in the input, and with `between` those in it."""
    turns = conversation.turns
    context = [*turns[: exchange.question], *(turns[exchange.question + 1 : exchange.answer] if between else ())]
    before = "\n".join(f"{turn.role}: {turn.text or ''}" for turn in context)
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
        raise Rejection(
            "invalid_unicode",
            f"{name} holds half a character (a lone surrogate, \\ud800 to \\udfff) at character {error.start}; "
            "accepted: whole characters",
        ) from error
