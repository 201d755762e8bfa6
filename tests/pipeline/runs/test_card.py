"""The card of a run: `datasets` loads by it, people read it, and no text of a corpus does anything in it."""

import re

import pytest
import yaml
from datasets import load_dataset
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from published_runs import publish_rows, scored_row

from pipeline.runs.card import _escaped, _fenced

ROWS = [scored_row(f"{i}") for i in range(5)]


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_selected_and_scored_load_by_name(tmp_path, hub_cache):
    run = publish_rows(tmp_path / "out", ROWS, selected=[3, 1])
    assert load_dataset(str(run), "selected", split="train")["instruction"][:] == ["3", "1"]
    assert load_dataset(str(run), "scored", split="train").num_rows == 5
    assert load_dataset(str(run), split="train").num_rows == 2  # the selection, where nobody names one


def test_beside_an_empty_selection_the_scored_rows_load(tmp_path, hub_cache):
    run = publish_rows(tmp_path / "out", ROWS, selected=[])
    assert load_dataset(str(run), split="train").num_rows == 5 and '"selected"' not in (run / "README.md").read_text()


def test_it_says_in_which_order_selected_rows_stand(tmp_path):
    drawn, ranked = (
        (publish_rows(tmp_path / name, ROWS, select={"temperature": at}) / "README.md").read_text()
        for name, at in (("drawn", 0.25), ("ranked", 0))
    )
    assert "# in the order of the draw" in drawn and "# best first" in ranked and "best first" not in drawn


def test_it_says_what_was_asked_and_what_came_of_it(tmp_path):
    text = (publish_rows(tmp_path / "out", ROWS, selected=[3], columns=["stars"]) / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["configs"][0]["config_name"] == "selected" and "# license:" in front
    assert "1 of 5 rows" in body and "100 tokens, of which 90 are used" in body and "token_fraction: 0.05" in body
    assert "| a | 5 | 0 | 0 | 5 | 0 | 1 |" in body and "| tss_pp | 0.5 |" in body and "JSON object: stars." in body
    assert "Licence and origin\n\nTo be filled in" in body


HOSTILE = [
    "<script>alert(1)</script>",
    "[a](javascript:b)",
    "![](http://x/y.png)",
    "a|b\n\n# Title",
    "`code`",
    "www.x.org",
    "---\nlicense: mit\n---",
    "https://x.org/?a=b",
    "a@b.org",
    "</table>",
    "\\[a](b)",
    "\u202eabc",
    "&lt;b&gt;",
    "~~a~~ **b** _c_",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_a_hostile_source_is_shown_and_does_nothing(tmp_path, source):
    run = publish_rows(tmp_path / "out", [scored_row("x", source=source), scored_row("y")], columns=[source])
    text = (run / "README.md").read_text()
    assert len(re.findall("^---$", text, re.MULTILINE)) == 2
    tokens = MarkdownIt("commonmark", {}).enable(["table", "strikethrough"]).parse(text.split("---\n", 2)[2])
    cells = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    assert not [token for token in tokens if token.type.startswith("html")]
    inner = {child.type for token in tokens if token.type == "inline" for child in token.children or []}
    assert not inner & {"html_inline", "image", "s_open", "strong_open", "em_open"}
    links = [child.attrs["href"] for token in tokens for child in token.children or [] if child.type == "link_open"]
    assert (
        links == ["https://arxiv.org/abs/2602.03103"]
        and "".join(char if char.isprintable() else " " for char in source).strip() in cells
    )


@given(st.text(max_size=60))
def test_any_text_is_shown_as_it_is_within_its_line(text):
    (_, inline, _) = MarkdownIt("commonmark").enable("strikethrough").parse(f"x {_escaped(text)} x")
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    shown = "".join(child.content for child in inline.children)
    assert shown == f"x {''.join(char if char.isprintable() else ' ' for char in text)} x"


def test_a_block_cannot_be_ended_by_what_it_shows():
    (token,) = MarkdownIt("commonmark").parse(_fenced("a: |\n  ```\n  # x\n  ````\n"))
    assert token.type == "fence" and token.content == "a: |\n  ```\n  # x\n  ````\n"


def test_many_sources_are_counted(tmp_path):
    rows = [scored_row(f"{i}", source=f"s{i}") for i in range(130)]
    text = (publish_rows(tmp_path / "out", rows) / "README.md").read_text()
    assert "30 more sources stand in" in text and "| all | 130 |" in text
