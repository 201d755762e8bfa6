"""Batches cover every sequence once, stay under the bound, and depend on lengths alone."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.scoring.batching import RotationChange, Sequences, length_batches, padded_batches


@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 2000))
def test_cover_bound_and_order(lengths, bound):
    batches = length_batches(np.array(lengths, dtype=np.int64), bound)
    flat = [int(i) for batch in batches for i in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= bound


@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=30),
    batch_tokens=st.integers(1, 400),
    above=st.integers(1, 45),
    each=st.booleans(),
)
def test_no_batch_mixes_lengths_whose_rotations_differ(lengths, batch_tokens, above, each):
    sequences = Sequences.of([[1] * (length - 1) for length in lengths], [[2]] * len(lengths))
    seen = []
    for batch in padded_batches(sequences, batch_tokens, [RotationChange(above, each)]):
        together = [lengths[i] for i in batch.sequences]
        assert batch.ids.shape[1] == max(together)  # what the longest has alone, its last token too
        over = [length for length in together if length > above]
        assert len(over) in (0, len(together)) and (not each or len(set(over)) <= 1)
        seen += batch.sequences.tolist()
    assert sorted(seen) == list(range(len(lengths)))
