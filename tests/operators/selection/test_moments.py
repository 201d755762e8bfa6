"""Moments that come in parts are those of all numbers, however these are cut, and neither cancel nor overflow."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.selection.moments import Moments, merge, moments

LARGEST = 1.7e308
NUMBERS = st.floats(-1e6, 1e6) | st.sampled_from([1e8, 1e8 + 1, 0.0, -0.0, 5e-324])
PARTS = st.lists(st.lists(NUMBERS, max_size=8), max_size=8)


def arrays(parts):
    return [np.array(part, dtype=np.float64) for part in parts]


@given(PARTS)
def test_those_of_parts_merge_to_those_of_numpy_on_all(parts):
    values = np.concatenate([np.zeros(0), *arrays(parts)])
    merged = merge(map(moments, arrays(parts)))
    assert merged.count == len(values)
    if len(values):
        rounding = 1e-13 * np.abs(values).max()
        assert merged.mean == pytest.approx(values.mean(), rel=1e-12, abs=rounding)
        assert merged.deviation == pytest.approx(values.std(), rel=1e-9, abs=rounding)


@given(PARTS, st.randoms(use_true_random=False))
def test_neither_cuts_nor_order_move_a_bit(parts, rng):
    values = [value for part in parts for value in part]
    shuffled = list(values)
    rng.shuffle(shuffled)
    one_by_one = merge(moments(np.array([value])) for value in shuffled)
    merged = merge(map(moments, arrays(parts)))
    assert (one_by_one.count, one_by_one.mean, one_by_one.deviation) == (merged.count, merged.mean, merged.deviation)


@given(st.lists(st.floats(-LARGEST, LARGEST), min_size=1, max_size=8))
def test_those_of_any_numbers_are_those_of_fractions(values):
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    variance = sum((value - mean) ** 2 for value in exact) / len(exact)
    merged = merge(moments(np.array([value])) for value in values)
    assert merged.mean == float(mean)
    root = Fraction(merged.deviation)
    assert abs(root * root - variance) <= Fraction(1, 2**50) * variance or merged.deviation < 1e-300


def test_a_variance_of_one_is_one_far_from_zero():
    values = 1e8 + np.tile([-1.0, 1.0], 500_000)
    assert merge(map(moments, np.split(values, 100))) == moments(values)
    merged = moments(values)
    assert (merged.count, merged.mean, merged.deviation) == (1_000_000, 1e8, 1.0)


@given(st.lists(st.floats(-LARGEST, LARGEST), min_size=1, max_size=8))
def test_no_numbers_are_too_large(values):
    merged = merge(moments(np.array([value])) for value in values)
    for result in (merged, moments(np.array(values))):
        assert math.isfinite(result.mean) and math.isfinite(result.deviation)


def test_the_largest_numbers_deviate_as_others_do():
    largest = np.array([LARGEST, -LARGEST])
    assert moments(largest) == merge(moments(largest[i : i + 1]) for i in range(2))
    assert (moments(largest).mean, moments(largest).deviation) == (0.0, LARGEST)


def test_no_numbers_have_moments():
    assert merge([]) == moments(np.zeros(0)) == merge([moments(np.zeros(0))]) == Moments()
    assert (Moments().mean, Moments().deviation) == (0.0, 0.0)
