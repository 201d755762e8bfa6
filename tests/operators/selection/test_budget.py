"""The digit search equals the walk over the sorted rows, with ties, any budget and any split into parts."""

import numpy as np
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


def search(rows, room, parts):
    digits = ranking_key.digits_of(
        ranking_key.order_of(np.array([row["score"] for row in rows])), np.array([row["id"] for row in rows], dtype=str)
    )
    costs = np.array([row["cost"] for row in rows], dtype=np.int64)
    cut = budget.Cut((), room)
    while not cut.done:
        total, count = np.zeros(1 << 16, dtype=np.int64), np.zeros(1 << 16, dtype=np.int64)
        for part in range(parts):
            bins, cost, number = budget.histogram(
                digits[part::parts], costs[part::parts], np.ones_like(costs[part::parts]), cut.prefix
            )
            total[bins] += cost
            count[bins] += number
        bins = np.flatnonzero(count)
        cut = cut.advance(bins, total[bins], count[bins])
    return cut, {row["id"] for row, inside in zip(rows, budget.below(digits, cut.prefix), strict=True) if inside}


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
def test_the_best_of_each_group(drawn, n):
    rows = rows_of(drawn)
    best = ranking_key.best_of_groups(
        np.array([row["group"] for row in rows], dtype=str),
        ranking_key.order_of(np.array([row["score"] for row in rows])),
        np.array([row["id"] for row in rows], dtype=str),
        n,
    )
    assert {rows[i]["id"] for i in best} == {row["id"] for row in slow_cap(rows, "group", n)}


def test_a_thousand_ties_are_cut_by_id():
    rows = rows_of([(0.5, 1, "a")] * 1000)
    cut, taken = search(rows, 123, 3)
    assert taken == set(sorted(row["id"] for row in rows)[:123]) and cut.used == 123


def test_budgets():
    assert budget.largest_budget(1000, {"token_fraction": 0.15}) == 150
    assert budget.largest_budget(7, {"example_fraction": 1.0}) == 7
    assert budget.largest_budget(7, {"tokens": 10**12}) == 10**12
