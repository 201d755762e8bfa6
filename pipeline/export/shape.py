"""A row of a run becomes a row of a trainer's format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.export.turns import answer_place, conversation_turns, role_of, sharegpt_turns, text_of

# Columns that hold turns, by format.
TURN_COLUMNS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt-completion": ("prompt", "completion"),
}
COLUMNS = {"alpaca": ("instruction", "input", "output"), "completion": ("prompt", "completion"), **TURN_COLUMNS}
STYLES = {"messages": ("role", "content"), "sharegpt": ("from", "value"), "prompt-completion": ("role", "content")}
# What a shape reads of a row.
READ = (
    *("id", "source", "instruction", "input", "output", "messages", "conversation", "turn"),
    *("extra", "input_truncated", "weight"),
)
KNOWN_ROLES = {"system", "developer", "user", "assistant", "tool"}
TEXT_ALONE = "hold more than roles and texts (tool calls, reasoning), and this format has the texts alone"
AFTER_ANSWER = "have turns after the scored answer, which are left out"
NOT_ALTERNATING = "do not go user, assistant, user, assistant after a system turn: LLaMA-Factory leaves such rows out"
STRANGE_ROLES = "have roles that chat templates do not know"
CALLS = "call tools, which LLaMA-Factory reads from --to sharegpt alone"
CUT_INPUT = "were scored with an input that was cut; they are written whole"


@dataclass(frozen=True)
class Shape:
    """What becomes of every row: the format; whether rows bring `tools` and take `weight` along; whether each turn says whether
    it is the scored answer (`train`); whether a conversation goes out once and whole, however many of its turns are rows; and
    for `completion` how a prompt is rendered."""

    to: str
    tools: bool = False
    weights: bool = False
    mark_answer: bool = False
    whole: bool = False
    render: Callable[[str, str], str] | None = None


@dataclass(frozen=True)
class Shaped:
    """A row of the format, and what there is to say of it."""

    row: dict[str, Any]
    notes: list[str]


def shaped(row: Mapping[str, Any], shape: Shape) -> Shaped:
    """The row in the format; raises ValueError where its conversation does not hold what was scored, and TemplateProblem."""
    notes = [CUT_INPUT] if row["input_truncated"] else []
    if shape.to in TURN_COLUMNS:
        columns = _with_turns(row, shape, notes)
    else:
        columns = _with_texts(row, shape)
        if row["messages"] is not None and not all(_says_text_alone(turn) for turn in conversation_turns(row)):
            notes.append(TEXT_ALONE)
    if shape.tools:
        tools = _tools_of(row)
        columns["tools"] = json.dumps(tools, ensure_ascii=False) if tools and shape.to == "sharegpt" else tools
    if shape.weights:
        columns["weight"] = row["weight"]
    return Shaped(columns, notes)


def _with_texts(row: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    if shape.render is None:
        return {name: row[name] for name in COLUMNS["alpaca"]}
    return {"prompt": shape.render(row["instruction"], row["input"]), "completion": row["output"]}


def _with_turns(row: Mapping[str, Any], shape: Shape, notes: list[str]) -> dict[str, Any]:
    turns = conversation_turns(row)
    if shape.to == "prompt-completion":
        place = answer_place(row)
        if place + 1 < len(turns):
            notes.append(AFTER_ANSWER)
        return {"prompt": turns[:place], "completion": [turns[place]]}
    written = sharegpt_turns(row) if shape.to == "sharegpt" else turns
    if row["turn"] is not None and not shape.whole:  # each turn of the conversation is a row
        end = answer_place(row) + 1
        if end < len(turns):
            notes.append(AFTER_ANSWER)
        turns, written = turns[:end], written[:end]
    notes += _of_conversation(turns, shape)
    if shape.mark_answer:
        answer = answer_place(row)
        written = [{**turn, "train": place == answer} for place, turn in enumerate(written)]
    return {TURN_COLUMNS[shape.to][0]: written}


def _of_conversation(turns: list[dict[str, Any]], shape: Shape) -> list[str]:
    """What trainers will make of turns under `role` and `content`, where that is not what a reader would think."""
    notes = []
    roles = [role_of(turn) for turn in turns]
    if not set(roles) <= KNOWN_ROLES or (
        shape.to == "messages" and not {turn["role"] for turn in turns} <= KNOWN_ROLES
    ):
        notes.append(STRANGE_ROLES)
    if shape.to == "messages" and any(turn.get("tool_calls") for turn in turns):
        notes.append(CALLS)
    elif not _alternates(roles):
        notes.append(NOT_ALTERNATING)
    return notes


def _alternates(roles: list[str]) -> bool:
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    sides = (("user", "tool"), ("assistant",))
    return len(spoken) % 2 == 0 and all(role in sides[place % 2] for place, role in enumerate(spoken))


def _says_text_alone(turn: Mapping[str, Any]) -> bool:
    return text_of(turn) is not None and not any(
        value is not None for key, value in turn.items() if key not in ("role", "content")
    )


def _tools_of(row: Mapping[str, Any]) -> list[Any] | None:
    """The tools that a conversation offers, where its column `tools` holds a list or the JSON of one."""
    if row["messages"] is None or not row["extra"]:
        return None
    tools = json.loads(row["extra"]).get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError:
            return None
    return tools if isinstance(tools, list) and tools else None


def is_plain(row: Mapping[str, Any], shape: Shape) -> bool:
    """Whether every turn of a row in the format holds a role and a text, in this order, and nothing else: a Parquet struct
    holds these, and would put nulls in the place of keys that other turns have."""
    style = list(STYLES[shape.to])
    return all(
        list(turn) == style and all(isinstance(value, str | None) for value in turn.values())
        for column in TURN_COLUMNS[shape.to]
        for turn in row[column]
    )


def schema_of(shape: Shape, *, plain: bool) -> pa.Schema:
    """The columns of the format in Parquet. Turns that are not `plain` are JSON values, which keep their keys."""
    turn = pa.struct([pa.field(key, pa.string()) for key in STYLES.get(shape.to, ())]) if plain else pa.json_()
    kind = pa.list_(turn) if shape.to in TURN_COLUMNS else pa.string()
    fields = [pa.field(name, kind) for name in COLUMNS[shape.to]]
    if shape.tools:
        fields.append(pa.field("tools", pa.string() if shape.to == "sharegpt" else pa.json_()))
    return pa.schema(fields + ([pa.field("weight", pa.float64())] if shape.weights else []))
