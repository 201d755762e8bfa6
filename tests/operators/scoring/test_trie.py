"""The trie holds every sequence and every distinct prefix once; packs hold every sequence whole and within bounds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from reference import distinct_prefixes

from operators.scoring.trie import build_trie, packs

# Few different ids and repeated heads, so that prefixes are shared at many depths.
HEADS = st.sampled_from([[], [1, 1], [1, 1, 2, 2, 2, 2, 2, 2], [3] * 12])
SEQUENCES = st.lists(
    st.builds(lambda head, tail: head + tail, HEADS, st.lists(st.integers(1, 3), min_size=1, max_size=8)),
    min_size=1,
    max_size=14,
)


def trie_of(sequences, least_saved):
    flat = np.array([token for sequence in sequences for token in sequence], dtype=np.int64)
    return build_trie(flat, np.cumsum([0, *map(len, sequences)]), least_saved)


def path_of(trie, sequences, place):
    """The tokens on the path to the segment in which a sorted sequence ends."""
    tokens, segment, stop = [], int(trie.leaf[place]), None
    while segment >= 0:
        assert stop is None or trie.stop[segment] == stop
        sample = sequences[trie.order[trie.sample[segment]]]
        tokens = sample[trie.start[segment] : trie.stop[segment]] + tokens
        stop, segment = trie.start[segment], int(trie.parent[segment])
    assert stop == 0
    return tokens


@given(SEQUENCES, st.integers(1, 20))
def test_every_sequence_is_a_path(sequences, least_saved):
    trie = trie_of(sequences, least_saved)
    assert sorted(trie.order.tolist()) == list(range(len(sequences)))
    assert all(path_of(trie, sequences, place) == sequences[i] for place, i in enumerate(trie.order))
    assert (trie.parent < np.arange(len(trie.parent))).all() and (trie.stop > trie.start).all()


@given(SEQUENCES)
def test_nothing_stands_twice_where_every_token_counts(sequences):
    trie = trie_of(sequences, 1)
    assert (trie.stop - trie.start).sum() == distinct_prefixes(sequences)


@given(SEQUENCES, st.integers(1, 20))
def test_a_shared_segment_saves_what_it_must(sequences, least_saved):
    trie = trie_of(sequences, least_saved)
    shared = set(trie.parent.tolist()) - {-1}
    passing = dict.fromkeys(shared, 0)
    for leaf in trie.leaf.tolist():
        segment = leaf
        while segment >= 0:
            if segment in passing:
                passing[segment] += 1
            segment = int(trie.parent[segment])
    assert all((passing[one] - 1) * (trie.stop[one] - trie.start[one]) >= least_saved for one in shared)


@given(SEQUENCES, st.integers(1, 12), st.integers(1, 60))
def test_packs_hold_every_sequence_once_and_whole(sequences, least_saved, pack_tokens):
    trie = trie_of(sequences, least_saved)
    seen = []
    for pack in packs(trie, pack_tokens):
        width = (trie.stop - trie.start)[pack.segments]
        assert width.sum() <= pack_tokens or len({tuple(sequences[trie.order[i]]) for i in pack.sequences}) == 1
        for sequence, leaf in zip(pack.sequences, pack.leaf, strict=True):
            place, length = int(leaf), 0
            while place >= 0:
                above = int(pack.parent[place])
                assert above < place
                assert trie.parent[pack.segments[place]] == (pack.segments[above] if above >= 0 else -1)
                length += int(width[place])
                place = above
            assert length == len(sequences[trie.order[sequence]])
        siblings = pack.parent.tolist()
        groups = [one for i, one in enumerate(siblings) if i == 0 or siblings[i - 1] != one]
        assert len(groups) == len(set(groups))  # the children of a segment stand side by side
        seen += pack.sequences.tolist()
    assert seen == list(range(len(sequences)))
