"""A run in which each answer of a conversation is an example: its counts add up, and turns find their way to the end."""

import json

import pytest
from conftest import write_jsonl
from reference import select_conversations as slow_select
from small_runs import manifest_of, reselect, run, settings, table

from operators.hashing import content_hash
from pipeline.reading import chunks, snapshot
from pipeline.runs import open_run
from pipeline.runs.summary import summarise


@pytest.fixture(scope="module")
def rows():
    things = ["words", "lines", "letters"]
    chats = [
        [
            {"role": "user", "content": f"Sort the {things[i % 3]} of {i // 2}."},
            {"role": "assistant", "content": "a b"},
            {"role": "user", "content": f"Count the {things[i % 3]}."},
            {"role": "assistant", "content": f"{i}"},
        ]
        for i in range(8)
    ]
    return [
        *({"messages": chat} for chat in chats),
        {"instruction": "Copy a.", "output": "a"},
        {"messages": [chats[0][0]]},
    ]


@pytest.fixture(scope="module")
def done(ray_session, rows, model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("each")
    path = write_jsonl(folder / "rows.jsonl", [*rows, rows[0]])
    return run(folder / "out", [path], model_folder, input__0__turns="each", scorer__template="chat")


def test_the_account_counts_answers_and_adds_up(done):
    counts = manifest_of(done)["counts"]
    assert counts["read"] == 8 * 2 + 1 + 1 + 2 and counts["rejected"] == {"no_assistant_turn": 1}
    assert counts["read"] == 1 + counts["duplicates"] + counts["scored"] and counts["duplicates"] == 2


def test_answers_are_scored_with_their_conversation_and_turn(done, rows):
    scored = table(done, "scored")
    by_line = {}
    for row in scored:
        by_line.setdefault(row["line"], []).append(row)
        if row["turn"] is None:
            assert row["conversation"] is row["messages"] is None and row["instruction"] == "Copy a."
            continue
        turns = rows[row["line"] - 1]["messages"]
        assert json.loads(row["messages"]) == turns and row["conversation"] == content_hash(row["messages"]).hex()
        assert (row["instruction"], row["output"]) == (turns[row["turn"] - 1]["content"], turns[row["turn"]]["content"])
        assert row["loglik_sum"] < 0
    assert {line: sorted(row["turn"] or 0 for row in of_line) for line, of_line in by_line.items()} == {
        **{line: [1, 3] for line in range(1, 9)},
        9: [0],
    }
    assert len({row["id"] for row in scored}) == len(scored)


def test_another_number_of_chunks_gives_the_same_rows(done, rows, model_folder, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, rows[0]])
    more = {"input__0__turns": "each", "scorer__template": "chat", "ray__read_blocks": 3}
    other = run(tmp_path / "out", [path], model_folder, select__unit="conversation", **more)
    columns = ("id", "line", "conversation", "turn", "tss_pp")
    first, second = (
        sorted(tuple(row[name] for name in columns) for row in table(folder, "scored")) for folder in (done, other)
    )
    assert first == second
    again = reselect(done, select__unit="conversation")
    assert [row["id"] for row in table(again, "selected")] == [row["id"] for row in table(other, "selected")]


@pytest.mark.parametrize("how", ["mean", "min"])
def test_whole_conversations_are_selected_from_a_published_run(done, how):
    again = reselect(done, select__unit="conversation", select__unit_score=how, select__where="length < 9")
    asked = manifest_of(again)["budget"]["asked"]
    rows = [
        {**row, "score": row["tss_pp"] if row["length"] < 9 else None, "cost": row["n_prompt_tokens"] + row["length"]}
        for row in table(again, "scored")
    ]
    selected = table(again, "selected")
    assert [row["id"] for row in selected] == slow_select(rows, asked, how) and selected
    assert [row["selection_rank"] for row in selected] == list(range(len(selected)))
    assert "whole conversations by the" in summarise(open_run.read_manifest(str(again)), str(again)).text
    assert "Whole conversations were ranked by" in (again / "README.md").read_text()


def test_a_run_on_each_turn_is_another_request(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "I", "output": "Y"}])
    read = []
    for turns in ("last", "each"):
        planned = chunks.plan(settings(tmp_path / "out", [path], "m", input__0__turns=turns))
        read.append(snapshot.same_content(snapshot.join_pieces(planned, [])))
    assert read[0] != read[1]
