"""A draw with replacement: as many as asked, in proportion to weights, the same however rows lie."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.draw import copies, order_keys


def ids(count):
    return [f"{i * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}" for i in range(1, count + 1)]


def drawn(weights, draws, seed=0):
    return copies(order_keys(ids(len(weights)), seed), np.array(weights, dtype=float), draws, seed)


weights_lists = st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(lambda weights: sum(weights) > 1e-6)


@given(weights_lists, st.integers(1, 5000), st.integers(-5, 5))
def test_as_many_as_asked_each_near_its_share(weights, draws, seed):
    counts = drawn(weights, draws, seed)
    assert counts.sum() == draws and counts.min() >= 0
    shares = draws * np.array(weights) / np.sum(weights)
    assert (np.abs(counts - shares) < 1 + 1e-6 * draws).all()
    assert not counts[np.array(weights) == 0].any() or draws * max(weights) > 1e9


def test_shares_are_right_on_average():
    weights = [0.1, 0.5, 1.0, 3.0, 0.4]
    mean = np.mean([drawn(weights, 3, seed) for seed in range(4000)], axis=0)
    assert np.abs(mean - 3 * np.array(weights) / 5).max() < 0.03


def test_the_order_of_rows_moves_nothing():
    names, weights = ids(500), np.random.default_rng(1).gamma(1.0, size=500)
    shuffled = np.random.default_rng(2).permutation(500)
    before = copies(order_keys(names, 7), weights, 333, 7)
    after = copies(order_keys([names[i] for i in shuffled], 7), weights[shuffled], 333, 7)
    assert (before[shuffled] == after).all() and (before != drawn(weights, 333, seed=8)).any()


@pytest.mark.parametrize("weights", [[], [0.0, 0.0]])
def test_without_any_weight_there_is_no_draw(weights):
    with pytest.raises(ValueError, match="no row has a weight"):
        drawn(weights, 3)
