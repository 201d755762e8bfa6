"""Under `template: chat` a row is what a trainer sees: the whole conversation, up to what ends its answer."""

import json

import pytest
from admitted import rows_of
from chats import (
    CHANNELS,
    CHATS,
    CONVERSATION,
    ENDS,
    OPEN,
    ROLES,
    SYSTEM,
    THINKING,
    encoder_of,
    template_here,
    tokenizer_with,
    trained,
)
from conftest import byte_tokenizer

from operators.normalise import Example, normalise
from operators.prompts.conversation import turns_to_question
from operators.prompts.measure import Measured, measure
from operators.prompts.template import TemplateProblem, bos_opens_turns, load_template
from operators.prompts.tokenise import Encoder, empty_context
from operators.scoring.encode_pairs import Candidates, encode_rows


def scored(encoder, record):
    example = normalise(record)
    row = (example.instruction, example.input, encoder.turns(example.instruction, example.messages))
    return encoder.prompt(*row) + encoder.targets([example.output])[0]


@pytest.mark.parametrize(
    ("chat", "end"),
    [
        *((CHATS[name], end) for name, end in ENDS.items()),
        (THINKING, "<|im_end|>"),
        (CHANNELS, "<|return|>"),
    ],
    ids=[*ENDS, "thinking", "channels"],
)
def test_prompt_and_target_are_what_a_trainer_sees(chat, end):
    encoder = encoder_of(chat)
    messages = CONVERSATION if "No system role" not in chat and chat != CHATS["mistral"] else CONVERSATION[1:]
    if chat == CHATS["zephyr"]:  # it shows no system
        messages = CONVERSATION[1:]
    for turns in (messages, messages[-2:]):
        assert scored(encoder, {"messages": turns}) == trained(encoder, turns, end)
    assert encoder.template.end == end and encoder.end == [encoder.tokenizer.convert_tokens_to_ids(end)]


def test_rows_that_were_no_conversation_are_one_question():
    encoder = encoder_of(THINKING)
    asked = [{"role": "user", "content": "Sort.\n\nb a"}, {"role": "assistant", "content": "a b"}]
    row = {"instruction": "Sort.", "input": "b a", "output": "a b"}
    assert scored(encoder, row) == trained(encoder, asked, "<|im_end|>")


def test_what_a_template_writes_before_the_answer_alone_belongs_to_the_prompt():
    assert template_here(tokenizer_with(THINKING)).render("a", "").endswith("assistant\n<think>\n\n</think>\n\n")
    assert (
        template_here(tokenizer_with(CHANNELS))
        .render("a", "")
        .endswith("<|start|>assistant<|channel|>final<|message|>")
    )


def test_where_a_template_ends_no_answer_eos_does():
    encoder = encoder_of(OPEN)
    assert encoder.template.end == "" and encoder.targets(["a"])[0][1:] == [encoder.tokenizer.eos_token_id]


def test_nothing_ends_a_target_without_append_eos():
    for chat in (THINKING, OPEN):
        assert len(encoder_of(chat, append_eos=False).targets(["a"])[0]) == 1


def test_a_token_that_ends_a_turn_need_not_be_called_special():
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.add_tokens(["<|im_end|>", "\n"])
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}\n<|im_end|>\n{% endfor %}"
    encoder = Encoder(tokenizer, template_here(tokenizer), True, 512)
    assert encoder.end == tokenizer("\n<|im_end|>", add_special_tokens=False)["input_ids"] and len(encoder.end) == 2


@pytest.mark.parametrize(
    ("chat", "times"),
    [
        ("{{ messages[0].content }}", 0),
        ("{{ messages[-1].content }} {{ messages[-1].content }}", 2),
        ("{{ messages[-1].content|upper }}", 0),
    ],
)
def test_a_template_that_does_not_show_the_answer_once_is_refused(chat, times):
    with pytest.raises(TemplateProblem, match=f"shows the answer of a conversation {times} times .*; accepted: a chat"):
        template_here(tokenizer_with(chat))


def test_a_row_whose_answer_would_end_otherwise_is_a_problem():
    chat = (
        "{% for message in messages %}{{ message.content }}"
        "{% if messages[0].content == 'odd' %}<|end|>{% else %}<|im_end|>{% endif %}{% endfor %}"
    )
    template = template_here(tokenizer_with(chat))
    assert template.render("even", "") == "even<|im_end|>"
    with pytest.raises(TemplateProblem, match=r"ends the answer of this row with '<\|end\|>', and others with"):
        template.render("odd", "")


def test_the_word_in_place_of_an_answer_stands_nowhere_in_the_row():
    template = template_here(tokenizer_with(CHANNELS))
    text = template.render("Say answer0answer.", "answer1answer")
    assert text.endswith("Say answer0answer.\n\nanswer1answer<|end|><|start|>assistant<|channel|>final<|message|>")


def test_variables_reach_the_template_and_its_hash():
    chat = "{% for message in messages %}{{ style }}{{ message.content }}{% endfor %}<|end|>"
    plain, formal = (template_here(tokenizer_with(chat), given) for given in ({}, {"style": "formal: "}))
    assert (plain.render("a", ""), formal.render("a", "")) == ("a", "formal: aformal: ")
    assert len({plain.hash, formal.hash, template_here(tokenizer_with(chat), {"style": 1}).hash}) == 3


def test_a_variable_that_a_template_does_not_read_is_refused():
    with pytest.raises(
        TemplateProblem, match=r"reads no variable 'thinking' of scorer.chat; it reads: .*enable_thinking"
    ):
        template_here(tokenizer_with(THINKING), {"thinking": False})


@pytest.mark.ray
def test_the_limited_process_renders_conversations(tmp_path):
    tokenizer = tokenizer_with(THINKING)
    template, here = load_template("chat", tokenizer, None, {"enable_thinking": False}), template_here(tokenizer)
    turns = turns_to_question(json.dumps(CONVERSATION), "Sort: b a")
    assert template.render("Sort.", "", turns) == here.render("Sort.", "", turns) and template.end == "<|im_end|>"


def test_turns_are_kept_with_their_keys_and_named_as_templates_name_them():
    shared = [
        {"from": "system", "value": "S"},
        {"from": "human", "value": [{"type": "text", "text": "Q"}]},
        {"from": "gpt", "value": None, "tool_calls": [{"name": "f"}]},
        {"from": "tool", "value": "4", "id": None},
        {"from": "human", "value": "I", "name": "Ada"},
        {"from": "gpt", "value": "Y"},
        {"from": "human", "value": "Thanks"},
        {"from": "gpt", "value": "Bye"},
    ]
    example = normalise({"conversations": shared[:6]})
    assert json.loads(example.messages) == shared[:6]
    assert json.loads(turns_to_question(example.messages, "I")) == {
        "before": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "Q"},
            {"role": "assistant", "tool_calls": [{"name": "f"}]},
            {"role": "tool", "content": "4"},
        ],
        "question": {"role": "user", "name": "Ada", "content": ""},
        "after": [],
    }
    assert len(json.loads(turns_to_question(normalise({"conversations": shared}).messages, "Thanks"))["before"]) == 6


@pytest.mark.parametrize(
    ("record", "before"),
    [
        ({"messages": [{"user": "Q", "assistant": "A"}, {"user": "I", "assistant": "Y"}]}, ["user", "assistant"]),
        (
            {
                "conversations": [
                    {"from": "System", "value": "S"},
                    {"from": "HUMAN", "value": "Q"},
                    {"from": "function_call", "value": "f"},
                    {"from": "observation", "value": "4"},
                    {"from": "bing", "text": "A"},
                    {"from": "narrator", "value": "N"},
                    {"from": "human", "value": "I"},
                    {"from": "bard", "value": "Y"},
                    {"from": "human", "value": "Thanks!"},
                ]
            },
            ["system", "user", "assistant", "tool", "assistant", "narrator"],
        ),
        ({"prompt": [SYSTEM, {"role": "user", "content": "I"}], "completion": "Y"}, ["system"]),
    ],
)
def test_turns_of_any_keys_and_roles_stand_before_the_question(record, before):
    example = normalise(record)
    turns = json.loads(turns_to_question(example.messages, example.instruction))
    assert example.instruction == "I" and [turn["role"] for turn in turns["before"]] == before
    assert all("content" in turn for turn in turns["before"]) and turns["question"] == {"role": "user", "content": ""}


def test_a_row_with_system_and_history_is_what_a_trainer_makes_of_it():
    encoder = encoder_of(THINKING)
    row = {"instruction": "Sort.", "input": "b a", "output": "a b", "system": "Be brief.", "history": [["Hi", "Ho"]]}
    turns = [
        SYSTEM,
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "Sort.\n\nb a"},
        {"role": "assistant", "content": "a b"},
    ]
    assert scored(encoder, row) == trained(encoder, turns, "<|im_end|>")
    plain = Encoder(tokenizer_with(THINKING), load_template("plain"), True, 2048)
    example = normalise(row)
    assert plain.turns(example.instruction, example.messages) is None
    assert example.input == "system: Be brief.\nuser: Hi\nassistant: Ho\n\nb a"
    other = encoder.prompt("Count.", example.input, encoder.turns("Sort.", example.messages))
    asked = [*turns[:3], {"role": "user", "content": "Count.\n\nb a"}, turns[-1]]
    assert other == trained(encoder, asked, "<|im_end|>")[: len(other)]


def conversation_of(*texts):
    return json.dumps([{"role": role, "content": text} for role, text in zip(ROLES, texts, strict=True)])


def test_an_alternative_stands_in_the_place_of_the_instruction_alone():
    encoder = encoder_of(THINKING)
    texts = [("Sort: b a", "system: Be brief.", "a b"), ("Count: b a", "system: Be brief.", "2")]
    rows = rows_of(texts).to_pylist()
    rows = [{**row, "messages": conversation_of("Be brief.", row["instruction"], row["output"])} for row in rows]
    candidates = [Candidates([texts[1][0]], [0.5]), Candidates([texts[0][0]], [0.5])]
    encoded = encode_rows(rows_of(texts).from_pylist(rows), candidates, encoder, 1).to_pylist()
    for row, (alternative, _, _) in zip(encoded, texts[::-1], strict=True):
        asked = [SYSTEM, {"role": "user", "content": alternative}, {"role": "assistant", "content": row["output"]}]
        assert row["alternatives"][0]["prompt"] + row["target"] == trained(encoder, asked, "<|im_end|>")
        own = [SYSTEM, {"role": "user", "content": row["instruction"]}, asked[-1]]
        assert row["prompt"] + row["target"] == trained(encoder, own, "<|im_end|>")
        assert row["messages"] == conversation_of("Be brief.", row["instruction"], row["output"])


def test_other_templates_see_a_conversation_as_text():
    tokenizer = tokenizer_with(THINKING)
    encoder = Encoder(tokenizer, load_template("plain"), True, 2048)
    example = normalise({"messages": CONVERSATION})
    assert encoder.turns(example.instruction, example.messages) is None and example.input.startswith(
        "system: Be brief."
    )


def test_a_conversation_is_rejected_where_an_input_would_be_cut():
    encoder = encoder_of(OPEN, max_length=60)
    long = Example("Sort.", "system: " + "x" * 60, "a", None, "{}", conversation_of("x" * 60, "Sort.", "a"))
    flat = Example("Sort.", "x" * 60, "a", None, "{}")
    rejection, cut = measure([long, flat], encoder, too_long="truncate_input")
    assert rejection.reason == "too_long" and isinstance(cut, Measured) and cut.input_chars < 60


@pytest.mark.ray
def test_bos_that_begins_each_turn_is_no_context():
    opening = tokenizer_with(THINKING.replace("<|im_start|>", "<bos>"))
    assert bos_opens_turns(opening)
    assert empty_context(opening, bos_opens_turns=True) == [opening.eos_token_id] != empty_context(opening)
    once = tokenizer_with("{{ bos_token }}" + THINKING)
    # As Llama 2 has it: BOS begins each exchange.
    exchanges = tokenizer_with(
        "{% for message in messages %}{% if message.role == 'user' %}{{ bos_token }}{% endif %}"
        "{{ message.content }}{% endfor %}"
    )
    broken, none = tokenizer_with("{{ bos_token }}{{ 1 / 0 }}"), tokenizer_with(THINKING, bos=False)
    assert not any(map(bos_opens_turns, (once, exchanges, broken, none)))


def test_the_context_of_an_encoder_follows_its_tokenizer():
    tokenizer = byte_tokenizer(bos=True)
    bos, eos = (Encoder(tokenizer, load_template("plain"), True, 512, None, opens).context for opens in (False, True))
    assert (bos, eos) == ([tokenizer.bos_token_id], [tokenizer.eos_token_id])
    tokenizer.eos_token = None
    assert empty_context(tokenizer, bos_opens_turns=True) == bos
