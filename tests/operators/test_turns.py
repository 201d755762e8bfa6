"""Turns are read whatever their keys and roles, and the example of a conversation is its last complete exchange."""

import itertools
import json

import pytest
from raw_rows import ANSWERED, ASKED, BOTH, fields, rejected

from operators.layouts import CHAT_COLUMNS, MEDIA, ROLES
from operators.normalise import normalise

# Conversations


@pytest.mark.parametrize(("role", "text"), itertools.product(["role", "from"], ["content", "value", "text"]))
@pytest.mark.parametrize("column", [*CHAT_COLUMNS, "chosen"])
def test_keys_of_turns_in_any_column(column, role, text):
    turns = [{role: "user", text: "I", "id": 1}, {role: "assistant", text: "Y"}]
    for value in (turns, json.dumps(turns)):
        example = normalise({column: value})
        assert (example.instruction, example.output) == ("I", "Y") and json.loads(example.messages) == turns
    other = {"role", "from", "content", "value", "text"} - {role, text}
    nulls = [{**turn, **dict.fromkeys(other)} for turn in turns]
    assert fields({column: nulls}) == ("I", "", "Y")


@pytest.mark.parametrize(("asks", "answers"), itertools.product(ROLES["user"], ROLES["assistant"]))
def test_roles_in_any_case(asks, answers):
    for form in (str, str.upper, str.title):
        turns = [
            {"from": "SYSTEM", "value": "S"},
            {"from": form(asks), "value": "I"},
            {"from": form(answers), "value": "Y"},
        ]
        assert fields({"conversations": turns}) == ("I", "SYSTEM: S", "Y")
        pair = {form(answers): "Y", form(asks): "I", "id": 3}
        assert fields({"conversations": [pair]}) == ("I", "", "Y")


def test_pairs_of_user_and_assistant():
    pairs = [
        {"system": "S", "user": "Q", "assistant": "A"},
        {"user": "I", "assistant": "Y", "note": 1},
        {"user": "Thanks"},
    ]
    example = normalise({"messages": pairs})
    assert (example.instruction, example.input, example.output) == ("I", "system: S\nuser: Q\nassistant: A", "Y")
    assert json.loads(example.messages) == pairs and json.loads(example.extra) == {"messages": [{"user": "Thanks"}]}
    assert fields({"messages": [{"user": "I", "assistant": "Y"}, {"user": "Thanks", "assistant": None}]}) == (
        "I",
        "",
        "Y",
    )


@pytest.mark.parametrize("role", ROLES["tool"])
def test_turns_of_tools_are_no_answers(role):
    turns = [ASKED, {"role": role, "content": "f"}, ANSWERED, {"role": role, "content": "g"}]
    assert fields({"messages": turns}) == ("I", "", "Y")
    assert rejected({"messages": turns[:2]})[0] == "no_assistant_turn"


def test_a_chat_that_ends_with_the_user_gives_its_last_complete_exchange():
    thanks, silent = {"role": "user", "content": "Thanks!"}, {"role": "assistant", "content": None, "tool_calls": []}
    for after in ([thanks], [thanks, thanks], [thanks, silent], [{"role": "user", "content": ""}, ANSWERED]):
        example = normalise({"messages": [*BOTH, *after]})
        assert (example.instruction, example.input, example.output) == ("I", "", "Y")
        assert json.loads(example.messages) == [*BOTH, *after] and json.loads(example.extra) == {"messages": after}
    assert rejected({"messages": [ASKED, silent]})[0] == "empty_output"
    assert rejected({"messages": [thanks]})[0] == "no_assistant_turn"


def test_a_row_with_a_turn_of_a_user_is_never_said_to_have_none():
    odd = [
        [{"speaker": "user", "utterance": "I"}, {"speaker": "assistant", "utterance": "Y"}],
        [{"role": "user", "message": "I"}, {"role": "assistant", "message": "Y"}],
        [ASKED],
        [ANSWERED, ASKED],
    ]
    reasons = [rejected({"messages": turns}) for turns in odd]
    assert [reason for reason, _ in reasons] == ["wrong_type", "wrong_type", "no_assistant_turn", "no_assistant_turn"]
    assert "turn 1 has the keys speaker and utterance; accepted: a turn with role or from" in reasons[0][1]
    assert "turn 1 has the keys role and message" in reasons[1][1] and "roles: user" in reasons[2][1]
    reason, detail = rejected({"messages": [{"role": "customer", "content": "I"}, ANSWERED]})
    assert reason == "no_user_turn" and "roles: customer and assistant" in detail and "user or human" in detail
    assert rejected({"messages": []}) == (
        "no_user_turn",
        rejected({"conversations": []})[1].replace("'conversations'", "'messages'"),
    )


def test_what_is_no_list_of_turns_is_named():
    for value, kind in (("hello", "text"), ({"role": "user"}, "an object"), (3, "a number")):
        reason, detail = rejected({"messages": value})
        assert reason == "wrong_type" and f"found {kind}" in detail and "'messages'" in detail
    assert "text that is no JSON" in rejected({"messages": "[{'role': 'user'}]"})[1]
    assert "turn 2 is text; accepted: a turn with" in rejected({"messages": [ASKED, "Y"]})[1]
    assert "a 'role' that is an object" in rejected({"messages": [{"role": {}, "content": "I"}]})[1]
    assert "found a list of a number and text" in rejected({"instruction": "I", "output": [1, "Y"]})[1]
    assert "found an object" in rejected({"instruction": "I", "output": {"a": 1}})[1]


# Parts


@pytest.mark.parametrize("key", ["text", "value"])
def test_text_parts_are_joined(key):
    parts = [{"type": "text", key: "I", "image": None}, {"type": "text", key: "!"}, "?"]
    turns = [{"role": "user", "content": parts}, {"role": "assistant", "content": [{key: "Y"}]}]
    assert fields({"messages": turns}) == ("I!?", "", "Y")


@pytest.mark.parametrize("word", MEDIA)
@pytest.mark.parametrize("form", [{"type": "%"}, {"type": "%_url", "%_url": {"url": "x"}}, {"%": "x.png", "text": "I"}])
def test_a_row_with_media_is_rejected_with_that_word(word, form):
    part = json.loads(json.dumps(form).replace("%", word))
    turns = [ASKED, {"role": "assistant", "content": [{"type": "text", "text": "I"}, part]}, *BOTH]
    reason, detail = rejected({"messages": turns})
    assert reason == "wrong_type" and detail.startswith(f"{word}: column 'messages': turn 2 has a part that is no text")


@pytest.mark.parametrize("word", MEDIA)
def test_a_text_that_shows_an_image_of_a_column_is_rejected_with_that_word(word):
    shown = [{"from": "human", "value": f"<{word}>\nI"}, {"from": "gpt", "value": "Y"}]
    for name, record in ((word, {"conversations": shown}), (f"{word}s", {"instruction": f"I <{word}>", "output": "Y"})):
        reason, detail = rejected({**record, name: ["x"]})
        assert reason == "wrong_type" and detail.startswith(f"{word}: ") and name in detail
        for nothing in (None, [], ""):
            assert f"<{word}>" in fields({**record, name: nothing})[0]
    assert fields({"conversations": BOTH, word: "x.png"}) == ("I", "", "Y")


def test_other_parts_are_named():
    for part, shown in (
        ({"type": "tool_use", "id": 1}, "'tool_use'"),
        ({"type": "text", "text": 3}, "'text'"),
        (3, "a number"),
    ):
        reason, detail = rejected({"messages": [{"role": "user", "content": [part]}, ANSWERED]})
        assert reason == "wrong_type" and shown in detail and "accepted: parts of text" in detail


# Prompts, completions and preferences


def test_turns_of_a_completion_follow_those_of_the_prompt():
    prompt = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"},
        ASKED,
    ]
    example = normalise({"prompt": prompt, "completion": [ANSWERED], "id": 7})
    assert (example.instruction, example.input, example.output) == ("I", "system: S\nuser: Q\nassistant: A", "Y")
    assert json.loads(example.messages) == [*prompt, ANSWERED] and json.loads(example.extra) == {"id": 7}


def test_the_answer_is_never_one_of_the_prompt():
    prompt = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}, ASKED]
    silent = {"role": "assistant", "content": " "}
    assert rejected({"prompt": prompt, "completion": [silent]})[0] == "empty_output"
    assert rejected({"prompt": prompt, "completion": " "})[0] == "empty_output"
    assert rejected({"prompt": prompt, "completion": [{"role": "tool", "content": "f"}]})[0] == "no_assistant_turn"
    assert rejected({"prompt": prompt, "completion": []})[0] == "empty_output"


def test_the_chosen_answer_is_the_output_and_the_rejected_one_stays():
    rejected_turns = [ASKED, {"role": "assistant", "content": "N"}]
    example = normalise({"prompt": "I", "chosen": BOTH, "rejected": rejected_turns})
    assert (example.instruction, example.output, json.loads(example.messages)) == ("I", "Y", BOTH)
    assert json.loads(example.extra) == {"prompt": "I", "rejected": rejected_turns}
    explicit = normalise({"prompt": [ASKED], "chosen": [ANSWERED], "rejected": rejected_turns[1:]})
    assert json.loads(explicit.messages) == BOTH and json.loads(explicit.extra) == {"rejected": rejected_turns[1:]}
    factory = {"conversations": [{"from": "human", "value": "I"}], "chosen": {"from": "gpt", "value": "Y"}}
    assert (
        fields(factory) == fields({**factory, "conversations": json.dumps(factory["conversations"])}) == ("I", "", "Y")
    )
    assert fields({"chosen": BOTH, "rejected": rejected_turns}) == ("I", "", "Y")


def test_keys_of_an_answer_stay_with_the_row():
    answer = {"role": "assistant", "content": "Y", "reasoning_content": "R", "weight": 1}
    assert json.loads(normalise({"prompt": "I", "completion": [answer]}).messages) == [ASKED, answer]
