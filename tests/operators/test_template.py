"""Templates render what they say, keep white space, run in a sandbox, and fail in words."""

import pytest
from conftest import byte_tokenizer

from operators.template import TemplateProblem, from_text, load_template


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
