"""Turns of a conversation in the key style of a trainer: `role`/`content`, or ShareGPT's `from`/`value`.

A turn that has the wanted keys stays as it came. Of any other, role and text move to these keys; all its other keys stay."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from operators.prompts.conversation import conversation

# A turn has one key of each of these, or a key for each side: {"user": ..., "assistant": ...}. `_role_content` is the only
# function that knows these styles.
ROLE_KEYS, TEXT_KEYS = ("role", "from"), ("content", "value", "text")
# The role of each name that people give to it, in the order of a pair's sides.
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bing", "bard", "bot", "model"), "assistant"),
    **dict.fromkeys(("tool", "observation", "function", "function_response"), "tool"),
}
SHAREGPT_NAMES = {"user": "human", "assistant": "gpt", "tool": "observation", "system": "system"}
FUNCTION_CALL = "function_call"  # ShareGPT's turn that holds nothing but calls, as JSON

Turn = dict[str, Any]


def conversation_turns(row: Mapping[str, Any]) -> list[Turn]:
    """The turns of a row under `role` and `content`, answer included: those of its conversation, or one question and its
    answer. Raises ValueError for turns in a style that nobody knows."""
    if row["messages"] is None:
        return conversation(row["instruction"], row["input"], None, row["output"])
    return [turn for given in json.loads(row["messages"]) for turn in _role_content(given)]


def sharegpt_turns(row: Mapping[str, Any]) -> list[Turn]:
    """The turns of a row under `from` and `value`; raises ValueError, as `conversation_turns` does."""
    given = None if row["messages"] is None else json.loads(row["messages"])
    if given and all("from" in turn and "value" in turn for turn in given):
        return list(given)
    return [_from_value(turn) for turn in conversation_turns(row)]


def answer_place(turns: list[Turn], row: Mapping[str, Any]) -> int:
    """Where the scored answer stands among `conversation_turns`; raises ValueError where no turn says it."""
    asked = row["messages"] is None  # then there is one question, and its text is not the instruction alone
    for place in reversed(range(len(turns))):
        if role_of(turns[place]) == "assistant" and text_of(turns[place]) == row["output"]:
            questions = [turn for turn in turns[:place] if role_of(turn) == "user"]
            if asked or (questions and _asks(text_of(questions[-1]), row["instruction"])):
                return place
    raise ValueError("no turn of its conversation answers the instruction of the row with its output")


def _asks(text: str | None, instruction: str) -> bool:
    """Whether a question says an instruction: alone, or before an input after an empty line."""
    return text is not None and (text == instruction or text.startswith(f"{instruction}\n\n"))


def role_of(turn: Mapping[str, Any]) -> str:
    """The role of a turn under `role` or `from`, by the name that chat templates know; an unknown one as it is."""
    name = str(turn.get("role", turn.get("from")))
    return "assistant" if name.casefold() == FUNCTION_CALL else ROLES.get(name.casefold(), name)


def text_of(turn: Mapping[str, Any]) -> str | None:
    """The text of a `role`/`content` turn, text parts joined; None where it holds something else than text."""
    content = turn.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        return None
    parts = [part.get("text", part.get("value")) if isinstance(part, Mapping) else part for part in content]
    return "".join(parts) if all(isinstance(part, str) for part in parts) else None


def _role_content(turn: Mapping[str, Any]) -> list[Turn]:
    role_key, text_key = _first(turn, ROLE_KEYS), _first(turn, TEXT_KEYS)
    if role_key == "role" and text_key in ("content", None):
        return [dict(turn)]
    if role_key is not None:
        rest = {key: value for key, value in turn.items() if key not in (role_key, text_key)}
        text = None if text_key is None else turn[text_key]
        calls = _calls_in(turn[role_key], text)
        if calls is not None:
            return [{"role": "assistant", "content": None, "tool_calls": calls, **rest}]
        return [{"role": role_of(turn), "content": text, **rest}]
    sides = sorted((key for key in turn if key.casefold() in ROLES), key=lambda key: list(ROLES).index(key.casefold()))
    spoken = [{"role": ROLES[key.casefold()], "content": turn[key]} for key in sides if turn[key] is not None]
    if not spoken:
        raise ValueError(
            f"a turn has the keys {', '.join(list(turn)[:8]) or 'none'}; known are role, from, user and assistant"
        )
    return [{**spoken[0], **{key: value for key, value in turn.items() if key not in sides}}, *spoken[1:]]


def _first(turn: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first of the keys under which something stands."""
    return next((key for key in keys if turn.get(key) is not None), None)


def _calls_in(role: Any, text: Any) -> list[Turn] | None:
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


def _from_value(turn: Turn) -> Turn:
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
