"""The digit search equals the walk over the sorted rows, with ties, any budget and any split into parts."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import cap as slow_cap
from reference import select as slow_select

from operators.hashing import content_hash
from operators.selection import budget, ranking_key

SCORE = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.0 + 2**-50, -1e300, 5e-324]), st.floats(allow_nan=False, allow_infinity=False)
)
ROWS = st.lists(st.tuples(SCORE, st.integers(1, 50), st.sampled_from("abc")), max_size=40)


def rows_of(drawn):
    return [
        {"id": content_hash(str(i)).hex(), "score": score + 0.0, "cost": cost, "group": group}
        for i, (score, cost, group) in enumerate(drawn)
    ]


def keys_of(rows):
    orders = ranking_key.order_of(np.array([row["score"] for row in rows]))
    return ranking_key.keys_of(orders, pa.array([row["id"] for row in rows], pa.string()))


def search(rows, room, parts):
    keys = keys_of(rows)
    costs = np.array([row["cost"] for row in rows], dtype=np.int64)
    cut = budget.Cut((), room)
    while not cut.done:
        total, count = np.zeros(1 << 16, dtype=np.int64), np.zeros(1 << 16, dtype=np.int64)
        for part in range(parts):
            words = keys if len(cut.prefix) >= 4 else keys[:1]  # no ids before they matter
            bins, cost, number, of_rows = budget.histogram(
                words[:, part::parts], costs[part::parts], np.ones_like(costs[part::parts]), cut.prefix
            )
            assert number.tolist() == of_rows.tolist()
            total[bins] += cost
            count[bins] += number
        bins = np.flatnonzero(count)
        cut = cut.advance(bins, total[bins], count[bins])
    return cut, {row["id"] for row, inside in zip(rows, budget.below(keys, cut.prefix), strict=True) if inside}


@given(ROWS, st.integers(0, 1200), st.integers(1, 4))
def test_equals_the_walk(drawn, room, parts):
    rows = rows_of(drawn)
    cut, taken = search(rows, room, parts)
    expected = slow_select(rows, room)
    assert taken == set(expected) and cut.units == len(expected)
    assert cut.used == sum(row["cost"] for row in rows if row["id"] in taken) <= room


@given(ROWS, st.integers(0, 600), st.integers(0, 600))
def test_a_smaller_budget_takes_a_prefix(drawn, one, other):
    rows = rows_of(drawn)
    small, large = sorted((one, other))
    assert search(rows, small, 1)[1] <= search(rows, large, 1)[1]


@given(st.lists(SCORE, min_size=1, max_size=50))
def test_orders_sort_like_scores(scores):
    orders = ranking_key.order_of(np.array(scores))
    assert [orders[i] for i in sorted(range(len(scores)), key=lambda i: -scores[i])] == sorted(orders)
    assert ranking_key.order_of(np.array([0.0]))[0] == ranking_key.order_of(np.array([-0.0]))[0]


@given(ROWS, st.integers(1, 5))
def test_the_best_of_each_group_each_once(drawn, n):
    rows = rows_of(drawn)
    twice = [*rows, *rows[::2]]
    best = ranking_key.best_of_groups(
        np.array(["abc".index(row["group"]) for row in twice], dtype=np.int64), keys_of(twice), n
    )
    assert sorted(twice[i]["id"] for i in best) == sorted(row["id"] for row in slow_cap(rows, "group", n))
    ranked = [(twice[i]["group"], -twice[i]["score"], twice[i]["id"]) for i in best]
    assert ranked == sorted(ranked)


@given(ROWS, st.integers(1, 12), st.integers(0, 39))
def test_keys_are_cut_and_compared_as_pairs_are(drawn, length, place):
    rows = rows_of(drawn)
    keys, orders = keys_of(rows), [int(order) for order in ranking_key.order_of([row["score"] for row in rows])]
    texts = [f"{order:016x}{row['id']}" for order, row in zip(orders, rows, strict=True)]
    assert [key.hex().ljust(48, "0") for key in ranking_key.sortable(keys).tolist()] == texts
    digits = np.array([ranking_key.digit_of(keys, i) for i in range(12)])
    assert ["".join(f"{digit:04x}" for digit in row) for row in digits.T] == texts
    if rows:
        text = texts[place % len(rows)][: 4 * length]
        prefix = tuple(int(text[i : i + 4], 16) for i in range(0, len(text), 4))
        assert budget.below(keys, prefix).tolist() == [other[: 4 * length] < text for other in texts]
        assert budget.within(keys, prefix).tolist() == [other[: 4 * length] <= text for other in texts]


def test_a_search_that_needs_ids_says_so_where_there_are_none():
    keys = keys_of(rows_of([(0.5, 1, "a")] * 3))[:1]
    with pytest.raises(ValueError, match="asks for more than 1 words"):
        budget.below(keys, (1, 2, 3, 4, 5))
    with pytest.raises(ValueError, match="32 hex characters"):
        ranking_key.words_of(pa.array(["ab", "0" * 62]))


def test_ids_of_a_slice_are_those_of_its_rows():
    rows = rows_of([(0.5, 1, "a")] * 9)
    ids = pa.chunked_array([[row["id"] for row in rows[:4]], [row["id"] for row in rows[4:]]])
    assert ranking_key.words_of(ids.slice(2, 5)).tolist() == keys_of(rows)[1:, 2:7].tolist()


def test_a_thousand_ties_are_cut_by_id():
    rows = rows_of([(0.5, 1, "a")] * 1000)
    cut, taken = search(rows, 123, 3)
    assert taken == set(sorted(row["id"] for row in rows)[:123]) and cut.used == 123


def test_budgets():
    assert budget.largest_budget(1000, {"token_fraction": 0.15}) == 150
    assert budget.largest_budget(7, {"example_fraction": 1.0}) == 7
    assert budget.largest_budget(7, {"tokens": 10**12}) == 10**12
