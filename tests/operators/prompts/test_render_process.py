"""No template takes time or memory without end, whatever it is busy with: its row fails, and the next is rendered."""

import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import byte_tokenizer

from operators.prompts import render_process, sandbox
from operators.prompts.template import Source, TemplateProblem, from_text, load_template, make_template

pytestmark = pytest.mark.ray  # every test starts processes

LOOP = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
DOUBLED = (
    "{{% set ns = namespace(x={start}) %}}{{% for i in range(100) %}}{{% set ns.x = {next} %}}{{% endfor %}}{shown}"
)


@pytest.fixture(autouse=True)
def limits(monkeypatch):
    monkeypatch.setattr(render_process, "SECONDS", 0.5)
    monkeypatch.setattr(render_process, "MEMORY", 256 << 20)


@pytest.mark.parametrize(
    "text",
    [
        LOOP,
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in range(99999) %}" + "x" * 10_000 + "{% endfor %}",
        DOUBLED.format(start="input", next="ns.x ~ ns.x", shown=""),
        DOUBLED.format(start="3", next="ns.x * ns.x", shown=""),
        DOUBLED.format(start="['ha']", next="[ns.x, ns.x]", shown="{{ ns.x }}"),
        "{{ input * 10**9 }}",
        "{{ 2 ** (9 ** 9) }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ (input * 1000).replace('', input * 1000) }}",
        "{{ ('a' * 4000000 ~ 'b').strip('b' * 4000000 ~ 'a') }}",
    ],
)
def test_what_takes_time_or_memory_without_end_is_a_problem_of_the_row(text):
    with pytest.raises(
        TemplateProblem, match=r"did not finish|MemoryError|too much memory|more than 33554432 characters"
    ):
        from_text("t", text).render("Sort the words of each line.", "one two three four\n" * 100)


@pytest.mark.parametrize(
    "text",
    [
        "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
        "{{ " + "1+" * 5000 + "1 }}",
        "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
        "{{ 1" + "0" * 5000 + " }}",
        "{{ [" + "input," * 200_000 + "] }}",
        "x" * (sandbox.MAX_SOURCE + 1),
    ],
)
def test_what_cannot_be_compiled_within_the_limits_is_a_problem(text):
    with pytest.raises(TemplateProblem) as problem:
        from_text("t", text)
    assert len(str(problem.value)) < 1000


def test_the_row_after_one_that_did_not_finish_is_rendered():
    template = from_text("t", "{% if input == 'long' %}" + LOOP + "{% endif %}{{ input }}")
    assert template.render("", "a") == "a"
    with pytest.raises(
        TemplateProblem, match=r"^template 't' did not finish within 0.5 s on a row of 4 characters; accepted: "
    ):
        template.render("", "long")
    assert template.render("", "b") == "b"


def test_the_row_after_one_that_needs_too_much_memory_is_rendered():
    template = from_text("t", "{% if input == 'long' %}{{ (input * 10**9)|length }}{% endif %}{{ input }}")
    with pytest.raises(TemplateProblem, match="MemoryError"):
        template.render("", "long")
    assert template.render("", "b") == "b"


def test_a_process_that_was_killed_while_it_waited_costs_no_row():
    process = render_process.RenderProcess(vars(Source("t", "{% for a in input %}{{ a }}{% endfor %}")))
    process._process.kill()
    process._process.wait()
    assert process.render("", "abc") == "abc"


def test_a_process_that_was_killed_while_it_rendered_costs_no_row(monkeypatch):
    template = from_text("t", "{% for i in range(3) %}{{ instruction }}{% endfor %}")
    answer, asked = render_process._answer, []

    def killed_once(process, question):
        asked.append(question)
        if len(asked) == 1:
            process.kill()
            process.wait()
        return answer(process, question)

    monkeypatch.setattr(render_process, "_answer", killed_once)
    assert template.render("a", "") == "aaa"
    assert asked[0] == asked[-1] == ["a", ""]


def test_where_no_process_can_be_started_again_no_row_is_to_blame(monkeypatch):
    template = from_text("t", "{% for i in range(3) %}{{ instruction }}{% endfor %}")
    process = template.render.__self__._process
    process.kill()
    process.wait()
    monkeypatch.setattr(render_process, "_CHILD", "import no_such_module")
    with pytest.raises(OSError, match="no process to render in could be started again"):
        template.render("a", "")


def test_no_row_gets_the_text_of_another_whose_rendering_was_interrupted(monkeypatch):
    template = from_text("t", "{% for a in input %}{{ a }}{% endfor %}")

    def interrupted(process, question):
        process.stdin.write(b'["", "first"]\n')
        process.stdin.flush()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(render_process, "_answer", interrupted)
        template.render("", "first")
    assert template.render("", "second") == "second"


def test_long_rows_may_loop_over_their_words(monkeypatch):
    monkeypatch.setattr(render_process, "SECONDS", 60.0)
    text = "word " * 100_000
    template = from_text("t", "{% for word in input.split() %}{{ word|upper }} {% endfor %}")
    assert template.render("", text) == text.upper()


def test_a_chat_template_that_loops_over_long_rows_alone_is_limited():
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.chat_template = (
        "{% if messages[0].content|length > 20000 %}" + LOOP + "{% endif %}"
        "{{ messages[0].content }}: {{ messages[1].content }}"
    )
    template = load_template("chat", tokenizer)
    assert template.render("x" * 20_000, "") == "x" * 20_000 + ": "
    with pytest.raises(TemplateProblem, match=r"did not finish within 0.5 s on a row of 20001 characters"):
        template.render("x" * 20_001, "")


def test_a_process_that_cannot_start_is_a_problem(monkeypatch):
    monkeypatch.setattr(render_process, "_CHILD", "import no_such_module")
    with pytest.raises(
        TemplateProblem, match="could not start \(ModuleNotFoundError: No module named 'no_such_module'\)"
    ):
        from_text("t", LOOP)


def test_nothing_of_the_working_folder_is_imported(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('of the working folder')")
    monkeypatch.chdir(tmp_path)
    template = make_template(Source("t", "{% for a in input %}{{ a }}{% endfor %}"))
    assert template.render("I", "X") == "X"


def test_the_process_ends_with_the_one_that_asks():
    code = (
        "import os; from operators.prompts.render_process import RenderProcess; "
        "source = {'name': 't', 'text': '{{ input * 2 }}', 'tokens': {}, 'variables': {}}; "
        "print(RenderProcess(source)._process.pid, flush=True); "
        "os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    while is_running(int(done.stdout)):
        time.sleep(0.05)


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
