"""Comparisons of ranks become comparisons of columns, which hold for the same rows."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.schema import SCORED
from operators.selection import filter, ranks


def table_of(values):
    columns = {name: pa.nulls(len(values), field.type) for name, field in zip(SCORED.names, SCORED, strict=True)}
    return pa.table({**columns, "ppl": pa.array(values, pa.float64())}, schema=SCORED)


def decided(where, values):
    """The filter with values in place of ranks, by sorting all of them."""
    tree = filter.parse(where)
    known = sorted((value for value in values if value is not None), reverse=True)
    places = {test: test.place(len(known)) for test in ranks.tests_of(tree)}
    return ranks.replaced(tree, {test: None if place is None else known[place] for test, place in places.items()})


def slowly(function, values, row):
    """The share of rows beyond a row's value."""
    known = [value for value in values if value is not None]
    beyond = [value for value in known if (value > values[row] if function == "rank_of" else value < values[row])]
    return len(beyond), len(known)


HOLDS = {"<": int.__lt__, "<=": int.__le__, ">": int.__gt__, ">=": int.__ge__}


@given(
    st.lists(st.none() | st.integers(-3, 3) | st.floats(-2, 2, width=16), min_size=1, max_size=30),
    st.sampled_from(ranks.FUNCTIONS),
    st.sampled_from(sorted(HOLDS)),
    st.integers(-20, 120),
)
def test_a_comparison_holds_for_the_rows_of_that_share(values, function, op, hundredths):
    text = decided(f"{function}(ppl) {op} {hundredths / 100}", values)
    mask = filter.evaluate(filter.parse(text), table_of(values))
    for row, value in enumerate(values):
        if value is None:
            assert not mask[row]
            continue
        beyond, rows = slowly(function, values, row)
        assert mask[row] == HOLDS[op](100 * beyond, hundredths * rows), text


def test_ranks_stand_within_expressions():
    values = [1.0, 2.0, 3.0, 4.0]
    where = "ppl != 2 and (0.25 <= percentile(ppl) < 0.75 or not rank_of(ppl) > 0)"
    assert filter.evaluate(filter.parse(decided(where, values)), table_of(values)).tolist() == [
        False,
        False,
        True,
        True,
    ]
    assert filter.column_names(filter.parse(where)) == {"ppl"} and filter.has_ranks(filter.parse(where))
    assert not filter.has_ranks(filter.parse("ppl < 2"))


def test_a_third_is_as_many_rows_as_it_says():
    values = list(np.arange(100.0))
    for written, rows in (("0.33", 33), ("0.07", 7), ("1", 100), ("1e-9", 1), ("0", 0)):
        mask = filter.evaluate(filter.parse(decided(f"rank_of(ppl) < {written}", values)), table_of(values))
        assert mask.sum() == rows and (rows == 0 or mask[-1])


@pytest.mark.parametrize(
    "where",
    [
        "open(1) < 2",
        "rank_of(ppl)",
        "rank_of(ppl) == 0.5",
        "rank_of(ppl) < ppl",
        "rank_of(ppl) < percentile(ppl)",
        "rank_of(ppl) + 1 < 2",
        "rank_of(ppl + 1) < 0.5",
        "rank_of(ppl, ifd) < 0.5",
        "rank_of(name=ppl) < 0.5",
        "rank_of(ppl) in [0.5]",
        "rank_of('ppl') < 0.5",
        "percentile(percentile(ppl)) < 0.5",
        "rank_of(ppl) < True",
        "rank_of(ppl) < 1e999",
        "ppl.rank_of(ppl) < 0.5",
    ],
)
def test_any_other_use_of_a_function_is_refused(where):
    with pytest.raises(filter.WhereProblem, match="accepted"):
        filter.check(where)


def test_a_rank_of_text_does_not_fit():
    filter.check("percentile(ppl) < 0.9 and source == 'a'")
    with pytest.raises(filter.WhereProblem, match="does not fit its columns"):
        filter.check("percentile(source) < 0.9")
