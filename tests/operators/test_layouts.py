"""Each line of the table of layouts is read, the documentation has the same table, and columns may be named."""

import json
from pathlib import Path

import pytest
from raw_rows import ANSWERED, ASKED, BOTH, fields, rejected

from operators.layouts import CHAT_COLUMNS, INSTRUCTIONS, LAYOUTS, ROLES, expand
from operators.normalise import normalise

README = (Path(__file__).resolve().parents[2] / "pipeline" / "README.md").read_text()


def column_of(name, *turns):
    return list(turns) if name in CHAT_COLUMNS else turns[-1]["content"]


# The table


def names(columns):
    return ", ".join(f"`{column}`" for column in columns)


def line_of(layout):
    if layout.turns:
        return f"| {layout.name} | turns in `{layout.turns}` | | |"
    cells = (layout.name, names([layout.instruction]), names(layout.inputs), names(layout.outputs))
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def test_the_documentation_has_the_same_table():
    section = README.partition("\n### Layouts\n")[2].partition("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    assert lines == ["| layout | instruction | input | output |", *map(line_of, LAYOUTS)]
    instead = section.partition("only in a row without a column ")[2].partition(", be it null")[0]
    assert instead.replace(" or ", ", ") == names(INSTRUCTIONS)


def test_the_documentation_has_the_same_roles():
    section = README.partition("\n### Conversations\n")[2].partition("\n### ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    assert lines[1:] == [f"| {side} | {names(roles)} |" for side, roles in ROLES.items()]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_each_line_is_read(layout):
    if layout.turns:
        assert fields({layout.turns: BOTH, "n": 1}) == ("I", "", "Y")
        return
    question = column_of(layout.instruction, ASKED)
    for output in layout.outputs:
        for record in (
            {layout.instruction: question, output: "Y"},
            {layout.instruction.title(): question, output: "Y"},
        ):
            example = normalise({**record, "rejected": "N", "other": None})
            assert (example.instruction, example.input, example.output) == ("I", "", "Y")
            assert json.loads(example.extra) == {"rejected": "N", "other": None}
        for input in layout.inputs:
            assert fields({layout.instruction: "I", input: "X", output: "Y"}) == ("I", "X", "Y")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_turns_stand_wherever_a_text_may(layout):
    if layout.turns:
        return
    output = layout.outputs[0]
    system = {"role": "system", "content": "S"}
    for answer in ("Y", [ANSWERED], ANSWERED):
        assert fields({layout.instruction: [system, ASKED], output: answer}) == ("I", "system: S", "Y")
    example = normalise({layout.instruction: [ASKED], output: BOTH})
    assert (example.instruction, example.output, json.loads(example.messages)) == ("I", "Y", BOTH)
    assert json.loads(example.extra) == {layout.instruction: [ASKED]}


def test_of_several_columns_the_first_that_is_there_is_meant():
    assert fields({"instruction": "I", "input": "X", "context": "no", "output": "Y", "response": "no"}) == (
        "I",
        "X",
        "Y",
    )
    assert fields({"instruction": "I", "context": "X", "input": "no", "response": "Y"}) == ("I", "X", "Y")
    assert fields({"instruction": "I", "input": None, "context": "X", "output": "Y"}) == ("I", "X", "Y")
    assert fields({"output": "Y", "Output": "no", "OUTPUT": "no", "instruction": "I"}) == ("I", "", "Y")
    assert fields({"instruction": "I", "output": "Y", "messages": BOTH})[:2] == ("I", "")


def test_input_is_an_instruction_where_nothing_else_may_be():
    assert fields({"input": "I", "context": "X", "output": "Y", "messages": None}) == ("I", "X", "Y")
    for name in INSTRUCTIONS:
        for record in ({"input": "X", "output": "Y"}, {"inputs": "X", "targets": "Y"}, {"input": "X", "chosen": "Y"}):
            reason, detail = rejected({**record, name.title(): None})
            assert reason == "missing_field" and f"null: {name.title()}" in detail


# In the shape of the demo files of trainers' documentation
DEMOS = [
    {"instruction": "I", "input": "", "output": "Y", "system": "", "history": []},
    {"conversations": [{"from": "human", "value": "I"}, {"from": "gpt", "value": "Y"}], "tools": "[]"},
    {
        "conversations": [{"from": "human", "value": "I"}],
        "chosen": {"from": "gpt", "value": "Y"},
        "rejected": {"from": "gpt"},
    },
    {"messages": [{"content": "I", "role": "user"}, {"content": "Y", "role": "assistant"}], "label": True},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "value": "I"}]},
            {"role": "assistant", "content": "Y"},
        ]
    },
    {"messages": [{"role": "user", "content": "I"}, {"role": "assistant", "content": "Y", "train": True, "weight": 1}]},
    {"conversations": [{"role": "human", "value": "I"}, {"role": "bot", "value": "Y"}]},
    {"INSTRUCTION": "I", "RESPONSE": "Y"},
    {"instruction": "I", "input": "", "response": "Y"},
    {"instruction": "I", "chosen_response": "Y", "rejected_response": "N"},
    {"question": "I", "chosen": "Y", "rejected": "N"},
    {"input": "I", "chosen": "Y", "rejected": "N"},
    {"prompt": "I", "generation": "Y"},
    {"prompt": "I", "completion": "Y", "label": True},
    {"category": "c", "question": "I", "answer": "Y"},
    {"inputs": "I", "targets": "Y", "task_name": "t"},
]


@pytest.mark.parametrize("record", DEMOS, ids=lambda record: "+".join(record))
def test_rows_in_the_shape_of_trainers_demo_files(record):
    assert fields(record) == ("I", "", "Y")


def test_an_article_is_the_input_of_a_question():
    assert fields({"article": "X", "question": "I", "answer": "Y"}) == ("I", "X", "Y")


# Columns of several layouts in one table


def test_a_union_of_layouts_is_read_row_by_row():
    alpaca = {"instruction": "I", "input": "X", "output": "Y"}
    union = {**dict.fromkeys(alpaca), "messages": None, "prompt": None, "completion": None}
    assert fields({**union, **alpaca}) == ("I", "X", "Y")
    assert fields({**union, "messages": BOTH}) == ("I", "", "Y")
    assert fields({**union, "prompt": "I", "completion": "Y"}) == ("I", "", "Y")
    assert rejected({**union, "instruction": "I"})[0] == "missing_field"
    assert rejected(union)[0] == "missing_field"


def test_in_csv_what_is_null_is_empty():
    record = {"instruction": "", "input": "", "output": "", "messages": json.dumps(BOTH)}
    assert fields(record) == ("I", "", "Y")
    assert fields({**record, "instruction": "I", "output": "Y", "messages": ""}) == ("I", "", "Y")
    assert rejected({**record, "messages": ""})[0] == "empty_instruction"
    assert rejected({**record, "instruction": "I"})[0] == "empty_output"


def test_what_is_missing_is_named_with_what_is_accepted():
    reason, detail = rejected({"text": "I", "label": None})
    assert reason == "missing_field" and "columns: text; null: label" in detail
    assert "prompt+chosen" in detail and "messages" in detail and "`columns`" in detail
    many = rejected({"x" * 500 + str(i): 1 for i in range(500)})[1]
    assert "488 more" in many and len(many) < 2000


# Turns before the question


@pytest.mark.parametrize("name", ["system", "system_prompt", "System"])
def test_a_system_column_is_a_turn_before_all_others(name):
    example = normalise({"question": "I", "response": "Y", name: "S", "id": 1})
    assert (example.instruction, example.input, example.output) == ("I", "system: S", "Y")
    assert [turn["role"] for turn in json.loads(example.messages)] == ["system", "user", "assistant"]
    assert json.loads(example.extra) == {"id": 1}
    chat = normalise({"conversations": [{"from": "human", "value": "I"}, {"from": "gpt", "value": "Y"}], name: "S"})
    assert chat.input == "system: S" and json.loads(chat.messages)[0] == {"from": "system", "value": "S"}
    assert json.loads(chat.extra) == {}


@pytest.mark.parametrize("value", ["", " \n", None, 3, True, ["a"], [], {"a": 1}])
def test_any_other_system_column_goes_along(value):
    example = normalise({"instruction": "I", "output": "Y", "system": value})
    assert example.messages is None and example.input == "" and json.loads(example.extra) == {"system": value}


def test_a_chat_with_a_turn_of_the_system_keeps_its_column():
    example = normalise({"messages": [{"role": "system", "content": "S"}, *BOTH], "system": "other"})
    assert example.input == "system: S" and json.loads(example.extra) == {"system": "other"}


@pytest.mark.parametrize(
    "history", [[["Q", "A"]], [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], '[["Q", "A"]]']
)
def test_history_stands_before_the_question(history):
    example = normalise({"instruction": "I", "input": "X", "output": "Y", "history": history, "n": 1})
    assert (example.instruction, example.input, example.output) == ("I", "user: Q\nassistant: A\n\nX", "Y")
    assert json.loads(example.messages) == [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"},
        {"role": "user", "content": "I\n\nX"},
        {"role": "assistant", "content": "Y"},
    ]
    assert json.loads(example.extra) == {"n": 1}


def test_history_that_is_none_goes_along_or_is_refused():
    for history in ("[long", "19th century", [], None, 3):
        example = normalise({"instruction": "I", "output": "Y", "history": history})
        assert example.messages is None and json.loads(example.extra) == {"history": history}
    for history in (["Q", "A"], [["Q"]], [["Q", None]], [1]):
        reason, detail = rejected({"instruction": "I", "output": "Y", "history": history})
        assert reason == "wrong_type" and "pairs [question, answer]" in detail
    assert rejected({"instruction": "I", "output": " ", "history": [["Q", "A"]]})[0] == "empty_output"
    assert (
        rejected({"instruction": " ", "input": "X", "output": "Y", "history": [["Q", "A"]]})[0] == "empty_instruction"
    )


# Natural Instructions


def test_a_task_file_has_a_row_for_each_instance():
    task = {
        "Contributors": ["nobody"],
        "Definition": ["I", "more"],
        "Positive Examples": [{"input": "no", "output": "no"}],
        "Negative Examples": [],
        "Instances": [{"id": "a", "input": "X", "output": ["Y", "Z"]}, {"id": "b", "input": "W", "output": ["V"]}, 3],
    }
    rows = expand(task)
    assert [fields(row) for row in rows[:2]] == [("I", "X", "Y"), ("I", "W", "V")] and rejected(rows[2])[
        0
    ] == "not_an_object"
    assert json.loads(normalise(rows[0]).extra) == {
        "Contributors": ["nobody"],
        "Definition": ["more"],
        "id": "a",
        "output": ["Z"],
    }
    for other in ({"Definition": "I"}, {"Instances": []}, {"Definition": "I", "Instances": 3}, [1], None):
        assert expand(other) == [other]


# Columns of the user's own


def test_columns_name_texts_turns_or_a_conversation():
    record = {"q": "I", "x": "X", "a": "Y", "dialog": BOTH, "sys": "S", "old": [["Q", "A"]], "instruction": "no"}
    assert fields(record, {"instruction": "q", "input": "x", "output": "a"}) == ("I", "X", "Y")
    assert fields(record, {"messages": "dialog"}) == ("I", "", "Y")
    assert fields(record, {"messages": "dialog", "system": "sys"}) == ("I", "system: S", "Y")
    assert fields(record, {"instruction": "q", "output": "dialog"}) == ("I", "", "Y")
    full = {"instruction": "q", "input": "x", "output": "a", "system": "sys", "history": "old"}
    assert fields(record, full) == ("I", "system: S\nuser: Q\nassistant: A\n\nX", "Y")
    assert fields({"q": [ASKED], "a": ANSWERED}, {"instruction": "q", "output": "a"}) == ("I", "", "Y")
    assert fields({"dialog": json.dumps(BOTH)}, {"messages": "dialog"}) == ("I", "", "Y")


def test_columns_that_are_not_named_go_along():
    example = normalise({"q": "I", "a": "Y", "system": "S", "history": [1]}, {"instruction": "q", "output": "a"})
    assert example.messages is None and json.loads(example.extra) == {"system": "S", "history": [1]}


def test_columns_that_are_absent_are_named():
    columns = {"instruction": "q", "input": "x", "output": "a"}
    assert fields({"q": "I", "x": None, "a": "Y"}, columns) == ("I", "", "Y")
    for name, field in (("q", "instruction"), ("x", "input"), ("a", "output")):
        record = {"q": "I", "x": "X", "a": "Y"}
        del record[name]
        reason, detail = rejected(record, columns)
        assert reason == "missing_field" and f"'{name}' ({field}) is absent" in detail and "columns: " in detail
    assert rejected({"a": 1}, {"messages": "dialog"})[0] == "missing_field"
    reason, detail = rejected({"q": [ASKED], "x": "X", "a": "Y"}, columns)
    assert reason == "wrong_type" and "'q' holds turns" in detail and "'x'" in detail


def test_keys_and_roles_of_the_users_own():
    lines = [{"speaker": "Customer", "said": "I", "id": 3, "role": "buyer"}, {"speaker": "agent", "said": "Y"}]
    columns = {"messages": "lines", "role": "speaker", "content": "said", "user": "customer", "assistant": "agent"}
    for value in (lines, json.dumps(lines)):
        example = normalise({"lines": value}, columns)
        assert (example.instruction, example.output) == ("I", "Y")
        assert json.loads(example.messages) == [{"role": "user", "content": "I", "id": 3, "speaker": "buyer"}, ANSWERED]
    pairs = [{"customer": "I", "agent": "Y", "id": 3}]
    assert fields({"lines": pairs}, {"messages": "lines", "user": "customer", "assistant": "agent"}) == ("I", "", "Y")
    assert rejected({"lines": pairs}, {"messages": "lines"})[0] == "wrong_type"
