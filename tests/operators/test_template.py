"""Templates render what they say, keep white space, run in a sandbox, and fail in words."""

import os
import subprocess
import sys

import pytest
from chats import CHATS
from conftest import byte_tokenizer
from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from operators.prompts import chat_template, sandbox, template_trial
from operators.prompts.template import ALPACA, PLAIN, Source, TemplateProblem, find_template, from_text, load_template
from operators.prompts.template_trial import try_template


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
    "text", ["{{ other }}", "{{ ''.__class__.__mro__ }}", "{{ instruction.missing() }}", "{{ 1 / 0 }}"]
)
def test_what_fails_on_a_row_is_a_problem(text):
    with pytest.raises(TemplateProblem):
        from_text("t", text).render("a", "b")


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


# What templates of prompts do. Beside them, Jinja alone.
ORDINARY = [
    ALPACA,
    PLAIN,
    "{% for l in input.splitlines() %}{{ loop.index }}/{{ loop.length }}: {{ l|trim }}{% if not loop.last %},{% endif %}\n"
    "{% else %}none{% endfor %}",
    "{% macro q(x, y='z') -%} <{{ x }}|{{ y }}> {%- endmacro %}{{ q(instruction) }}{{ q(input, y=1) }}",
    "{% macro w() %}[{{ caller(3) }}]{% endmacro %}{% call(n) w() %}{{ input }}{{ n }}{% endcall %}",
    "{% set ns = namespace(n=0) %}{% for c in input %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n * 2 - 3 // 2 }}",
    "{{ input|tojson }}{{ {'a': [1, input]}|tojson }}{{ input|e }}{{ input|replace('a', 'bb')|title }}",
    "{{ input.split()|join(', ')|truncate(9) }}{{ input.split()|map('upper')|select('ne', 'B')|list }}",
    "{% filter upper|replace('A', 'b') %}x{{ input }}{% endfilter %}{% set c|upper %}a{{ input }}{% endset %}{{ c }}",
    "{{ input|length }}{{ input[2:5] }}{{ input[::-1] }}{{ (input ~ 'q')|first }}{{ nothing|d(3 % 2 ** 8) }}",
    "{{ 'yes' if input is defined and input == 'x' or 'a' in input else 'no' }}{{ nothing is defined }}{{ 1 < 2 < 3 }}",
    "{{ instruction ~ ': ' ~ input ~ 1 }}{{ (instruction + ' ' + input).strip('a').replace('b', '', 1) }}{{ '-' * 20 }}",
    "{% for k, v in dict(a=1, b=input).items() if v %}{{ k }}{{ v }}{{ loop.cycle('o', 'e') }}{% endfor %}{{ range(9)|list }}",
    "{% block a %}x{{ input }}{% endblock %}{{ self.a() }}{% with z = input %}{{ z }}{% endwith %}{% raw %}{{ x }}{% endraw %}",
    "{% for a in [1, [2, [3]]] recursive %}{% if a is iterable %}({{ loop(a) }}){% else %}{{ a }}{% endif %}{% endfor %}",
    "{{ [{'a': 'y'}, {'a': 'x'}]|sort(attribute='a')|map(attribute='a')|join }}{{ [{'a': 1}]|selectattr('a', 'eq', 1)|list }}"
    "{{ [{'a': 'x'}, {'a': 0}]|rejectattr('a')|join(',', attribute='a') }}{{ [['b'], ['a']]|min(attribute='0') }}",
    "{{ input|indent(2, true) }}{{ input|sort|unique|join }}{{ '12'|int + 1 }}{{ [3, 1]|max }}{{ {'b': 1, 'a': 2}|dictsort }}",
]
ROWS = [
    ("Do it.", ""),
    ("Sort", "b a c\nx y"),
    ("I <b>", "a&b é\U0001f600\n\n q"),
    ("{{ input }}", "\x00\u202e{% if %}"),
]


@pytest.mark.parametrize("text", ORDINARY)
def test_the_account_changes_no_character(text, monkeypatch):
    environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True, undefined=StrictUndefined)
    expected = [environment.from_string(text).render(instruction=row[0], input=row[1]) for row in ROWS]
    assert [from_text("t", text).render(*row) for row in ROWS] == expected
    monkeypatch.setattr(sandbox, "_plain_places", lambda tree: 0)
    assert [from_text("t", text).render(*row) for row in ROWS] == expected


DOUBLED = (
    "{{% set ns = namespace(x={start}) %}}{{% for i in range(100) %}}{{% set ns.x = {next} %}}{{% endfor %}}{shown}"
)
BOMBS = [
    "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "{% block a %}{{ self.a() }}{% endblock %}",
    "{% macro f() %}{{ input * 99 }}{% endmacro %}{% for i in range(99999) %}{% set x = f() %}{% endfor %}",
    "{% for i in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
    "{% for i in range(99999) %}{% if loop.changed(input) %}x{% endif %}{% endfor %}",
    '{{ "x" * 10**9 }}',
    "{{ 10**9 * [1] }}",
    "{{ 2 ** (9 ** 9) }}",
    "{{ ('f' * 99999)|int(base=16) }}",
    DOUBLED.format(start="'ab'", next="ns.x ~ ns.x", shown=""),
    DOUBLED.format(start="'ab'", next="ns.x + ns.x", shown=""),
    DOUBLED.format(start="3", next="ns.x * ns.x", shown=""),
    DOUBLED.format(start="['ha']", next="[ns.x, ns.x]", shown="{{ ns.x }}"),
    DOUBLED.format(start="['ha']", next="[ns.x, ns.x]", shown="{{ ns.x|string|length }}"),
    DOUBLED.format(start="['ha']", next="[ns.x, ns.x]", shown="{{ [ns.x] == [ns.x] }}"),
    DOUBLED.format(start="['ha']", next="[ns.x, ns.x]", shown="{{ [ns.x] is eq([ns.x]) }}"),
    DOUBLED.format(start="'a'", next="dict(a=ns.x,b=ns.x).values()", shown="{{ ns.x }}"),
    DOUBLED.format(start="'a'", next="dict(a=ns.x,b=ns.x).items()", shown="{{ [ns.x] == [ns.x] }}"),
    "{% set d = dict(a=input * 100) %}{% for i in range(9999) %}{{ d.values() }}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
    "{{ input|indent(10**9) }}",
    "{{ (input * 1000)|replace('', input * 1000) }}",
    "{{ (input * 1000).replace('', input * 1000) }}",
    "{{ range(100000)|join(input * 1000) }}",
    "{{ (input * 1000).join(['a'] * 100000) }}",
    "{{ (input * 1000).split(' ')|select('in', input * 1000)|list|length }}",
    *(
        "{{ (['a'] * 99999)|" + name + "'0.' * 99999 ~ '0')|list|length }}"
        for name in (
            "map(attribute=",
            "selectattr(",
            "rejectattr(",
            "sort(attribute=",
            "sort(false, false, ",
            "unique(attribute=",
            "min(attribute=",
            "max(attribute=",
            "join(attribute=",
        )
    ),
    "{{ ('a' * 4000000 ~ 'b').strip('b' * 4000000 ~ 'a') }}",
    '{{ "x"|center(10**9) }}',
    '{{ "x".center(999999999) }}',
    '{{ "%1000000000d"|format(1) }}',
    '{{ "%1000000000d" % 1 }}',
    '{{ "{:>1000000000}".format(1) }}',
    "{{ (5).to_bytes(999999999, 'big') }}",
    "{{ [1]|tojson(indent=999999999) }}",
    "{{ 1.5|round(999999999, 'ceil') }}",
    "{{ 'abc'|batch(999999999, 'x')|list }}",
    "{{ lipsum(n=10**6) }}",
    "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "{{ " + "1+" * 5000 + "1 }}",
    "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "{% if 1 %}" * 300 + "{% endif %}" * 300,
    "{{ 1" + "0" * 5000 + " }}",
    "x" * (sandbox.MAX_SOURCE + 1),
]


@pytest.mark.parametrize("text", BOMBS)
def test_no_template_takes_time_or_memory_without_end(text):
    with pytest.raises(TemplateProblem) as problem:
        from_text("t", text).render("Sort the words of each line.", "one two three four\n" * 100)
    assert len(str(problem.value)) < 1000


def test_a_plain_template_over_a_large_row_is_counted_too(monkeypatch):
    monkeypatch.setattr(sandbox, "MAX_TEXT", 1000)
    template = from_text("t", "{{ input }}" * 10)
    assert template.render("", "x" * 90) == "x" * 900
    with pytest.raises(TemplateProblem, match="1010 characters of text, at most 1000"):
        template.render("", "x" * 101)


def test_long_rows_may_loop_over_their_words():
    text = "word " * 200_000
    template = from_text("t", "{% for word in input.split() %}{{ word|upper }} {% endfor %}")
    assert template.render("", text) == text.upper()


def test_what_is_no_file_is_no_template(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", "a\0b", "x" * 5000, "\ud800"):
        with pytest.raises(TemplateProblem, match="accepted: alpaca, plain, chat"):
            load_template(str(path))


def chat(source):
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.chat_template = source
    return load_template("chat", tokenizer)


@pytest.mark.parametrize("source", CHATS.values(), ids=list(CHATS))
def test_a_chat_template_gives_what_it_gives_in_transformers(source):
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.chat_template = source
    for instruction, input in ROWS:
        content = f"{instruction}\n\n{input}" if input else instruction
        expected = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        assert load_template("chat", tokenizer).render(instruction, input) == expected


def test_the_day_in_a_chat_template_is_always_the_same():
    assert chat("{{ strftime_now('%d %b %Y') }}").render("a", "") == chat_template.TODAY.strftime("%d %b %Y")


def test_a_chat_template_that_loops_over_long_rows_alone_is_bounded():
    template = chat("{% if messages[0].content|length > 20000 %}" + BOMBS[0] + "{% endif %}{{ messages[0].content }}")
    assert template.render("x" * 20_000, "") == "x" * 20_000
    with pytest.raises(TemplateProblem, match="beyond the limit of one rendering"):
        template.render("x" * 20_001, "")


@pytest.mark.parametrize(
    "text",
    [
        *BOMBS[:2],
        "{{ [[1, 2]]|tojson(indent=10**9) }}",
        "{{ [1]|tojson(indent='x' * 99) }}",
        "{{ strftime_now('%Y' * 9999999) }}",
        "{% for i in range(99999) %}{% generation %}{{ messages[0].content * 99 }}{% endgeneration %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% continue %}{% endfor %}{% endfor %}",
        DOUBLED.format(start="['ha']", next="[ns.x, ns.x]", shown="{{ ns.x|tojson|length }}"),
    ],
)
def test_no_chat_template_takes_time_or_memory_without_end(text):
    with pytest.raises(TemplateProblem) as problem:
        chat("{% set input = messages[0].content %}" + text).render("one two three four\n" * 100, "")
    assert len(str(problem.value)) < 1000


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ messages|batch(2) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ range(10**9) }}",
        "{{ 1 / 0 }}",
        "{{ raise_exception('no\nway') }}",
        "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
        "{{ [][0] + 1 }}",
    ],
)
def test_whatever_a_chat_template_raises_is_a_problem_of_the_row(source):
    with pytest.raises(TemplateProblem, match=r"^template 'chat' (failed|is not valid Jinja): .+$"):
        chat(source).render("a", "b")


def test_a_trial_gives_the_texts():
    rows = (("Add.", "1 2"), ("\ud800", ""))
    assert try_template(find_template("plain"), rows) == ["Add.\n\n1 2\n\n", "\ud800\n\n"]
    (text,) = try_template(find_template("chat", byte_tokenizer(bos=True)), rows[:1])
    assert text == "<bos>[user]Add.\n\n1 2[assistant]"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{% if %}", "not valid Jinja"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ ('x' * 9000000)|length }}", "MemoryError|needs too much memory"),
    ],
)
def test_what_fails_in_its_trial_is_a_problem(text, words):
    with pytest.raises(TemplateProblem, match=words):
        try_template(Source("t", text), memory=1 << 20)


@pytest.mark.parametrize(
    ("child", "words"),
    [
        ("print('{}'); answer()", "the template did not finish within 0.1 s on a row of 16 characters"),
        (
            "print('{}\\n{\"text\": 1}\\n{', end=''); answer()",
            r"did not finish within 0.1 s on a row of 8\d{3} characters",
        ),
        ("print('{}', flush=True); os.kill(os.getpid(), 9)", "ended its process: .* on a row of 16 characters"),
        ("import no_such_module", "could not start: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_trial_that_does_not_end_well_is_a_problem(monkeypatch, child, words):
    # What the process runs instead: no template is known that gets around the account.
    endless = "def answer():\n sys.stdout.flush()\n template_trial._limit(0.1, 1 << 30)\n while True: pass\n"
    known = f"import json, os, sys; sys.path[:0] = json.loads(sys.argv[1]); from operators.prompts import template_trial\n{endless}"
    monkeypatch.setattr(template_trial, "_CHILD", known + child)
    with pytest.raises(TemplateProblem, match=words):
        try_template(Source("t", ""), seconds=0.1)


def test_a_trial_imports_nothing_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('of the working folder')")
    monkeypatch.chdir(tmp_path)
    assert try_template(Source("t", "{{ input }}"), (("I", "X"),)) == ["X"]


def test_a_trial_imports_no_model_code():
    code = "import sys, operators.prompts.template_trial; print({'torch', 'transformers', 'ray'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"
