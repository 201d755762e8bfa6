"""Rows are gathered by conversation and turn, and a conversation's score is that of its turns, whatever their order."""

import math
import statistics

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.selection import conversations

TURNS = st.lists(st.tuples(st.sampled_from("abcd"), st.floats(-1e9, 1e9)), max_size=25)


@given(TURNS, st.randoms())
def test_scores_are_those_of_the_turns_in_any_order(drawn, rng):
    rows = [(unit, turn, f"{turn:032x}", score) for turn, (unit, score) in enumerate(drawn)]
    rng.shuffle(rows)
    names, turns, ids, scores = map(list, zip(*rows, strict=True)) if rows else ([], [], [], [])
    units = conversations.gather(names, turns, ids)
    values = np.array(scores, dtype=float).reshape(-1, 1)
    for aggregate, slow in (("mean", statistics.fmean), ("min", min)):
        per_row = units.spread(conversations.unit_scores(values, units, aggregate))[:, 0]
        expected = {name: slow([score for unit, _, _, score in rows if unit == name]) for name in set(names)}
        assert per_row.tolist() == [expected[name] for name in names]
    places = units.rows.tolist()
    assert places == sorted(range(len(rows)), key=lambda row: (names[row], turns[row]))
    assert units.starts.tolist() == [i for i, row in enumerate(places) if not i or names[places[i - 1]] != names[row]]


def test_a_turn_that_may_not_be_taken_keeps_its_conversation_out():
    units = conversations.gather(["a", "b", "a", "c"], [1, None, 3, 1], list("0123"))
    scores = np.array([[1.0, 5.0], [2.0, math.nan], [math.nan, 7.0], [3.0, 3.0]])
    for aggregate, second in (("mean", 6.0), ("min", 5.0)):
        result = conversations.unit_scores(scores, units, aggregate)
        assert np.array_equal(result, [[math.nan, second], [2.0, math.nan], [3.0, 3.0]], equal_nan=True)


def test_a_mean_of_the_largest_numbers_stays_one():
    units = conversations.gather(["a", "a"], [1, 3], ["0", "1"])
    result = conversations.unit_scores(np.array([[1.7e308], [1.7e308]]), units, "mean")
    assert result[0, 0] == pytest.approx(1.7e308)


def test_a_row_of_no_conversation_is_a_unit_of_its_own():
    table = pa.table({"id": ["1", "2"], "conversation": pa.array([None, "c"], pa.string())})
    assert conversations.unit_names(table) == ["1", "c"]
