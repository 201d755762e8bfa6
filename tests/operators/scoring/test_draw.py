"""A draw takes rows in proportion to exp(score / temperature); at temperature 0 it is the ranking."""

import itertools

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from operators.scoring.draw import Threshold, keys_of
from operators.scoring.scores import random_of

SCORES = st.floats(-1e6, 1e6)


@given(st.lists(SCORES, min_size=1, max_size=8), st.sampled_from([0.0, 0.3, 7.0, np.inf]), st.integers(0, 9))
def test_keys_are_those_of_the_twin(scores, temperature, seed):
    ids = [f"{number:032x}" for number in range(len(scores))]
    keys = keys_of(np.array(scores), random_of(ids, seed), temperature)
    twin = [
        reference.key(score, reference.random_of(one, seed), temperature)
        for score, one in zip(scores, ids, strict=True)
    ]
    assert keys == pytest.approx(twin, rel=1e-12, abs=1e-12)


def test_rows_are_drawn_without_replacement_in_proportion_to_their_weights():
    scores, draws = np.array([0.0, 1.0, 2.0]), 40_000
    uniform = np.random.default_rng(0).uniform(size=(draws, 3))
    ranked = np.argsort(-np.stack([keys_of(scores, row, 0.5) for row in uniform]), axis=1)
    weights = np.exp(scores / 0.5)
    for first, second in itertools.permutations(range(3), 2):
        expected = weights[first] / weights.sum() * weights[second] / (weights.sum() - weights[first])
        share = ((ranked[:, 0] == first) & (ranked[:, 1] == second)).mean()
        assert abs(share - expected) < 4 * (expected / draws) ** 0.5


@given(SCORES, SCORES, st.floats(1e-6, 1e6), st.floats(1e-9, 1 - 1e-9))
def test_a_higher_score_never_has_a_lower_key(score, other, temperature, uniform):
    low, high = (keys_of(np.array([value]), np.array([uniform]), temperature)[0] for value in sorted([score, other]))
    assert low <= high and np.isfinite([low, high]).all()


def test_the_ends_are_the_plain_ranking_and_chance():
    scores, uniform = np.array([3.0, -1.0, np.nan]), np.array([0.2, 0.9, 0.5])
    assert np.array_equal(keys_of(scores, uniform, 0.0), scores, equal_nan=True)
    drawn = keys_of(scores, uniform, np.inf)
    assert np.argsort(drawn[:2]).tolist() == [0, 1] and np.isfinite(drawn[:2]).all()
    assert keys_of(np.array([1e300]), uniform[:1], 1e-300).tolist() == [pytest.approx(1e308)]


def test_a_row_without_a_bound_reaches_nothing():
    threshold = Threshold(-np.inf, 0.0, 0)
    assert threshold.reached(np.array([np.nan, -4.0]), ["0" * 32, "1" * 32]).tolist() == [False, True]
