"""Exact sums are those of fractions, whatever parts they come in."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.scoring.scores import log_sum_exp
from operators.selection.exact_sum import add, exact_sum, log_of, squares, sum_of_exps, value_of

FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 5e-324, 1.7e308, -1.7e308])
ROWS = st.lists(FLOATS, max_size=20)


@given(ROWS, st.integers(1, 4))
def test_sums_are_those_of_fractions_however_they_are_cut(values, parts):
    cut = [np.array(values[part::parts], dtype=np.float64) for part in range(parts)]
    assert value_of(add(map(exact_sum, cut))) == sum(map(Fraction, values))
    assert value_of(add(map(squares, cut))) == sum(Fraction(value) ** 2 for value in values)
    assert add(map(exact_sum, cut)) == add(map(exact_sum, reversed(cut)))


@given(st.lists(st.tuples(st.floats(-1, 1), st.integers(-5000, 5000)), max_size=20))
def test_each_number_can_have_a_power_of_its_own(rows):
    values, powers = np.array([value for value, _ in rows]), np.array([power for _, power in rows], dtype=np.int64)
    assert value_of(exact_sum(values, powers)) == sum(Fraction(value) * Fraction(2) ** power for value, power in rows)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), st.integers(1, 4))
def test_a_log_of_sums_of_exps_is_that_of_the_walk_however_they_are_cut(logs, parts):
    cut = [np.array(logs[part::parts], dtype=np.float64) for part in range(parts)]
    sums = add(map(sum_of_exps, cut))
    assert log_of(sums) == pytest.approx(float(log_sum_exp(np.array(logs))), rel=1e-13, abs=1e-13)
    assert log_of(sums) == log_of(sum_of_exps(np.array(logs)))


def test_exps_that_no_float_holds_are_added_all_the_same():
    assert log_of(sum_of_exps(np.full(1000, -1e5))) == pytest.approx(-1e5 + np.log(1000), rel=1e-14)
    assert log_of(sum_of_exps(np.array([-1e17, 3.0]))) == pytest.approx(3.0, rel=1e-15)
