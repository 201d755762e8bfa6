"""The turns of a conversation, whatever their keys and roles: who speaks, and what is said."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from operators.layouts import (
    ASSISTANT,
    CALLS,
    MEDIA,
    NAME_IN_CHATS,
    PART_KEYS,
    ROLE_KEYS,
    ROLES,
    SIDE_OF_ROLE,
    TEXT_KEYS,
    TOOL,
    USER,
    accepted_turns,
    listed,
)
from operators.rejections import Rejection

PLAIN_KEYS = ("role", "content")  # of turns that are made here, where no other turn says how


@dataclass(frozen=True)
class Turn:
    """A turn: its role as it is written, its text (None where it has none, such as one that only calls a tool), the place of
    its object in the conversation, and that object's other keys."""

    role: str
    text: str | None
    place: int
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def side(self) -> str | None:
        """Who speaks: user, assistant, system or tool; None for any other role."""
        return SIDE_OF_ROLE.get(_fold(self.role))

    @property
    def name(self) -> str:
        """The role by the name that chat templates know."""
        return NAME_IN_CHATS.get(_fold(self.role), self.role)

    @property
    def spoken(self) -> bool:
        """Whether the turn says something."""
        return bool(self.text and self.text.strip())

    @property
    def calls(self) -> bool:
        """Whether the turn does no more than call a tool."""
        return not self.spoken and any(self.more.get(key) for key in CALLS)


@dataclass(frozen=True)
class Exchange:
    """A question and its answer, as numbers of turns in a list of them."""

    question: int
    answer: int


def exchanges(turns: Sequence[Turn]) -> list[Exchange]:
    """Every turn of an assistant after one of a user, with the last of a user before it."""
    pairs, question = [], None
    for number, turn in enumerate(turns):
        if turn.side == USER:
            question = number
        elif turn.side == ASSISTANT and question is not None:
            pairs.append(Exchange(question, number))
    return pairs


def last_exchange(turns: Sequence[Turn], first_answer: int = 0) -> Exchange | None:
    """The last exchange in which both sides say something, else the last; the answer is the last of an assistant before a user
    speaks again, and not before the turn `first_answer`. None where there is none."""
    answers = {pair.question: pair for pair in exchanges(turns) if pair.answer >= first_answer}
    complete = [pair for pair in answers.values() if turns[pair.question].spoken and turns[pair.answer].spoken]
    candidates = complete or list(answers.values())
    return candidates[-1] if candidates else None


def exchange_at(turns: Sequence[Turn], place: int) -> Exchange | None:
    """The exchange whose answer is the turn of the object at a place of the conversation; None where there is none."""
    return next((pair for pair in reversed(exchanges(turns)) if turns[pair.answer].place == place), None)


def parse_turns(column: str, value: Any) -> tuple[list[Any], list[Turn]]:
    """The objects of a conversation as they are, from a list or the JSON of one, and its turns.

    Raises Rejection with reason wrong_type for what is no turn, for a text that is none, and for images, audio and video.
    """
    objects = _objects(column, value)
    return objects, [turn for place, item in enumerate(objects) for turn in _turns_of(column, place, item)]


def _objects(column: str, value: Any) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Rejection(
                "wrong_type",
                f"column {column!r} must be a list of turns or the JSON of one, found text that is no JSON",
            ) from error
    if not isinstance(value, list):
        raise Rejection("wrong_type", f"column {column!r} must be a list of turns, found {kind(value)}")
    return value


def _turns_of(column: str, place: int, item: Any) -> list[Turn]:
    """The turns of an object: two of a pair."""
    if not isinstance(item, Mapping):
        raise Rejection(
            "wrong_type", f"column {column!r}: turn {place + 1} is {kind(item)}; accepted: {accepted_turns()}"
        )
    where = f"column {column!r}: turn {place + 1}"
    role_key = _first(item, ROLE_KEYS)
    if role_key is None:
        sides = sides_of(item)
        if not sides:
            raise Rejection("wrong_type", f"{where} has the keys {listed(item)}; accepted: {accepted_turns()}")
        return [Turn(key, text_of(where, item[key]), place) for key in sides]
    role = item[role_key]
    if isinstance(role, (list, Mapping)):
        raise Rejection("wrong_type", f"{where} has a {role_key!r} that is {kind(role)}; accepted: text")
    text_key = _first(item, TEXT_KEYS)
    if text_key is None and not any(key in item for key in (*TEXT_KEYS, *CALLS)):
        raise Rejection("wrong_type", f"{where} has the keys {listed(item)}; accepted: {accepted_turns()}")
    more = {key: value for key, value in item.items() if key not in (role_key, text_key) and value is not None}
    for key in TEXT_KEYS if text_key is None else ():
        more.pop(key, None)
    return [Turn(str(role), None if text_key is None else text_of(where, item[text_key]), place, more)]


def sides_of(item: Mapping[str, Any]) -> list[str]:
    """The keys of an object that are roles, such as user and assistant: the system first, then users, assistants, tools."""
    order = {role: number for number, role in enumerate(("system", *ROLES[USER], *ROLES[ASSISTANT], *ROLES[TOOL]))}
    keys = [key for key, value in item.items() if value is not None and isinstance(key, str) and _fold(key) in order]
    keys = [key for key in keys if key not in CALLS]
    return sorted(keys, key=lambda key: order[_fold(key)])


def is_turn(value: Any) -> bool:
    """Whether a value looks like a turn."""
    return isinstance(value, Mapping) and (_first(value, ROLE_KEYS) is not None or bool(sides_of(value)))


def text_of(where: str, value: Any) -> str:
    """Text of a turn: a string, or a list of parts of which each is text."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise Rejection("wrong_type", f"{where} must hold text or a list of parts, found {kind(value)}")
    return "".join(_text_of_part(where, part) for part in value)


def _text_of_part(where: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise Rejection("wrong_type", f"{where} has a part that is {kind(part)}; accepted: parts of text")
    type_ = part.get("type")
    present = [key for key, value in part.items() if value is not None]
    for word in MEDIA:
        # An `image_url` is an image, and so is a part of no type with such a key.
        if word in str(type_) or (type_ is None and any(word in str(key) for key in present)):
            raise Rejection("wrong_type", f"{word}: {where} has a part that is no text; accepted: parts of text")
    key = _first(part, PART_KEYS)
    if key is None or not isinstance(part[key], str) or type_ not in (None, *_TEXT_TYPES):
        raise Rejection(
            "wrong_type",
            f"{where} has a part of type {str(type_)[:60]!r} with the keys {listed(present)}; accepted: parts of text, such as "
            '{"type": "text", "text": ...}',
        )
    return str(part[key])


_TEXT_TYPES = ("text", "input_text", "output_text")


def with_roles(objects: Any, keys: Mapping[str, str]) -> Any:
    """Turns whose keys and roles somebody has named, with those names in place of theirs: `keys` holds some of role, content,
    user, assistant. A key that bears one of these names already takes the other's. Anything but turns is as it was."""
    if isinstance(objects, str):
        try:
            objects = json.loads(objects)
        except (ValueError, RecursionError):
            return objects
    if not isinstance(objects, list):
        return objects
    renamed = {keys[name]: name for name in PLAIN_KEYS if name in keys}
    renamed |= {name: key for key, name in renamed.items() if name not in renamed}
    roles = {_fold(keys[side]): side for side in (USER, ASSISTANT) if side in keys}
    return [_renamed(item, renamed, roles) if isinstance(item, Mapping) else item for item in objects]


def _renamed(item: Mapping[str, Any], renamed: Mapping[str, str], roles: Mapping[str, str]) -> dict[str, Any]:
    turn = {renamed.get(key, key): value for key, value in item.items()}
    role_key = _first(turn, ROLE_KEYS)
    if role_key is None:
        return {roles.get(_fold(str(key)), key): value for key, value in turn.items()}
    role = turn[role_key]
    return {**turn, role_key: roles.get(_fold(role), role)} if isinstance(role, str) else turn


def keys_of(objects: Iterable[Any]) -> tuple[str, str]:
    """The keys for role and text of the first turn that has some."""
    for item in objects:
        if isinstance(item, Mapping) and (role := _first(item, ROLE_KEYS)):
            return role, _first(item, TEXT_KEYS) or PLAIN_KEYS[1]
    return PLAIN_KEYS


def made_turn(side: str, text: str, keys: tuple[str, str]) -> dict[str, str]:
    """A turn of the user's, the assistant's or the system's, under these keys for role and text."""
    shared_gpt = {USER: "human", ASSISTANT: "gpt"} if keys[0] == "from" else {}
    return {keys[0]: shared_gpt.get(side, side), keys[1]: text}


def _first(item: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    """The first of the keys under which something stands."""
    return next((key for key in keys if item.get(key) is not None), None)


def _fold(role: str) -> str:
    return role.strip().casefold()


def kind(value: Any) -> str:
    """What a value is, in words."""
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
