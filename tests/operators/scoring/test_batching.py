"""Batches cover every sequence once, stay under the bound, and depend on lengths alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.scoring.batching import length_batches


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2000))
def test_cover_bound_and_order(lengths, bound):
    batches = length_batches(np.array(lengths, dtype=np.int64), bound)
    flat = [int(i) for batch in batches for i in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= bound
