"""Layers that carry a state over a pack of segments give each token what they give it in its whole sequence."""

from functools import cache

import numpy as np
import pytest
import torch
from families import quirky
from hypothesis import given, settings
from hypothesis import strategies as st

from operators.scoring import recurrent
from operators.scoring.attention import Layout
from operators.scoring.batching import Sequences, packed_batches
from operators.scoring.recurrent import carrying, states_of_segments, steps_of

FAMILIES = ("qwen3_5_text", "olmo_hybrid", "granitemoehybrid", "lfm2")


@cache
def decoder_of(family):
    return quirky(family).get_decoder()


@st.composite
def sequences(draw):
    """Sequences that branch off from each other anywhere, also after one token, and end where others go on."""
    trunk = draw(st.lists(st.integers(3, 9), min_size=80, max_size=80))
    ends = draw(st.lists(st.integers(1, 80), min_size=1, max_size=12))
    tails = draw(st.lists(st.lists(st.integers(10, 12), max_size=4), min_size=len(ends), max_size=len(ends)))
    return [[*trunk[:end], *tail] for end, tail in zip(ends, tails, strict=True)]


@pytest.mark.ray  # slow
@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=40, deadline=None)
@given(asked=sequences(), together=st.sampled_from([1, 2, 32]), least_saved=st.sampled_from([1, 24]))
def test_every_token_has_what_it_has_in_its_sequence(family, asked, together, least_saved):
    decoder = decoder_of(family)
    layer, cache_key = next(iter(carrying(decoder).items()))
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(recurrent, "_TOGETHER", together)
        patch.setattr("operators.scoring.trie.build_trie.__defaults__", (least_saved,))
        (batch,) = packed_batches(Sequences.of(asked, [[1]] * len(asked)), 1 << 20)
        ids = torch.from_numpy(batch.ids)
        layout = Layout(batch.segments, ids.device)
        with states_of_segments({layer: cache_key}, layout):
            mixed = layer(hidden_states=decoder.embed_tokens(ids)[None], attention_mask=None, trie_layout=layout)[0]
        assert "forward" not in vars(layer)
        # The predictor of a target is the last token of its sequence.
        for row, place in zip(batch.sequences[batch.owners], batch.places, strict=True):
            whole = layer(hidden_states=decoder.embed_tokens(torch.tensor([asked[row]])), attention_mask=None)[0, -1]
            assert (mixed[place] - whole).abs().max() < 1e-5 * max(1.0, whole.abs().max())


@given(asked=sequences())
def test_each_segment_is_run_once_after_the_one_above_it(asked):
    (batch,) = packed_batches(Sequences.of(asked, [[1]] * len(asked)), 1 << 20)
    layout = Layout(batch.segments, torch.device("cpu"))
    steps, seen, left = steps_of(layout), [], set()
    for step in steps:
        if step.carried is not None:
            assert set(step.carried.tolist()) <= left
        if step.left is not None:
            assert step.bucket.real is None  # a state after padding would be another
            left |= set(step.left.tolist())
        seen += step.bucket.places.tolist()
    assert sorted(seen) == list(range(len(batch.ids))) and left == set(range(len(left)))
    assert len(left) == len(np.unique(layout.parent[layout.parent >= 0]))
