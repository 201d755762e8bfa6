"""Attention over segments equals attention token by token, by every kernel, with and without a window."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import tree_attention, varlen_attention

from operators.scoring import attention
from operators.scoring.batching import Segments


@st.composite
def packs(draw):
    """Segments in levels, children of one segment side by side."""
    start, stop, parent = [], [], []
    level = [(-1, 0)] * draw(st.integers(1, 3))
    while level and len(start) < 12:
        below = []
        for above, depth in level:
            length = draw(st.integers(1, 9))
            parent.append(above)
            start.append(depth)
            stop.append(depth + length)
            below += [(len(parent) - 1, depth + length)] * draw(st.integers(0, 3))
        level = below
    return Segments(*(np.array(values) for values in (start, stop, parent)))


def tensors(segments, heads=4, groups=2, size=8):
    torch.manual_seed(0)
    tokens = int((segments.stop - segments.start).sum())
    return [torch.randn(tokens, count, size) for count in (heads, groups, groups)]


def without_groups(q, k, v, edges_q, edges_k, max_q, max_k, *, scale, window_size, return_aux):  # as torch 2.11 has it
    return varlen_attention(
        q, k, v, edges_q, edges_k, max_q, max_k, scale=scale, window_size=window_size, return_aux=return_aux
    )


def expected(segments, q, k, v, window):
    return tree_attention(q, k, v, segments.start, segments.stop, segments.parent.tolist(), 0.3, window)


@given(packs(), st.sampled_from([None, 1, 3, 7, 100]))
def test_equals_the_twin(segments, window):
    q, k, v = tensors(segments)
    where = attention.Layout(segments, torch.device("cpu"))
    got = attention.attend(q, k, v, where, 0.3, window)
    assert torch.allclose(got, expected(segments, q, k, v, window), atol=1e-5)


@pytest.mark.ray  # slow
@given(packs(), st.sampled_from([None, 3]), st.sampled_from([None, 1.5]), st.booleans())
def test_caps_and_sinks_are_those_of_the_twin(segments, window, softcap, sinks):
    q, k, v = tensors(segments)
    sinks_H = torch.randn(4) if sinks else None
    where = attention.Layout(segments, torch.device("cpu"))
    got = attention.attend(q, k, v, where, 0.3, window, softcap, sinks_H)
    parents = segments.parent.tolist()
    twin = tree_attention(q, k, v, segments.start, segments.stop, parents, 0.3, window, softcap, sinks_H)
    assert torch.allclose(got, twin, atol=1e-5)


@pytest.mark.ray  # slow
@given(packs(), st.booleans())
def test_variable_length_attention_equals_the_twin(segments, grouped):
    q, k, v = tensors(segments)
    where = attention.Layout(segments, torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attention if grouped else without_groups)
        got, _ = attention._attend_ragged(q, k, v, where, 0.3)
    assert torch.allclose(got, expected(segments, q, k, v, None), atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_plain_kernel_equals_the_fused_one(causal, masked, monkeypatch):
    torch.manual_seed(1)
    q, k, v = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 2, 8), torch.randn(2, 5, 2, 8)
    mask = torch.randn(5, 5) if masked else None
    fused = attention._attention(q, k, v, scale=0.2, causal=causal, mask=mask)
    plain = attention._plain_attention(*(x.transpose(1, 2) for x in (q, k, v)), 0.2, causal, mask)
    assert all(torch.allclose(a, b.transpose(1, 2), atol=1e-5) for a, b in zip(fused, plain, strict=True))
    monkeypatch.setattr(attention, "_SCORE_BYTES", 100)
    grouped = attention._plain_attention(*(x.transpose(1, 2) for x in (q, k, v)), 0.2, causal, mask)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, grouped, strict=True))
