"""Turns of a conversation in the key style of a trainer: `role`/`content`, or ShareGPT's `from`/`value`.

A turn that has the wanted keys stays as it came. Of any other, role and text move to these keys; all its other keys stay."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from operators.layouts import NAME_IN_CHATS
from operators.prompts.conversation import conversation
from operators.rejections import Rejection
from operators.turns import exchange_at, last_exchange, parse_turns, sides_of

SHAREGPT_NAMES = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}
FUNCTION_CALL = "function_call"  # ShareGPT's turn that holds nothing but calls, as JSON

Message = dict[str, Any]


def conversation_turns(row: Mapping[str, Any]) -> list[Message]:
    """The turns of a row under `role` and `content`, answer included: those of its conversation, or one question and its
    answer. Raises ValueError for turns in a style that nobody knows."""
    if row["messages"] is None:
        return conversation(row["instruction"], row["input"], None, row["output"])
    return [turn for given in json.loads(row["messages"]) for turn in _role_content(given)]


def sharegpt_turns(row: Mapping[str, Any]) -> list[Message]:
    """The turns of a row under `from` and `value`; raises ValueError, as `conversation_turns` does."""
    given = None if row["messages"] is None else json.loads(row["messages"])
    if given and all("from" in turn and "value" in turn for turn in given):
        return list(given)
    return [_from_value(turn) for turn in conversation_turns(row)]


def answer_place(row: Mapping[str, Any]) -> int:
    """Where the scored answer stands among `conversation_turns`; raises ValueError where no turn says it."""
    if row["messages"] is None:
        return 1
    turns = parse_turns("messages", row["messages"])[1]
    exchange = last_exchange(turns) if row["turn"] is None else exchange_at(turns, row["turn"])
    if exchange is None or turns[exchange.answer].text != row["output"]:
        raise ValueError(
            "no turn of its conversation answers the instruction of the row with its output; accepted: "
            "--to alpaca, which needs no turns"
        )
    return exchange.answer


def role_of(turn: Mapping[str, Any]) -> str:
    """The role of a turn under `role` or `from`, by the name that chat templates know; an unknown one as it is."""
    name = str(turn.get("role", turn.get("from")))
    return NAME_IN_CHATS.get(name.strip().casefold(), name)


def text_of(turn: Mapping[str, Any]) -> str | None:
    """The text of a `role`/`content` turn, text parts joined; None where it holds something else than text."""
    content = turn.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    parts = [part.get("text", part.get("value")) if isinstance(part, Mapping) else part for part in content]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else None


def _role_content(given: Message) -> list[Message]:
    """The turns of an object of a conversation: itself where it has these keys, two of a pair."""
    if given.get("role") is not None and ("content" in given or not {"value", "text"} & given.keys()):
        return [dict(given)]
    try:
        turns = parse_turns("messages", [given])[1]
    except Rejection as problem:
        raise ValueError(problem.detail) from problem
    messages = []
    for turn in turns:
        calls = _calls_in(turn.role, turn.text)
        said = {"content": turn.text} if calls is None else {"content": None, "tool_calls": calls}
        messages.append({"role": turn.name, **said})
    sides = sides_of(given) if len(turns) > 1 else []  # a pair: the first of them takes along what else it holds
    more = (
        {key: value for key, value in given.items() if key not in sides and value is not None}
        if sides
        else turns[0].more
    )
    return [{**messages[0], **more}, *messages[1:]]


def _calls_in(role: Any, text: Any) -> list[Message] | None:
    """The calls of a ShareGPT turn as `tool_calls` has them; None where it holds none that can be read."""
    if str(role).casefold() != FUNCTION_CALL or not isinstance(text, str):
        return None
    try:
        calls = json.loads(text)
    except ValueError:
        return None
    calls = calls if isinstance(calls, list) else [calls]
    if not calls or not all(isinstance(call, Mapping) and "name" in call for call in calls):
        return None
    return [{"type": "function", "function": dict(call)} for call in calls]


def _from_value(turn: Message) -> Message:
    name = SHAREGPT_NAMES.get(role_of(turn), str(turn["role"]))
    content, calls = turn.get("content"), turn.get("tool_calls")
    rest = {key: value for key, value in turn.items() if key not in ("role", "content")}
    if calls:
        # Text beside calls has no place in the format; it stays under its own key.
        beside = {"content": content} if content else {}
        return {"from": FUNCTION_CALL, "value": _as_sharegpt(calls), **rest, **beside}
    text = text_of(turn)
    return {"from": name, "value": content if text is None else text, **rest}


def _as_sharegpt(calls: list[Any]) -> str:
    """Calls as the text of a ShareGPT turn: one call is an object, several are a list; arguments are objects, not JSON text."""
    named = []
    for call in calls:
        function = dict(call.get("function", call)) if isinstance(call, Mapping) else {"name": str(call)}
        if isinstance(function.get("arguments"), str):
            with contextlib.suppress(ValueError):  # arguments that are no JSON stay the text that they are
                function["arguments"] = json.loads(function["arguments"])
        named.append(function)
    return json.dumps(named[0] if len(named) == 1 else named, ensure_ascii=False)
