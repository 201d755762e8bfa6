"""Neighbourhood order: a permutation that brings together what is alike, whatever it is given."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.order import neighbourhood_order


@given(st.integers(0, 60), st.integers(1, 5), st.booleans())
def test_is_a_permutation(count, dimensions, equal):
    points = np.zeros((count, dimensions)) if equal else np.random.default_rng(count).normal(size=(count, dimensions))
    order = neighbourhood_order(points.astype(np.float32))
    assert sorted(order.tolist()) == list(range(count))
    assert order.tolist() == neighbourhood_order(points.astype(np.float32)).tolist()


def test_clusters_stay_together():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(16, 20)) * 10
    cluster = rng.permutation(np.repeat(np.arange(16), 32))
    order = neighbourhood_order((centres[cluster] + rng.normal(size=(512, 20)) * 0.1).astype(np.float32))
    changes = int((np.diff(cluster[order]) != 0).sum())
    assert changes == 15  # in a random order, about 480
