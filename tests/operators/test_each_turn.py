"""Under `turns: each` every answer of a conversation is an example with all turns before it, or is rejected by its place."""

import json

import pytest
from chats import THINKING, encoder_of, trained
from hypothesis import given
from hypothesis import strategies as st
from raw_rows import ANSWERED, ASKED, BOTH

from operators import normalise as module
from operators.normalise import Example, RejectedTurn, normalise, normalise_each
from operators.prompts.conversation import turns_to_question
from operators.rejections import Rejection


def turn(role, content, **more):
    return {"role": role, "content": content, **more}


SYSTEM, CALL = turn("system", "S"), turn("assistant", None, tool_calls=[{"name": "f"}])
LONG = [
    SYSTEM,
    turn("assistant", "Hello!"),
    turn("user", "Q1"),
    turn("assistant", "A1"),
    turn("user", "Q2"),
    CALL,
    turn("tool", "4"),
    turn("assistant", "A2"),
    turn("assistant", "A3"),
    turn("user", "Thanks"),
]
BEFORE = "system: S\nassistant: Hello!"
EXPECTED = [
    (3, "Q1", BEFORE, "A1"),
    (7, "Q2", f"{BEFORE}\nuser: Q1\nassistant: A1\nassistant: \ntool: 4", "A2"),
    (8, "Q2", f"{BEFORE}\nuser: Q1\nassistant: A1\nassistant: \ntool: 4\nassistant: A2", "A3"),
]


def test_every_answer_has_all_turns_before_it():
    examples = list(normalise_each({"messages": LONG, "n": 1}))
    assert [(row.turn, row.instruction, row.input, row.output) for row in examples] == EXPECTED
    assert all(json.loads(row.messages) == LONG and json.loads(row.extra) == {"n": 1} for row in examples)
    assert len({row.conversation for row in examples}) == 1 and len(examples[0].conversation) == 32


def test_a_conversation_has_its_name_from_its_turns_alone():
    names = [
        next(normalise_each({"messages": turns, **more})).conversation for turns, more in ((BOTH, {"n": 1}), (BOTH, {}))
    ]
    assert names[0] == names[1] != next(normalise_each({"messages": [SYSTEM, *BOTH]})).conversation


@pytest.mark.parametrize("place", [3, 7])
def test_each_answer_is_what_a_trainer_sees(place):
    encoder = encoder_of(THINKING)
    turns = [dict(item) for item in LONG if item != CALL]
    answers = [row for row in normalise_each({"messages": turns}) if row.output == f"A{1 + place // 7}"]
    (row,) = answers
    prompt = encoder.prompt(row.instruction, row.input, encoder.turns(row.instruction, row.messages, row.turn))
    assert prompt + encoder.targets([row.output])[0] == trained(encoder, turns[: row.turn + 1], "<|im_end|>")


def test_turns_of_tools_stand_between_question_and_answer():
    *_, later, _ = normalise_each({"messages": LONG})
    parts = json.loads(turns_to_question(later.messages, "Q2", later.turn))
    assert [item["role"] for item in parts["after"]] == ["assistant", "tool"] and parts["question"]["content"] == ""
    assert [item["content"] for item in parts["before"]] == ["S", "Hello!", "Q1", "A1"]


def test_answers_that_cannot_be_used_are_rejected_by_their_place():
    turns = [turn("user", " "), ANSWERED, ASKED, turn("assistant", ""), ASKED, ANSWERED]
    first, second, third = normalise_each({"messages": turns})
    assert isinstance(third, Example) and third.turn == 5
    assert (first.rejection.reason, second.rejection.reason) == ("empty_instruction", "empty_output")
    assert first.rejection.detail.startswith("messages[1]: ") and json.loads(first.raw) == turns[1]
    assert second.rejection.detail.startswith("messages[3]: ") and json.loads(second.raw) == turns[3]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([ASKED], "no_assistant_turn"),
        ([ANSWERED], "no_user_turn"),
        ([ANSWERED, ASKED], "no_assistant_turn"),
        ([], "no_user_turn"),
    ],
)
def test_a_conversation_without_an_answer_is_rejected_once(turns, reason):
    with pytest.raises(Rejection) as caught:
        list(normalise_each({"messages": turns}))
    assert caught.value.reason == reason
    with pytest.raises(Rejection, match="empty_output"):
        list(normalise_each({"messages": [ASKED, CALL]}))


def test_other_rows_are_one_example():
    row = {"instruction": "I", "input": "X", "output": "Y"}
    assert list(normalise_each(row)) == [normalise(row)]
    assert next(normalise_each(row)).conversation is None


def test_answers_of_a_history_are_examples_too():
    row = {"instruction": "I", "input": "X", "output": "Y", "system": "S", "history": [["Q", "A"]]}
    first, last = normalise_each(row)
    assert (first.instruction, first.input, first.output, first.turn) == ("Q", "system: S", "A", 2)
    assert (last.instruction, last.input, last.output, last.turn) == (
        "I",
        "system: S\nuser: Q\nassistant: A\n\nX",
        "Y",
        4,
    )
    parts = json.loads(turns_to_question(last.messages, "I", 4))
    assert parts["question"] == {"role": "user", "content": "\n\nX"} and len(parts["before"]) == 3


def test_pairs_are_told_apart_by_their_place():
    pairs = [{"user": "Q", "assistant": "A"}, {"user": "I", "assistant": "Y"}]
    assert [(row.turn, row.instruction, row.output) for row in normalise_each({"messages": pairs})] == [
        (0, "Q", "A"),
        (1, "I", "Y"),
    ]


def test_what_a_conversation_may_become_is_bounded(monkeypatch):
    turns = BOTH * 20
    whole = list(normalise_each({"messages": turns}))
    size = sum(len(row.messages) + len(row.input) for row in whole)
    monkeypatch.setattr(module, "MAX_CONTEXTS", size)
    assert list(normalise_each({"messages": turns})) == whole
    monkeypatch.setattr(module, "MAX_CONTEXTS", size // 2)
    results = list(normalise_each({"messages": turns}))
    kept = [row for row in results if isinstance(row, Example)]
    assert len(results) == 20 and kept == whole[: len(kept)] and 5 < len(kept) < 15
    assert {row.rejection.reason for row in results[len(kept) :]} == {"row_too_large"}


SAID = st.sampled_from(["I", "Y", "", " ", "a\nassistant: b"])
ROLES = st.sampled_from(["user", "assistant", "system", "tool", "other"])
TURNS = st.lists(
    st.builds(turn, ROLES, SAID) | st.just(CALL) | st.builds(lambda a, b: {"user": a, "assistant": b}, SAID, SAID)
)


@given(TURNS)
def test_every_answer_is_an_example_or_rejected_once_and_no_two_are_one(turns):
    def answers():
        asked = False
        for place, item in enumerate(turns):
            asked = asked or item.get("role") == "user" or "user" in item
            if asked and (item.get("role") == "assistant" or "assistant" in item) and item is not CALL:
                yield place

    expected = list(answers())
    try:
        results = list(normalise_each({"messages": turns}))
    except Rejection as rejection:
        assert not expected and rejection.reason in {
            "no_user_turn",
            "no_assistant_turn",
            "empty_output",
            "empty_instruction",
        }
        return
    places = [
        row.turn if isinstance(row, Example) else int(row.rejection.detail.partition("[")[2].partition("]")[0])
        for row in results
    ]
    assert places == expected
    examples = [row for row in results if not isinstance(row, RejectedTurn)]
    assert len({(row.instruction, row.input, row.output) for row in examples}) == len(examples)
    for row in examples:
        turns_to_question(row.messages, row.instruction, row.turn)
