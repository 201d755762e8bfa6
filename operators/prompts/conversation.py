"""The part of a conversation that stands before its answer, as a chat template takes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from operators.normalise import ASSISTANT_ROLES, TURN_LAYOUTS, USER_ROLES, text_of_turn


def turns_to_question(messages: str, instruction: str) -> str:
    """The turns of a row up to its question, which is the last turn of a user and says `instruction`, as JSON.

    Roles and texts stand under `role` and `content`, users and assistants have these names, and lists of text parts are one
    text; whatever else a turn holds stays, but for nulls, as trainers leave these out. The question has no `content`: that is
    the row's instruction or an alternative to it.
    """
    turns = json.loads(messages)
    for column, (role, content) in TURN_LAYOUTS.items():
        questions = [place for place, turn in enumerate(turns) if str(turn.get(role)) in USER_ROLES]
        if questions and text_of_turn(column, turns[questions[-1]].get(content)) == instruction:
            kept = [_turn(turn, column, role, content) for turn in turns[: questions[-1] + 1]]
            kept[-1].pop("content", None)
            return json.dumps(kept, ensure_ascii=False)
    raise ValueError("no turn of a user says the instruction of this row")


def _turn(turn: Mapping[str, Any], column: str, role: str, content: str) -> dict[str, Any]:
    named = str(turn.get(role))
    kept = {key: value for key, value in turn.items() if key not in (role, content) and value is not None}
    kept["role"] = "user" if named in USER_ROLES else "assistant" if named in ASSISTANT_ROLES else named
    if turn.get(content) is not None:
        kept["content"] = text_of_turn(column, turn[content])
    return kept


def conversation(instruction: str, input: str, turns: str | None, answer: str) -> list[dict[str, Any]]:
    """The messages of a row with an answer: `turns`, as `turns_to_question` gives them, whose question then says `instruction`;
    or, of a row that was no conversation, one question: the instruction and, after an empty line, the input."""
    asked = {"role": "assistant", "content": answer}
    if turns is None:
        return [{"role": "user", "content": f"{instruction}\n\n{input}" if input else instruction}, asked]
    *before, question = json.loads(turns)
    return [*before, {**question, "content": instruction}, asked]
