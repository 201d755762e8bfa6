"""What a record holds under its layout: three texts, or a conversation, and the columns that are neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from operators.layout_columns import Text, history_turns, system_turn, text_of_input, text_or_turns
from operators.layouts import (
    ASSISTANT,
    CHAT_COLUMNS,
    HISTORY,
    INSTRUCTIONS,
    LAYOUTS,
    MEDIA,
    SYSTEM,
    SYSTEM_SIDE,
    USER,
    Layout,
    accepted_columns,
    listed,
)
from operators.rejections import Rejection
from operators.turns import Turn, keys_of, kind, made_turn, parse_turns, with_roles


@dataclass(frozen=True)
class Conversation:
    """The turns of a row, with their objects as they came. `whole` ones stand in one column; others are put together from
    several, and `first_answer` is the first turn of them that may be the answer. Where a text was the instruction, that is turn
    `asked`: it holds `instruction` and, after an empty line, the row's own `input`."""

    column: str
    objects: list[Any]
    turns: list[Turn]
    whole: bool = True
    first_answer: int = 0
    asked: int | None = None
    instruction: str = ""
    input: str = ""


@dataclass(frozen=True)
class Row:
    """A record under its layout: three texts or a conversation; `rest` is every other column."""

    rest: dict[str, Any]
    conversation: Conversation | None = None
    instruction: str = ""
    input: str = ""
    output: str = ""


def read_row(record: Mapping[str, Any], columns: Mapping[str, str] | None) -> Row:
    """The row of a record, by `columns` or by its layout; raises Rejection."""
    row = _by_columns(record, columns) if columns else _by_layout(record)
    _require_text_alone(row)
    return row


def _require_text_alone(row: Row) -> None:
    """Raise Rejection where a text shows an image, audio or video of a column with <image>, <audio> or <video>."""
    columns = {word: name for word in MEDIA for name in (word, f"{word}s") if row.rest.get(name) not in (None, "", [])}
    for word, name in columns.items():
        turns = [turn.text or "" for turn in row.conversation.turns] if row.conversation else []
        if any(f"<{word}>" in text for text in (row.instruction, row.input, *turns)):
            raise Rejection(
                "wrong_type", f"{word}: a text shows what column {name!r} holds; accepted: rows of text alone"
            )


@dataclass(frozen=True)
class _Places:
    """The raw columns of a record that its layout means; `keys` are the user's own names for what stands in turns."""

    instruction: str = ""
    input: str | None = None
    output: str = ""
    turns: str | None = None
    system: str | None = None
    history: str | None = None
    keys: Mapping[str, str] | None = None


def _by_columns(record: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    fields = {name: columns.get(name) for name in ("input", "system", "history")}
    keys = {name: columns[name] for name in ("role", "content", "user", "assistant") if name in columns}
    for field, column in fields.items():
        if column is not None and column not in record:
            raise Rejection("missing_field", f"column {column!r} ({field}) is absent; columns: {listed(record)}")
    for field in ("messages", "instruction", "output"):
        if field in columns and record.get(columns[field]) is None:
            raise Rejection(
                "missing_field", f"column {columns[field]!r} ({field}) is absent or null; columns: {listed(record)}"
            )
    places = _Places(
        columns.get("instruction", ""),
        output=columns.get("output", ""),
        turns=columns.get("messages"),
        keys=keys,
        **fields,
    )
    return _row(record, places)


def layout_of(record: Mapping[str, Any]) -> Layout | None:
    """The layout by which a record is read; None where it has none."""
    recognised = _recognised(record, _names(record))
    return None if recognised is None else recognised[0]


def _recognised(record: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Layout, _Places] | None:
    """The first layout that a record has, or where none of those holds a text, the first that it has the columns of."""
    empty: tuple[Layout, _Places] | None = None
    for layout in LAYOUTS:
        places = _places(record, names, layout)
        if places is not None and (places.turns or record[places.instruction] != "" or record[places.output] != ""):
            return layout, places
        empty = empty or (None if places is None else (layout, places))
    return empty


def _by_layout(record: Mapping[str, Any]) -> Row:
    names = _names(record)
    recognised = _recognised(record, names)
    if recognised is not None:
        return _row(record, recognised[1])
    for name in CHAT_COLUMNS:
        if name in names:
            column = names[name]
            raise Rejection(
                "wrong_type",
                f"column {column!r} must be a list of turns or the JSON of one, found {kind(record[column])}",
            )
    null = [key for key, value in record.items() if value is None]
    present = listed(key for key, value in record.items() if value is not None)
    raise Rejection(
        "missing_field",
        f"columns: {present}{f'; null: {listed(null)}' if null else ''}; accepted: {accepted_columns()}; or say with "
        "`columns` in the configuration which they are",
    )


def _names(record: Mapping[str, Any]) -> dict[str, str]:
    """The columns that are not null by their names in lower case; a name in lower case goes before others."""
    present = [key for key, value in record.items() if value is not None and isinstance(key, str)]
    return {**{key.casefold(): key for key in reversed(present)}, **{key: key for key in present}}


def _places(record: Mapping[str, Any], names: Mapping[str, str], layout: Layout) -> _Places | None:
    """Where the fields of a layout stand in a record; None where it has another layout."""
    system = next((names[name] for name in SYSTEM if name in names), None)
    if layout.turns:
        column = names.get(layout.turns)
        return _Places(turns=column, system=system) if column and _may_be_turns(record[column]) else None
    output = next((names[name] for name in layout.outputs if name in names), None)
    if layout.instruction not in names or output is None:
        return None
    if layout.instruction in ("input", "inputs") and any(str(key).casefold() in INSTRUCTIONS for key in record):
        return None
    input = next((names[name] for name in layout.inputs if name in names), None)
    return _Places(names[layout.instruction], input, output, system=system, history=names.get(HISTORY))


def _may_be_turns(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, str) and value.lstrip()[:1] == "[")


def _row(record: Mapping[str, Any], places: _Places) -> Row:
    if places.keys:
        named = [name for name in (places.turns, places.instruction, places.output, places.history) if name]
        record = {**record, **{name: with_roles(record.get(name), places.keys) for name in named}}
    if places.turns:
        return _whole(record, places, places.turns)
    instruction, others = text_or_turns(record, places.instruction)
    input = text_of_input(record, places.input)
    output, references = text_or_turns(record, places.output)
    if isinstance(output, list) and _begins_anew(places, instruction, output):
        return _whole(record, places, places.output)  # what the instruction says stands in these turns
    used = {places.instruction, places.input, places.output}
    before = []
    for column, turns in (
        (places.system, system_turn(record, places.system)),
        (places.history, history_turns(record, places.history)),
    ):
        if turns:
            used.add(column)
            before.append((str(column), turns))
    rest = {key: value for key, value in record.items() if key not in used} | others | references
    if isinstance(instruction, str) and isinstance(output, str) and not before:
        return Row(rest, None, instruction, input, output)
    return Row(rest, _put_together(places, before, instruction, input, output))


def _whole(record: Mapping[str, Any], places: _Places, column: str) -> Row:
    """A row of which one column is the whole conversation; a column of the system's counts where that has no such turn."""
    objects, turns = parse_turns(column, record[column])
    rest = {key: value for key, value in record.items() if key != column}
    system = system_turn(record, places.system)
    if system and not any(turn.side == SYSTEM_SIDE for turn in turns):
        del rest[str(places.system)]
        objects, turns = _joined([(str(places.system), _made(system, objects)), (column, objects)])
    return Row(rest, Conversation(column, objects, turns))


def _made(parts: Sequence[Any], like: Sequence[Any]) -> list[Any]:
    """Turns from sides and texts, under the keys of the turns of `like`; turns as they are."""
    keys = keys_of(like)
    return [made_turn(part[0], part[1], keys) if isinstance(part, tuple) else part for part in parts]


def _joined(parts: Sequence[tuple[str, list[Any]]]) -> tuple[list[Any], list[Turn]]:
    """The objects and turns of several columns, one after the other."""
    objects: list[Any] = []
    turns: list[Turn] = []
    for column, items in parts:
        turns += [replace(turn, place=turn.place + len(objects)) for turn in parse_turns(column, items)[1]]
        objects += items
    return objects, turns


def _put_together(
    places: _Places, before: list[tuple[str, list[Any]]], instruction: Text, input: str, output: Text
) -> Conversation:
    """The conversation of a row of which instruction or output are turns, or that has turns before its question."""
    if input and isinstance(instruction, list):
        raise Rejection(
            "wrong_type",
            f"column {places.instruction!r} holds turns, so column {places.input!r} has no place; accepted: one of them",
        )
    asked = [(USER, f"{instruction}\n\n{input}" if input else instruction)]
    questions = asked if isinstance(instruction, str) else instruction
    answers = [(ASSISTANT, output)] if isinstance(output, str) else output
    parts = [*before, (places.instruction, questions), (places.output, answers)]
    like = [item for _, items in parts for item in items if not isinstance(item, tuple)]
    made = [(column, _made(items, like)) for column, items in parts]
    first_answer = len(_joined(made[:-1])[1])
    conversation = Conversation(places.output, *_joined(made), whole=False, first_answer=first_answer)
    if isinstance(instruction, str):
        return replace(conversation, asked=first_answer - 1, instruction=instruction, input=input)
    return conversation


def _begins_anew(places: _Places, instruction: Text, output: list[Any]) -> bool:
    """Whether the turns of an output are the whole conversation: they begin with those of the instruction, or with a user where
    the instruction has asked already."""
    if isinstance(instruction, list) and output[: len(instruction)] == instruction:
        return True
    first = next((turn for turn in parse_turns(places.output, output)[1] if turn.side != SYSTEM_SIDE), None)
    if first is None or first.side != USER:
        return False
    asked = [] if isinstance(instruction, str) else parse_turns(places.instruction, instruction)[1]
    return isinstance(instruction, str) or (bool(asked) and asked[-1].side == USER)
