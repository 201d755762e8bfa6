"""Answers of generators as models write them: what is an instruction in them and what is not."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from operators.hashing import fold_wording
from operators.retrieval.generation_prompt import DEFAULT, PromptProblem, check_prompt, fill_prompt
from operators.retrieval.parse_instructions import MOST_CHARS, parse_instructions

WANTED = ["Translate the text into French.", "Count its words.", "Name the feeling in it."]
INPUT = "The cat sat on the mat and looked at the moon for a long time."


def parsed(answer, most=10, **more):
    return parse_instructions(answer, most, prompt=fill_prompt(DEFAULT, "", 4, 0), input=INPUT, **more)


@pytest.mark.parametrize(
    "answer",
    [
        "\n".join(f"{i}. {text}" for i, text in enumerate(WANTED, 1)),
        "\n".join(f"{i}) {text}" for i, text in enumerate(WANTED, 1)),
        "\n\n".join(f"({i}) {text}" for i, text in enumerate(WANTED, 1)),
        "\n".join(f"- {text}" for text in WANTED),
        "\n".join(f"* **{text}**" for text in WANTED),
        "\n".join(f'**{i}.** "{text}"' for i, text in enumerate(WANTED, 1)),
        "\n".join(f"**Instruction {i}:** {text}" for i, text in enumerate(WANTED, 1)),
        "\n".join(f"### {i}. {text}" for i, text in enumerate(WANTED, 1)),
        "\n".join(f"• “{text}”" for text in WANTED),
        "Sure! Here are three different instructions for the text:\n\n"
        + "\n".join(f"{i}. {text}" for i, text in enumerate(WANTED, 1))
        + "\n\nI hope this helps! Let me know if you need more.",
        "Here are the instructions:\n" + "\n".join(WANTED) + "\nLet me know if you need more.",
        "\n".join(WANTED),
        "\r\n".join(f"> {i}. {text}" for i, text in enumerate(WANTED, 1)),
        json.dumps(WANTED),
        "Certainly:\n```json\n" + json.dumps(WANTED, indent=2) + "\n```",
        json.dumps({"instructions": WANTED}),
        json.dumps([{"id": i, "instruction": text} for i, text in enumerate(WANTED)]),
        "<think>Let me see.\n1. Not this.\n</think>\n" + "\n".join(f"{i}. {text}" for i, text in enumerate(WANTED, 1)),
        # An explanation below each item, and an item that shows a list.
        "\n".join(f"{i}. {text}\n   This asks for something else." for i, text in enumerate(WANTED, 1)),
    ],
)
def test_lists_as_models_write_them(answer):
    assert parsed(answer) == WANTED


def test_an_item_may_show_a_list_or_begin_with_a_number():
    assert parsed("[1] Count its words.\n[2] Sort them.") == ["Count its words.", "Sort them."]
    answer = '1. Turn the words ["cat", "moon"] into capitals.\n2. Write 10 words about it.'
    assert parsed(answer) == ['Turn the words ["cat", "moon"] into capitals.', "Write 10 words about it."]
    assert parsed("3.5 million people read it: say why.\nCount them.") == [
        "3.5 million people read it: say why.",
        "Count them.",
    ]


def test_one_sentence_without_a_list_is_what_is_said_instead_of_one():
    assert parsed("I cannot write instructions for this text.") == []
    assert parsed("1. Count its words.") == ["Count its words."]


def test_wordings_are_taken_once():
    answer = "1. Count its words.\n2. count ITS words!\n3. **Count its words**\n4. Sort its words."
    assert parsed(answer) == ["Count its words.", "Sort its words."]


def test_what_repeats_the_prompt_or_the_input_is_left_out():
    lines = [line for line in fill_prompt(DEFAULT, "", 4, 0).splitlines() if line]
    echoes = [
        *lines,
        INPUT,
        INPUT.upper(),
        "The cat sat on the mat and looked",
        "Answer with a numbered list of 4 instructions",
    ]
    answer = "\n".join(f"{i}. {text}" for i, text in enumerate([*echoes, *WANTED], 1))
    assert parsed(answer, most=100) == WANTED


@pytest.mark.parametrize(
    ("answer", "rest"),
    [
        ("1. Count its words.\n2. Translate the", ["Count its words."]),
        ("1. Count its words.\n", ["Count its words."]),
        ("Translate the", []),
        ('["Count its words.",\n "Translate', ["Count its words."]),
        ("<think>1. Count its words.\n2. Hm", []),
    ],
)
def test_the_piece_at_the_end_of_an_answer_that_was_cut_off_is_no_instruction(answer, rest):
    assert parsed(answer, finished=False) == rest


def test_nothing_is_no_instruction():
    for answer in ("", "\n\n", "1.\n2.\n- \n**\n", "...", "[]", "[1, 2]", "{}", "1. 123\n2. !!!"):
        assert parsed(answer) == []
    assert parsed("1. Count \ufffd.\n2. Count \x07.\n3. Count \ud800.\n4. Zähle die 😀.") == ["Zähle die 😀."]
    assert parsed(f"1. {'x' * (MOST_CHARS + 1)}\n2. Count its words.") == ["Count its words."]


MARKS = [
    "1. ",
    "2) ",
    "- ",
    "* ",
    "**",
    "__",
    '"',
    "“",
    "”",
    "`",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\n",
    "\r",
    " ",
    "\ud800",
]
WORDS = [
    "Instruction 1:",
    "Sure!",
    "Here are the instructions:",
    "<think>",
    "</think>",
    "Count.",
    "count",
    "Sort it",
    INPUT,
]
PIECES = st.sampled_from([*MARKS, *WORDS, "\\ud800", "é"])


@given(
    st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=60).map("".join)),
    st.integers(0, 6),
    st.booleans(),
    st.one_of(st.just(""), st.text(max_size=60)),
)
@example("[" * 5000, 3, True, "")
@example('["\\ud800 a"]', 3, True, "")
@example("Task: " * 5000, 3, True, "")
@example("** " * 5000 + "__ " * 5000, 3, True, "")
def test_any_text_gives_at_most_so_many_texts_of_other_wordings(answer, most, finished, input):
    texts = parse_instructions(answer, most, finished=finished, prompt=DEFAULT, input=input)
    assert len(texts) <= most
    wordings = [fold_wording(text) for text in texts]
    assert len(set(wordings)) == len(wordings) and all(wordings)
    assert all(len(text) <= MOST_CHARS and "\n" not in text and text == text.strip() for text in texts)
    assert all(text.encode() for text in texts)


def test_an_input_that_looks_like_a_field_stays_as_it_is():
    assert fill_prompt("{k} of {input}, {other}", "{k} {input} {x}", 3, 9) == "3 of {k} {inpu, {other}"
    for bad in ("no field", "x" * 100_000 + "{input}"):
        with pytest.raises(PromptProblem):
            check_prompt(bad)
    check_prompt(DEFAULT)
    assert "Write 4 different" in fill_prompt(DEFAULT, INPUT, 4, 4000) and INPUT in fill_prompt(DEFAULT, INPUT, 4, 4000)
