"""Moments of parts, merged, are those of all numbers together; nothing cancels and nothing overflows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.selection.moments import merged, moments_of

PARTS = st.lists(st.lists(st.floats(-1e6, 1e6), max_size=8), max_size=6)


@given(PARTS)
def test_merged_moments_are_those_of_the_concatenation(parts):
    together = np.array([value for part in parts for value in part])
    total = merged(moments_of(np.array(part, dtype=np.float64)) for part in parts)
    assert total.count == len(together)
    if len(together):
        assert total.mean == pytest.approx(together.mean(), rel=1e-9, abs=1e-7)
        assert total.deviation == pytest.approx(together.std(), rel=1e-9, abs=1e-7)


def test_a_large_mean_hides_no_small_deviation():
    values = 1e8 + np.tile([-1.0, 1.0], 5000)
    total = merged(moments_of(part) for part in np.array_split(values, 7))
    assert total.deviation == pytest.approx(1.0, rel=1e-9)


def test_numbers_near_the_largest_do_not_overflow():
    total = merged(moments_of(np.array(part)) for part in ([1e308, 1.5e308], [1e300]))
    assert np.isfinite([total.mean, total.deviation]).all() and total.deviation > 1e307


def test_equal_numbers_have_no_deviation():
    assert merged(moments_of(np.full(3, 0.1)) for _ in range(4)).deviation == pytest.approx(0.0, abs=1e-16)
