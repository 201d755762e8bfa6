"""Rows stay whole: a way back to the file and line, and the turns of a conversation as they were."""

import json

import pytest
from conftest import write_jsonl
from small_runs import manifest_of, reselect, run, table

from pipeline.runs import open_run
from pipeline.runs.summary import summarise


@pytest.fixture(scope="module")
def rows():
    rows = []
    for i in range(12):
        turns = [
            {"role": "system", "content": "You are brief.\nuser: is a word in a log."},
            {"role": "user", "content": f"{['Sort', 'Count', 'Copy'][i % 3]} the words: {i} a b"},
            {"role": "assistant", "reasoning_content": "I look at the words.", "content": f"a b {i}", "weight": 1},
        ]
        rows.append({"messages": turns[i % 2 :], "stars": i} if i % 4 else {"instruction": f"Sort {i}.", "output": "a"})
    rows[5]["messages"][-1]["content"] += "<eos>"
    return rows


@pytest.fixture(scope="module")
def done(ray_session, rows, model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    path = write_jsonl(folder / "rows.jsonl", ["", *rows])
    return run(folder / "out", [path], model_folder, scorer__template="chat"), path


@pytest.mark.parametrize("kind", ["scored", "selected"])
def test_rows_name_their_line_and_keep_their_turns(done, rows, kind):
    folder, path = done
    for row in table(folder, kind):
        written = json.loads(path.read_text().splitlines()[row["line"] - 1])
        assert row["file"] == str(path) and written == rows[row["line"] - 2]
        assert (row["messages"] and json.loads(row["messages"])) == written.get("messages")
        assert list(row)[:8] == ["id", "source", "file", "line", "instruction", "input", "output", "messages"]
        assert list(row)[8:11] == ["conversation", "turn", "extra"] and row["conversation"] is row["turn"] is None


def test_rows_with_what_looks_like_a_special_token_are_counted(done):
    folder, _ = done
    assert manifest_of(folder)["counts"]["special_text"] == 1
    text = summarise(open_run.read_manifest(str(folder)), str(folder)).text
    assert "special      1 rows hold text that looks like a special token" in text


def test_a_selection_may_filter_by_file_line_and_turns(done):
    folder, path = done
    budget = {"select__budget": {"example_fraction": 1.0}}
    some = reselect(folder, select__where=f"line > 4 and file == '{path}' and messages != ''", **budget)
    lines = {row["line"] for row in table(folder, "scored") if row["line"] > 4 and row["messages"]}
    assert {row["line"] for row in table(some, "selected")} == lines
