"""Tokens that go through a model are counted as the batches of a scorer have them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.scoring.batching import Sequences, packed_batches, padded_batches
from operators.scoring.forward_tokens import forward_tokens

ids = st.lists(st.integers(0, 2), min_size=1, max_size=40)


@given(st.lists(st.tuples(ids, ids), max_size=12), st.lists(st.integers(1, 200), min_size=1, max_size=3))
def test_counts_are_those_of_the_batches(pairs, sizes):
    sequences = Sequences.of([prompt for prompt, _ in pairs], [target for _, target in pairs])
    for packed, batches in ((True, packed_batches), (False, padded_batches)):
        counted = forward_tokens(sequences, sizes, packed=packed)
        assert counted == [sum(batch.ids.size for batch in batches(sequences, size)) if pairs else 0 for size in sizes]


def test_a_prefix_that_many_share_is_counted_once():
    prompt, targets = np.arange(100), [np.array([1, 2]) + 10 * i for i in range(50)]
    sequences = Sequences.of([prompt] * 50, targets)
    assert forward_tokens(sequences, [1 << 20], packed=True) == [100 + 50]
