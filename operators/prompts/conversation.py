"""The part of a conversation that stands before its answer, as a chat template takes it."""

from __future__ import annotations

import json
from typing import Any

from operators.turns import Turn, exchange_at, last_exchange, parse_turns


def turns_to_question(messages: str, instruction: str, turn: int | None = None) -> str:
    """The turns of a row up to its answer as JSON: those `before` its question, the `question`, which is a turn of a user that
    says `instruction`, and those `after` it. The answer is the turn at place `turn` of `messages`; without one, that of the
    last exchange, and none are after the question.

    Roles and texts stand under `role` and `content`, by the names that chat templates know, and lists of text parts are one
    text; whatever else a turn holds stays, but for nulls, as trainers leave these out. The `content` of the question is what
    it says after the instruction, an input; the instruction is the row's own or an alternative to it.
    """
    turns = parse_turns("messages", messages)[1]
    exchange = last_exchange(turns) if turn is None else exchange_at(turns, turn)
    text = (turns[exchange.question].text or "") if exchange else None
    if exchange is None or text is None or not (text == instruction or text.startswith(f"{instruction}\n\n")):
        raise ValueError("no turn of a user says the instruction of this row")
    question = {**_message(turns[exchange.question]), "content": text.removeprefix(instruction)}
    before = [_message(earlier) for earlier in turns[: exchange.question]]
    between = [] if turn is None else turns[exchange.question + 1 : exchange.answer]
    parts = {"before": before, "question": question, "after": [_message(later) for later in between]}
    return json.dumps(parts, ensure_ascii=False)


def _message(turn: Turn) -> dict[str, Any]:
    content = {} if turn.text is None else {"content": turn.text}
    return {**turn.more, "role": turn.name, **content}


def conversation(instruction: str, input: str, turns: str | None, answer: str) -> list[dict[str, Any]]:
    """The messages of a row with an answer: `turns`, as `turns_to_question` gives them, whose question then says `instruction`;
    or, of a row that was no conversation, one question: the instruction and, after an empty line, the input."""
    asked = {"role": "assistant", "content": answer}
    if turns is None:
        return [{"role": "user", "content": f"{instruction}\n\n{input}" if input else instruction}, asked]
    given = json.loads(turns)
    question = {**given["question"], "content": instruction + given["question"]["content"]}
    return [*given["before"], question, *given["after"], asked]
