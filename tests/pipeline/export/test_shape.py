"""Each row goes out as its format has it, and a conversation as it came."""

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published_runs import PLAIN_CHAT, TOOL_CHAT, chat_row, scored_row

from pipeline.export import FORMATS, shape
from pipeline.export.shape import Shape, is_plain, schema_of, shaped
from pipeline.export.turns import answer_place, conversation_turns, sharegpt_turns

SHAREGPT_CHAT = [{"from": "human", "value": "Hi.", "note": 1}, {"from": "gpt", "value": "Hello."}]


def rendered(instruction, input):
    return f"<{instruction}|{input}>"


def made(row, to, **more):
    return shaped(row, Shape(to, render=rendered if to == "completion" else None, **more)).row


def test_an_instruction_in_each_format():
    row = scored_row("Sort.", "b a", "a b")
    asked, answered = {"role": "user", "content": "Sort.\n\nb a"}, {"role": "assistant", "content": "a b"}
    assert made(row, "alpaca") == {"instruction": "Sort.", "input": "b a", "output": "a b"}
    assert made(row, "messages") == {"messages": [asked, answered]}
    assert made(row, "prompt-completion") == {"prompt": [asked], "completion": [answered]}
    assert made(row, "completion") == {"prompt": "<Sort.|b a>", "completion": "a b"}
    assert made(row, "sharegpt") == {
        "conversations": [{"from": "human", "value": "Sort.\n\nb a"}, {"from": "gpt", "value": "a b"}]
    }


def test_an_instruction_without_input_is_the_question_itself():
    assert made(scored_row("Sort."), "messages")["messages"][0] == {"role": "user", "content": "Sort."}


@pytest.mark.parametrize("chat", [TOOL_CHAT, PLAIN_CHAT])
def test_messages_go_out_as_they_came_with_the_order_of_their_keys(chat):
    out = made(chat_row(chat), "messages")
    assert json.dumps(out) == json.dumps({"messages": chat})


keys = st.text(min_size=1, max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
turns = st.builds(
    lambda more, role, text: {**more, "role": role, "content": text},
    st.dictionaries(keys, values),
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.text(),
)


@pytest.mark.ray  # slow
@given(st.lists(turns, max_size=5))
def test_whatever_a_turn_holds_comes_out_again(before):
    chat = [*before, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    row = scored_row("Q", "", "A", messages=chat)
    assert json.dumps(made(row, "messages")["messages"]) == json.dumps(chat)
    pair = made(row, "prompt-completion")
    assert json.dumps(pair["prompt"] + pair["completion"]) == json.dumps(chat)


def test_turns_in_other_keys_become_roles_and_contents():
    row = scored_row("Hi.", "", "Hello.", messages=SHAREGPT_CHAT)
    assert made(row, "messages") == {
        "messages": [{"role": "user", "content": "Hi.", "note": 1}, {"role": "assistant", "content": "Hello."}]
    }
    row = scored_row("Hi.", "", "Hello.", messages=[{"User": "Hi.", "assistant": "Hello."}])
    assert made(row, "messages") == {"messages": PLAIN_CHAT}
    row = scored_row("Hi.", "", "Hello.", messages=[{"assistant": "Hello.", "user": "Hi.", "system": None, "n": 1}])
    assert made(row, "messages") == {"messages": [{**PLAIN_CHAT[0], "n": 1}, PLAIN_CHAT[1]]}
    row = scored_row(
        "Hi.", "", "Hello.", messages=[{"role": "Human", "text": "Hi."}, {"from": "gpt", "text": "Hello."}]
    )
    assert made(row, "messages") == {"messages": PLAIN_CHAT}
    with pytest.raises(ValueError, match="keys speaker and text"):
        made(scored_row("Hi.", "", "Hello.", messages=[{"speaker": "a", "text": "Hi."}]), "messages")


def test_sharegpt_keeps_its_own_and_has_calls_as_turns():
    assert made(scored_row("Hi.", "", "Hello.", messages=SHAREGPT_CHAT), "sharegpt") == {"conversations": SHAREGPT_CHAT}
    out = made(chat_row(TOOL_CHAT), "sharegpt")["conversations"]
    assert [turn["from"] for turn in out] == ["system", "human", "function_call", "observation", "gpt"]
    assert json.loads(out[2]["value"]) == {"name": "look_up", "arguments": {"b": 1, "a": [2]}}
    assert out[1]["name"] == "ann" and out[3]["tool_call_id"] == "c1" and out[4]["reasoning_content"] == "3 m, so"


def test_calls_of_sharegpt_become_tool_calls_and_again_calls():
    call = {"name": "f", "arguments": {"x": 1}}
    chat = [
        {"from": "human", "value": "Q"},
        {"from": "function_call", "value": json.dumps(call)},
        {"from": "observation", "value": "1"},
        {"from": "gpt", "value": "A"},
    ]
    row = scored_row("Q", "", "A", messages=chat)
    out = made(row, "messages")["messages"]
    assert [turn["role"] for turn in out] == ["user", "assistant", "tool", "assistant"]
    assert out[1]["tool_calls"] == [{"type": "function", "function": call}]
    assert sharegpt_turns(scored_row("Q", "", "A", messages=out))[1]["value"] == json.dumps(call)


def test_what_calls_nothing_that_can_be_read_stays_text():
    chat = [{"from": "human", "value": "Q"}, {"from": "function_call", "value": "f(1)"}, {"from": "gpt", "value": "A"}]
    out = conversation_turns(scored_row("Q", "", "A", messages=chat))
    assert out[1] == {"role": "assistant", "content": "f(1)"}


def test_the_answer_is_found_whatever_holds_its_text():
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "value": "lo."}]
    chat = [{"role": "user", "content": "Sort.\n\nb a"}, {"role": "assistant", "content": parts}]
    assert answer_place(scored_row("Sort.", "b a", "Hello.", messages=chat)) == 1
    assert made(scored_row("Sort.", "b a", "Hello.", messages=chat), "messages") == {"messages": chat}
    assert (
        made(scored_row("Sort.", "b a", "Hello.", messages=chat), "sharegpt")["conversations"][1]["value"] == "Hello."
    )


def test_the_prompt_ends_before_the_scored_answer():
    later = [*PLAIN_CHAT, {"role": "tool", "content": "late"}]
    out = shaped(chat_row(later), Shape("prompt-completion"))
    assert out.row == {"prompt": PLAIN_CHAT[:1], "completion": PLAIN_CHAT[1:]} and out.notes == [shape.AFTER_ANSWER]
    same = [*PLAIN_CHAT, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Hello."}]
    row = scored_row("Hi.", "", "Hello.", messages=same)
    assert answer_place(row) == 3 and answer_place({**row, "turn": 1}) == 1  # an earlier turn that says the same
    with pytest.raises(ValueError, match="no turn of its conversation"):
        answer_place({**row, "output": "Bye."})


@pytest.mark.parametrize("to", ["messages", "sharegpt"])
def test_a_conversation_of_which_each_turn_is_a_row_ends_with_the_answer_of_its_row(to):
    chat = [*PLAIN_CHAT, {"role": "user", "content": "And?"}, {"role": "assistant", "content": "Well."}]
    first = shaped(scored_row("Hi.", "", "Hello.", messages=chat, turn=1), Shape(to))
    assert len(next(iter(first.row.values()))) == 2 and shape.AFTER_ANSWER in first.notes
    second = shaped(scored_row("And?", "user: Hi.\nassistant: Hello.", "Well.", messages=chat, turn=3), Shape(to))
    assert len(next(iter(second.row.values()))) == 4 and shape.AFTER_ANSWER not in second.notes


@pytest.mark.parametrize("to", ["messages", "sharegpt"])
def test_each_turn_says_whether_it_was_scored(to):
    out = made(chat_row(TOOL_CHAT), to, mark_answer=True)
    assert [turn["train"] for turn in next(iter(out.values()))] == [False, False, False, False, True]


def test_what_a_format_leaves_out_is_said():
    chat = chat_row(TOOL_CHAT)
    assert shaped(chat, Shape("alpaca")).notes == [shape.TEXT_ALONE]
    assert shaped(chat_row(PLAIN_CHAT), Shape("alpaca")).notes == []
    assert shaped(chat, Shape("messages")).notes == [shape.CALLS]
    assert shaped(chat, Shape("sharegpt")).notes == []
    twice = [PLAIN_CHAT[0], *PLAIN_CHAT]
    assert shaped(chat_row(twice), Shape("sharegpt")).notes == [shape.NOT_ALTERNATING]
    strange = [{"role": "Human", "content": "x"}, *PLAIN_CHAT]
    assert shape.STRANGE_ROLES in shaped(chat_row(strange), Shape("messages")).notes
    assert shaped(scored_row(input_truncated=True), Shape("alpaca")).notes == [shape.CUT_INPUT]


def test_tools_and_weights_go_with_their_rows():
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    chat = chat_row(TOOL_CHAT, extra={"tools": tools}, weight=0.25)
    assert made(chat, "messages", tools=True)["tools"] == tools
    assert made(chat_row(TOOL_CHAT, extra={"tools": json.dumps(tools)}), "messages", tools=True)["tools"] == tools
    assert json.loads(made(chat, "sharegpt", tools=True)["tools"]) == tools
    assert made(scored_row(extra={"tools": "hammer"}), "messages", tools=True)["tools"] is None
    assert made(chat_row(PLAIN_CHAT, extra={"tools": "hammer"}), "messages", tools=True)["tools"] is None
    assert made(chat, "alpaca", weights=True)["weight"] == 0.25


@pytest.mark.parametrize("to", FORMATS)
def test_rows_have_the_columns_of_their_schema(to):
    for row in (scored_row(), chat_row(PLAIN_CHAT), chat_row(TOOL_CHAT)):
        wanted = Shape(to, to in shape.TURN_COLUMNS, weights=True, render=rendered if to == "completion" else None)
        assert list(shaped(row, wanted).row) == schema_of(wanted, plain=True).names


def test_a_struct_holds_plain_turns_alone():
    assert is_plain(made(chat_row(PLAIN_CHAT), "messages"), Shape("messages"))
    assert is_plain(made(scored_row(), "prompt-completion"), Shape("prompt-completion"))
    assert not is_plain(made(chat_row(TOOL_CHAT), "messages"), Shape("messages"))
    turned = [dict(reversed(turn.items())) for turn in PLAIN_CHAT]
    assert not is_plain(made(chat_row(turned), "messages"), Shape("messages"))
    assert schema_of(Shape("messages"), plain=False).field("messages").type == pa.list_(pa.json_())
