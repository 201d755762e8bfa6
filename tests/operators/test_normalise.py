"""Every layout is recognised, text stays verbatim, nothing is lost, and what cannot be used has a reason."""

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.hashing import content_hash, fold_space, fold_wording
from operators.normalise import Example, normalise
from operators.rejections import Rejection

LAYOUTS = [
    ({"instruction": "I", "input": "X", "output": "Y"}, ("I", "X", "Y")),
    ({"instruction": "I", "output": "Y"}, ("I", "", "Y")),
    ({"instruction": "I", "input": None, "output": "Y"}, ("I", "", "Y")),
    ({"instruction": "I", "context": "X", "response": "Y", "category": "c"}, ("I", "X", "Y")),
    ({"definition": "I", "input": "X", "output": "Y", "task": "t"}, ("I", "X", "Y")),
    ({"definition": ["I"], "input": "X", "targets": ["Y", "Z"]}, ("I", "X", "Y")),
    ({"prompt": "I", "completion": "Y"}, ("I", "", "Y")),
    ({"messages": [{"role": "user", "content": "I"}, {"role": "assistant", "content": "Y"}]}, ("I", "", "Y")),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "I"}]},
                {"role": "assistant", "content": "Y"},
            ]
        },
        ("I", "", "Y"),
    ),
    (
        {
            "conversations": [
                {"from": "human", "value": "a"},
                {"from": "gpt", "value": "b"},
                {"from": "human", "value": "I"},
                {"from": "function_call", "value": "f"},
                {"from": "gpt", "value": "Y"},
            ]
        },
        ("I", "human: a\ngpt: b", "Y"),
    ),
]
BAD = [
    ([1], "not_an_object"),
    (None, "not_an_object"),
    ({"instruction": "I"}, "missing_field"),
    ({"text": "I"}, "missing_field"),
    ({"instruction": None, "output": "Y"}, "missing_field"),
    ({"instruction": "I", "output": None}, "missing_field"),
    ({"instruction": 5, "output": "Y"}, "wrong_type"),
    ({"instruction": "I", "input": ["a"], "output": "Y"}, "wrong_type"),
    ({"instruction": "I", "output": {"a": 1}}, "wrong_type"),
    ({"messages": "hello"}, "wrong_type"),
    ({"messages": [1]}, "wrong_type"),
    ({"instruction": " \n", "output": "Y"}, "empty_instruction"),
    ({"instruction": "I", "output": "\t "}, "empty_output"),
    ({"instruction": "I", "output": []}, "empty_output"),
    ({"instruction": "I", "output": "\ud800"}, "invalid_unicode"),
    ({"instruction": "I", "output": "Y", "more": "\ud800"}, "invalid_unicode"),
    ({"messages": []}, "no_user_turn"),
    ({"messages": [{"role": "user", "content": "I"}]}, "no_assistant_turn"),
    ({"messages": [{"role": "assistant", "content": "Y"}, {"role": "user", "content": "I"}]}, "no_assistant_turn"),
]


@pytest.mark.parametrize(("record", "expected"), LAYOUTS)
def test_layouts(record, expected):
    example = normalise(record)
    assert (example.instruction, example.input, example.output) == expected


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_reasons(record, reason):
    with pytest.raises(Rejection) as caught:
        normalise(record)
    assert caught.value.reason == reason and caught.value.detail


def test_other_columns_and_references_travel_in_extra():
    example = normalise(
        {"definition": "I", "input": "X", "targets": ["Y", "Z"], "task": "t", "n": 3, "deep": {"a": [None]}}
    )
    assert json.loads(example.extra) == {"targets": ["Z"], "task": "t", "n": 3, "deep": {"a": [None]}}
    assert example.task == "t"


def test_extra_is_strict_json_whatever_the_columns_hold():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    example = normalise(
        {
            "instruction": "I",
            "output": "Y",
            "n": float("nan"),
            "list": [1, float("inf")],
            "day": datetime.date(2026, 1, 2),
        }
    )
    strict = json.loads(example.extra, parse_constant=lambda name: pytest.fail(name))
    assert strict == {"n": None, "list": [1, None], "day": "2026-01-02"}
    with pytest.raises(Rejection, match="nested too deeply"):
        normalise({"instruction": "I", "output": "Y", "deep": deep})


def test_turns_between_question_and_answer_stay_with_the_row():
    tool = {"from": "function_call", "value": "f"}
    example = normalise(
        {"conversations": [{"from": "human", "value": "I"}, tool, {"from": "gpt", "value": "Y"}], "tools": "[]"}
    )
    assert json.loads(example.extra) == {"tools": "[]", "conversations": [tool]}


def test_columns_of_the_users_own():
    example = normalise({"q": "I", "a": "Y", "instruction": "no"}, {"instruction": "q", "output": "a"})
    assert example == Example("I", "", "Y", None, '{"instruction": "no"}')
    with pytest.raises(Rejection, match="missing_field"):
        normalise({"q": "I"}, {"instruction": "q", "output": "a"})


@given(st.text(min_size=1).filter(str.strip), st.text(), st.text(min_size=1).filter(str.strip))
def test_text_is_verbatim(instruction, input, output):
    example = normalise({"instruction": instruction, "input": input, "output": output})
    assert (example.instruction, example.input, example.output) == (instruction, input, output)


@given(st.lists(st.text(max_size=3), min_size=1, max_size=3), st.lists(st.text(max_size=3), min_size=1, max_size=3))
def test_hash_tells_texts_apart(left, right):
    assert (content_hash(*left) == content_hash(*right)) == (left == right)


def test_folding():
    assert fold_space(" cafe\u0301\n\tau  lait ") == "café au lait"
    assert fold_wording("Sort, the LIST!") == fold_wording("sort the list") != fold_wording("sort a list")
    assert fold_wording("?!") == "?!" != fold_wording("...")
