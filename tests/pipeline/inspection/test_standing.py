"""Why a row is selected or not: the replay decides as the plain walk over all rows, and words name what decided."""

from dataclasses import replace

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from published_runs import publish_rows, scored_row
from reference import cap, key, random_of
from reference import select as slow_select
from reference import select_conversations as slow_conversations

from operators.hashing import content_hash
from operators.schema import SCORED, from_rows
from pipeline import explain
from pipeline.config_select import Select
from pipeline.inspection.replay import replay
from pipeline.runs.manifest import Budget, sealed
from pipeline.runs.open_run import read_manifest
from pipeline.storage.parts import write_part
from pipeline.storage.records import BlockPart

SEED = 7
# Conversation (0: none), score, tokens, group, ppl.
ROWS = st.lists(
    st.tuples(
        st.integers(0, 4),
        st.one_of(st.none(), st.sampled_from([0.0, 1.0, -1.5]), st.floats(-100, 100)),
        st.integers(1, 9),
        st.sampled_from("ab"),
        st.integers(1, 9),
    ),
    min_size=1,
    max_size=14,
)


def rows_of(drawn):
    return [
        {
            "id": content_hash("row", str(number)).hex(),
            "source": group,
            "conversation": content_hash(str(conversation)).hex() if conversation else None,
            "turn": number if conversation else None,
            "tss_pp": score,
            "ppl": float(ppl),
            "random": random_of(content_hash("row", str(number)).hex(), SEED),
            "n_prompt_tokens": tokens,
            "n_target_tokens": 1,
            "instruction": group,
            "extra": "{}",
        }
        for number, (conversation, score, tokens, group, ppl) in enumerate(drawn)
    ]


def parts_of(folder, rows):
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    return [
        BlockPart(number, write_part(str(folder), from_rows(half, SCORED), SCORED))
        for number, half in enumerate(halves)
    ]


def replayed(folder, rows, asked, **select):
    """Ids that the replay takes, asked of each row by itself."""
    parts, taken = parts_of(folder, rows), set()
    for number, row in enumerate(rows):
        first = len(rows) // 2
        block, place = (0, number) if number < first else (1, number - first)
        if replay(parts, Select(**select), SEED, asked, block, place).selected:
            taken.add(row["id"])
    return taken


def competing(rows, temperature=0.0, most_ppl=9):
    return [
        {**row, "score": key(row["tss_pp"], row["random"], temperature), "cost": row["n_prompt_tokens"] + 1}
        for row in rows
        if row["tss_pp"] is not None and row["ppl"] <= most_ppl
    ]


@pytest.mark.ray  # slow
@hypothesis.settings(max_examples=15)
@given(ROWS, st.integers(0, 60), st.sampled_from([0.0, 0.5]), st.integers(1, 9))
def test_rows_under_a_filter_and_a_temperature(tmp_path_factory, drawn, budget, temperature, most_ppl):
    rows = rows_of(drawn)
    expected = slow_select(competing(rows, temperature, most_ppl), budget)
    select = {"temperature": temperature, "where": f"ppl <= {most_ppl}"}
    assert replayed(tmp_path_factory.mktemp("rows"), rows, budget, **select) == set(expected)


@pytest.mark.ray  # slow
@hypothesis.settings(max_examples=15)
@given(ROWS, st.integers(0, 60), st.integers(1, 3), st.integers(1, 3))
def test_caps_one_after_the_other(tmp_path_factory, drawn, budget, of_group, of_ppl):
    rows = rows_of(drawn)
    kept = cap(cap(competing(rows), "instruction", of_group), "ppl", of_ppl)
    select = {"temperature": 0, "max_per": {"instruction": of_group, "ppl": of_ppl}}
    assert replayed(tmp_path_factory.mktemp("rows"), rows, budget, **select) == set(slow_select(kept, budget))


@hypothesis.settings(max_examples=15)
@given(ROWS, st.integers(0, 60), st.sampled_from([0.25, 0.5, 1.0]))
def test_a_quota_splits_the_budget(tmp_path_factory, drawn, budget, share):
    rows = rows_of(drawn)
    expected = set()
    for group, part in (("a", share), ("b", 1 - share)):
        own = [row for row in competing(rows) if row["source"] == group]
        expected |= set(slow_select(own, int(budget * part + 1e-9))) if part else set()
    select = {"temperature": 0, "quota": {"source": {"a": share}}}
    assert replayed(tmp_path_factory.mktemp("rows"), rows, budget, **select) == expected


@pytest.mark.ray  # slow
@hypothesis.settings(max_examples=15)
@given(ROWS, st.integers(0, 60), st.sampled_from(["mean", "min"]), st.integers(1, 3))
def test_whole_conversations(tmp_path_factory, drawn, budget, how, most):
    rows = rows_of(drawn)
    scored = [{**row, "score": row["tss_pp"], "cost": row["n_prompt_tokens"] + 1} for row in rows]
    expected = slow_conversations(scored, budget, how, ("instruction", most))
    select = {"temperature": 0, "unit": "conversation", "unit_score": how, "max_per": {"instruction": most}}
    assert replayed(tmp_path_factory.mktemp("rows"), rows, budget, **select) == set(expected)


def scored(number, score, **more):
    row = scored_row(f"Do {number}.", salt=number, tss_pp=score, n_prompt_tokens=4, n_target_tokens=1)
    return {**row, "random": 0.5, "n_alternatives": 3, "ppl": 2.0, **more}


def standing(folder, rows, selected, wanted, asked=10, **select):
    budget = Budget(asked, "tokens", 5 * len(selected), 5 * len(rows))
    run = publish_rows(folder, rows, selected=selected, budget=budget, select={"temperature": 0, **select})
    return explain.explain(str(run), rows[wanted]["id"], None).standing


WHERE = "ppl < 5 and length < 3"
RANKED = [scored(number, -float(number)) for number in range(5)]


def test_a_selected_row_says_its_rank(tmp_path):
    made = standing(tmp_path, RANKED, [0, 1], 1)
    assert (
        made.selected and made.decided_by == "selected" and (made.selection_rank, made.place, made.taken) == (1, 1, 2)
    )
    assert "rank 1 of 2 rows" in made.words and made.key == made.last_key == -1.0


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (4, "4 of 5 rows stand before it, and the first 2, 10 tokens, are what fits into the budget of 13 tokens"),
        (2, "it is the first that does not fit: it costs 5, 3 are left"),
    ],
)
def test_a_row_behind_the_end_says_where_that_is(tmp_path, wanted, words):
    made = standing(tmp_path, RANKED, [0, 1], wanted, asked=13)
    assert (made.selected, made.decided_by, made.place, made.last_key) == (False, "budget", wanted, -1.0)
    assert words in made.words and "the last row that fits has -1" in made.words


@pytest.mark.parametrize(
    ("row", "select", "decided_by", "words"),
    [
        ({"tss_pp": None, "n_alternatives": 0}, {}, "score", "it has no tss_pp: no other instruction may stand"),
        (
            {"tss_pp": None, "tss_pp_bound": -3.0},
            {},
            "score",
            "the run was bounded, and this row was left once its tss_pp",
        ),
        (
            {"ppl": 9.0, "length": 5},
            {"where": WHERE},
            "filter",
            "since ppl < 5 and length < 3 is not: length is 5, ppl is 9",
        ),
        ({"ppl": 9.0}, {"where": WHERE}, "filter", "since ppl < 5 is not: ppl is 9.0"),
        ({"ppl": 9.0}, {"where": "ppl < 5"}, "filter", "where: ppl < 5 is not true of it: ppl is 9.0"),
        ({"source": "b"}, {"quota": {"a": 1.0}}, "quota", "gives the whole budget to source 'a'"),
        (
            {"instruction": "Do 0."},
            {"max_per": {"instruction": 1}},
            "cap",
            "max_per takes 1 rows of a group by instruction",
        ),
        ({"tss_pp": 9.0}, {}, "unknown", "published without this row"),
    ],
)
def test_what_keeps_a_row_out_is_named(tmp_path, row, select, decided_by, words):
    rows = [*RANKED[:2], {**scored(9, -9.0), **row}]
    rows = [{"length": 1, **row} for row in rows]
    made = standing(tmp_path, rows, [0, 1], 2, asked=10, **select)
    assert (made.selected, made.decided_by) == (False, decided_by) and words in made.words


def test_ranks_in_a_filter_are_those_of_all_rows(tmp_path):
    """Of five rows the last two in order of tss_pp are not in the better 60%."""
    made = standing(tmp_path / "out", RANKED, [0, 1], 4, where="rank_of(tss_pp) < 0.6")
    assert made.decided_by == "filter" and "tss_pp" in made.words
    made = standing(tmp_path / "in", RANKED, [0, 1], 1, where="rank_of(tss_pp) < 0.6")
    assert made.selected and made.decided_by == "selected"


def test_a_turn_that_lacks_a_score_keeps_its_conversation_out(tmp_path):
    chat = {"conversation": "c" * 32}
    rows = [scored(0, 1.0), scored(1, 2.0, turn=1, **chat), scored(2, None, turn=3, **chat)]
    made = standing(tmp_path, rows, [0], 1, unit="conversation")
    assert (made.decided_by, made.selected) == ("conversation", False) and "another turn" in made.words


def test_a_draw_says_how_its_key_comes_about(tmp_path):
    made = standing(tmp_path, RANKED, [0, 1], 0, temperature=0.25)
    assert "drawn by tss_pp / 0.25 - log(-log 0.5): 0.366513" in made.words


def test_a_run_of_an_early_release_has_no_budget_to_replay(tmp_path):
    run = publish_rows(tmp_path, RANKED, selected=[0])
    (run / "manifest.json").write_text(sealed(replace(read_manifest(str(run)), budget=None)))
    made = explain.explain(str(run), RANKED[0]["id"], None).standing
    assert made.selected and made.decided_by == "unknown" and made.selection_rank == 0
