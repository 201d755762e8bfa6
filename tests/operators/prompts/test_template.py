"""Templates render what they say, keep white space, run in a sandbox, and fail in words."""

import os
import subprocess
import sys

import pytest
from chats import CHATS
from conftest import byte_tokenizer
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from operators.prompts import sandbox
from operators.prompts.template import ALPACA, PLAIN, TemplateProblem, from_text, load_template, prepare, try_template


def test_alpaca_with_and_without_input():
    template = load_template("alpaca")
    with_input = template.render("Add.", "1 2")
    assert "paired with an input" in with_input and with_input.endswith(
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    )
    without = template.render("Add.", "")
    assert "Input" not in without and without.endswith("### Instruction:\nAdd.\n\n### Response:\n")


def test_a_jinja_file_keeps_its_trailing_newline(tmp_path):
    path = tmp_path / "t.jinja"
    path.write_text("Q: {{ instruction }}\nA:\n")
    assert load_template(str(path)).render("Why?", "") == "Q: Why?\nA:\n"


def test_text_of_rows_is_never_markup_or_template():
    assert from_text("t", "{{ instruction }}").render("<b>&{{ 1 }}", "") == "<b>&{{ 1 }}"


def test_hash_follows_the_text():
    assert from_text("a", "x").hash == from_text("b", "x").hash != from_text("a", "y").hash


@pytest.mark.parametrize(
    "text",
    ["{{ other }}", "{{ instruction.missing() }}", "{{ 1 / 0 }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"],
)
def test_what_fails_on_a_row_is_a_problem(text):
    with pytest.raises(TemplateProblem, match=r"^template 't' failed: .+; it may use only instruction and input$"):
        from_text("t", text).render("a", "b")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ '{0.__class__}'.format(input) }}",
        "{{ input.format.__globals__ }}",
        "{{ range.__subclasses__() }}",
        "{{ self.__init__.__globals__ }}",
        "{{ [input].append(1) }}",
    ],
)
def test_a_template_reaches_neither_python_nor_what_others_hold(text):
    with pytest.raises(TemplateProblem, match=r"unsafe|has no attribute"):
        from_text("t", text).render("a", "b")


def test_a_row_has_the_same_prompt_whenever_it_is_rendered():
    for text in ("{{ lipsum() }}", "{{ input|random }}"):
        with pytest.raises(TemplateProblem, match=r"'lipsum' is undefined|No filter named 'random'"):
            from_text("t", text).render("a", "b")


@pytest.mark.ray  # slow
@pytest.mark.parametrize("text", ["{{ lipsum() }}", "{{ messages|random }}"])
def test_a_chat_template_may_not_draw_at_random(text):
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.chat_template = "{% for message in messages %}" + text + "{% endfor %}"
    with pytest.raises(TemplateProblem, match="random and lipsum are not accepted"):
        load_template("chat", tokenizer).render("Copy.", "a")


def test_broken_source_missing_file_and_missing_chat_template(tmp_path):
    with pytest.raises(TemplateProblem, match="not valid Jinja"):
        from_text("t", "{% if %}")
    with pytest.raises(TemplateProblem, match="accepted: alpaca, plain, chat"):
        load_template(str(tmp_path / "none.jinja"))
    bare = byte_tokenizer(bos=True)
    bare.chat_template = None
    with pytest.raises(TemplateProblem, match="no chat template"):
        load_template("chat", bare)


def test_chat_uses_the_tokenizers_own():
    template = load_template("chat", byte_tokenizer(bos=True))
    assert template.render("Add.", "1 2") == "<bos>[user]Add.\n\n1 2[assistant]"


# What templates of prompts do: the first three are plain. Beside them, Jinja alone.
ORDINARY = [
    ALPACA,
    PLAIN,
    "{{ 'yes' if input is defined and input == 'x' or 'a' in input else 'no' }}{{ input|upper|trim }}",
    "{% for l in input.splitlines() %}{{ loop.index }}/{{ loop.length }}: {{ l|trim }}{% if not loop.last %},{% endif %}\n"
    "{% else %}none{% endfor %}",
    "{% macro q(x, y='z') -%} <{{ x }}|{{ y }}> {%- endmacro %}{{ q(instruction) }}{{ q(input, y=1) }}",
    "{% set ns = namespace(n=0) %}{% for c in input %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n * 2 - 3 // 2 }}",
    "{{ input|tojson }}{{ input|e }}{{ input.split()|map('upper')|join(', ')|truncate(9) }}{{ input[::-1] }}{{ '-' * 20 }}",
]
ROWS = [
    ("Do it.", ""),
    ("Sort", "b a c\nx y"),
    ("I <b>", "a&b é\U0001f600\n\n q"),
    ("{{ input }}", "\x00\u202e{% if %}"),
]


@pytest.mark.ray  # slow
@pytest.mark.parametrize("text", ORDINARY)
def test_the_limits_change_no_character(text):
    environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True, undefined=StrictUndefined)
    expected = [environment.from_string(text).render(instruction=row[0], input=row[1]) for row in ROWS]
    assert [from_text("t", text).render(*row) for row in ROWS] == expected


def test_what_only_shows_texts_and_asks_conditions_is_plain():
    assert [sandbox.is_plain(text) for text in ORDINARY] == [True] * 3 + [False] * 4
    assert not any(
        map(sandbox.is_plain, ("{{ input.x }}", "{{ input * 9 }}", "{{ f() }}", "{% if %}", "x{{ input }}" * 999))
    )


def test_a_text_has_a_greatest_length(monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_TEXT", 1000)
    template = from_text("t", "{{ input }}" * 10)
    assert template.render("", "x" * 100) == "x" * 1000
    with pytest.raises(TemplateProblem, match="more than 1000 characters of text"):
        template.render("", "x" * 101)


def test_what_is_no_file_is_no_template(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", "a\0b", "x" * 5000, "\ud800"):
        with pytest.raises(TemplateProblem, match="accepted: alpaca, plain, chat"):
            load_template(str(path))


def rendered_here(source, variables=None):
    """What the process for a chat template renders with, in this process: another takes a second to start."""
    return prepare("chat", source, byte_tokenizer(bos=True).special_tokens_map, variables or {})()


@pytest.mark.parametrize("source", CHATS.values(), ids=list(CHATS))
def test_a_chat_template_gives_what_it_gives_in_transformers(source):
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.chat_template = source
    for instruction, input in ROWS:
        content = f"{instruction}\n\n{input}" if input else instruction
        conversation = [{"role": "user", "content": content}, {"role": "assistant", "content": "Yes."}]
        expected = tokenizer.apply_chat_template(conversation, tokenize=False)
        assert rendered_here(source)(instruction, input, None, "Yes.") == expected


def test_the_day_in_a_chat_template_is_always_the_same():
    assert rendered_here("{{ strftime_now('%d %b %Y') }}")("a", "", None, "") == "26 Jul 2024"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{% if %}", "is not valid Jinja: "),
        ("{{ raise_exception('no\nway') }}", "failed: no way$"),
        ("{{ [][0] + 1 }}", "failed: .* has no element 0"),
        ("{{ messages.append(1) }}", "failed: .* unsafe"),
    ],
)
def test_whatever_a_chat_template_raises_is_a_problem_of_the_row(source, words):
    with pytest.raises(TemplateProblem, match=f"^template 'chat' {words}"):
        rendered_here(source)("a", "b", None, "c")


def test_a_trial_gives_the_texts_of_its_rows():
    assert try_template(load_template("plain"), (("Add.", "1 2"), ("Sort.", ""))) == ["Add.\n\n1 2\n\n", "Sort.\n\n"]


def test_a_template_that_fails_on_longer_rows_alone_fails_in_its_trial():
    template = from_text("t", "{{ 1 / (0 if input|length > 1000 else 1) }}{% for word in input %}{% endfor %}")
    with pytest.raises(TemplateProblem, match="division by zero"):
        try_template(template)


@pytest.mark.parametrize(
    ("source", "row"),
    [
        ("Answer: {{ input }}", "with an input"),
        ("Answer: ", "with an input"),
        ("{% if input %}{{ input }}{% else %}{{ instruction }}{% endif %}", "with an input"),
        ("{% if input %}{{ instruction }}{{ input }}{% else %}Go on.{% endif %}", "without an input"),
        ("{{ instruction[:100] }}{{ input }}", "with an input"),
        ("{{ instruction.split('.')[0] }}{{ input }}", "with an input"),
    ],
)
def test_a_template_that_gives_two_instructions_the_same_prompt_fails_in_its_trial(source, row):
    with pytest.raises(TemplateProblem, match=f"template 't' gives two instructions the same prompt, on a row {row}"):
        try_template(from_text("t", source))


def test_a_template_for_rows_with_an_input_alone_passes_its_trial():
    source = "{{ 'x' * (10 // input|length) }}{{ instruction }} {{ input }}"
    assert try_template(from_text("t", source), (("Add.", "1 2"),)) == ["xxxAdd. 1 2"]


def test_a_chat_template_that_shows_no_instruction_fails_in_its_trial():
    tokenizer = byte_tokenizer(bos=True)
    shown = "{% if message['role'] == 'assistant' %}{{ message['content'] }}{% endif %}"
    tokenizer.chat_template = "{% for message in messages %}[{{ message['role'] }}]" + shown + "{% endfor %}"
    with pytest.raises(TemplateProblem, match="template 'chat' gives two instructions the same prompt"):
        try_template(load_template("chat", tokenizer))


@pytest.mark.ray  # slow
def test_rendering_imports_no_torch_and_no_ray():
    code = (
        "import sys, operators.prompts.template as t; print('transformers' in sys.modules); "
        "t.prepare('chat', '', {}, {}); print({'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nset()\n"
