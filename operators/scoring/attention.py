"""Attention over a pack of trie segments: each token sees its own segment up to itself, and all of the segments above it.

No mask is made and no prefix is copied for each sequence that has it: attention within segments and attention to what stands
above, which is computed once for all children of a segment over the keys of its whole path, are merged by their log-sum-exps,
as softmax over the union of their keys. On a GPU both are one call of variable-length attention each; on a CPU the first runs
on batches of segments of nearly equal length, the second segment by segment.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch

from operators.scoring.batching import Segments
from operators.scoring.trie import runs

_PADDING = 0.125  # of a batch of segments, the shortest may be shorter than the longest by this share (or by 2 tokens)
_SCORE_BYTES = 256 << 20  # float32 scores held at once where no fused kernel runs
_HIDDEN = -1e30  # finite: where nothing above is seen, the log-sum-exp is far below the own one and no NaN arises


@dataclass(frozen=True)
class Bucket:
    """Segments of nearly equal length, padded on the right."""

    padded: torch.Tensor  # [n * L] places in the pack; padding repeats the pack's first token
    shape: tuple[int, int]  # n, L
    real: torch.Tensor | None  # [R] which of the n * L are no padding; None: all
    places: torch.Tensor  # [R] places of those


@dataclass(frozen=True)
class Below:
    """The children of one segment: tokens `first` to `stop` of the pack see all tokens at `keys`."""

    first: int
    stop: int
    keys: torch.Tensor  # [P]


@dataclass(frozen=True)
class Ragged:
    """Groups of queries and of keys side by side, for variable-length attention."""

    query_edges: torch.Tensor  # int32 [G + 1]
    key_edges: torch.Tensor
    longest_query: int
    longest_key: int


class Layout:
    """Where the tokens of a pack of T tokens stand, for attention. Its parts are made when a device first asks for them."""

    def __init__(self, segments: Segments, device: torch.device):
        self._device = device
        self.parent = segments.parent  # [P] of each segment, or -1; parents stand before children
        self.width = segments.stop - segments.start  # [P] tokens of each
        self._first = np.concatenate([[0], np.cumsum(self.width)])
        positions = runs(segments.start, self.width)
        self.positions = torch.from_numpy(positions).to(device)  # [T] in their sequences
        self.longest = int(segments.stop.max())

    def to_device(self, array: np.ndarray) -> torch.Tensor:
        """An array where the pack is."""
        return torch.from_numpy(array).to(self._device)

    def _families(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """For each segment with children: where their tokens begin and end, and the places of all tokens above them."""
        first, parent = self._first, self.parent
        paths: dict[int, np.ndarray] = {-1: np.zeros(0, dtype=np.int64)}
        edges = np.flatnonzero(np.r_[True, parent[1:] != parent[:-1], True])
        for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            above = int(parent[low])
            if above >= 0:
                paths[above] = np.concatenate([paths[int(parent[above])], np.arange(first[above], first[above + 1])])
                yield int(first[low]), int(first[high]), paths[above]

    @cached_property
    def below(self) -> list[Below]:
        """Who sees what stands above, one entry for all children of a segment."""
        return [Below(start, stop, self.to_device(path)) for start, stop, path in self._families()]

    @cached_property
    def buckets(self) -> list[Bucket]:
        """All segments, by length."""
        return [self.bucket_of(members) for members in self.by_length(np.arange(len(self.width)))]

    def by_length(self, segments: np.ndarray) -> list[np.ndarray]:
        """Segments in groups of nearly equal length, the longest first."""
        order = segments[np.argsort(-self.width[segments], kind="stable")]
        groups, begin, lengths = [], 0, self.width[order].tolist()
        for place, length in enumerate(lengths):
            if length < lengths[begin] - max(2, int(_PADDING * lengths[begin])):
                groups.append(order[begin:place])
                begin = place
        return [*groups, order[begin:]] if len(order) else []

    def bucket_of(self, members: np.ndarray) -> Bucket:
        """Some segments, padded to the longest."""
        length = int(self.width[members].max())
        steps = np.arange(length)
        real = (steps < self.width[members][:, None]).ravel()
        padded = np.where(real, (self._first[members][:, None] + steps).ravel(), 0)
        which = None if real.all() else self.to_device(np.flatnonzero(real))
        return Bucket(self.to_device(padded), (len(members), length), which, self.to_device(padded[real]))

    @cached_property
    def ragged_own(self) -> Ragged:
        """Every segment by itself."""
        edges, longest = self.to_device(self._first.astype(np.int32)), int(self.width.max())
        return Ragged(edges, edges, longest, longest)

    @cached_property
    def ragged_below(self) -> tuple[int, torch.Tensor, Ragged] | None:
        """First of the tokens that have something above them (all later ones have), the places of what stands above, and
        the groups of both; None where nothing is shared."""
        families = list(self._families())
        if not families:
            return None
        starts, _, paths = zip(*families, strict=True)
        queries = np.diff([*starts, int(self._first[-1])])
        keys = np.array([len(path) for path in paths])
        edges = [self.to_device(np.r_[0, np.cumsum(counts)].astype(np.int32)) for counts in (queries, keys)]
        ragged = Ragged(edges[0], edges[1], int(queries.max()), int(keys.max()))
        return starts[0], self.to_device(np.concatenate(paths)), ragged


def attend(
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    layout: Layout,
    scale: float,
    window: int | None,
    softcap: float | None = None,
    sinks_H: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention output [T, H, D] of H query heads over G key heads. With `window`, keys `window` or more positions back are not
    seen; `softcap` c makes c * tanh(score / c) of a score (Gemma 2); a sink takes its share of a head's attention as a key of
    that score would, and gives nothing (gpt-oss)."""
    window = window if window is not None and window < layout.longest else None
    fused = q_THD.device.type == "cuda" and q_THD.dtype in (torch.bfloat16, torch.float16)
    if fused and window is None and softcap is None:
        out, lse = _attend_ragged(q_THD, k_TGD, v_TGD, layout, scale)
    else:
        out, lse = _attend_segments(q_THD, k_TGD, v_TGD, layout, scale, window, softcap)
    if sinks_H is not None:
        out.mul_(torch.sigmoid(lse - sinks_H.float())[..., None])
    return out


def _attend_segments(
    q_THD: torch.Tensor,
    k_TGD: torch.Tensor,
    v_TGD: torch.Tensor,
    layout: Layout,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [T, H, D] and log-sum-exp [T, H], by batches of segments."""
    out, lse = torch.empty_like(q_THD), q_THD.new_empty(q_THD.shape[:2], dtype=torch.float32)
    for bucket in layout.buckets:
        q, k, v = (x.index_select(0, bucket.padded).view(*bucket.shape, *x.shape[1:]) for x in (q_THD, k_TGD, v_TGD))
        mask = None if window is None or window >= bucket.shape[1] else _banded(bucket.shape[1], window, q_THD)
        o_nLHD, lse_nLH = _attention(q, k, v, scale=scale, causal=True, mask=mask, softcap=softcap)
        o, lse_own = o_nLHD.flatten(0, 1), lse_nLH.flatten(0, 1)
        if bucket.real is not None:
            o, lse_own = o.index_select(0, bucket.real), lse_own.index_select(0, bucket.real)
        out.index_copy_(0, bucket.places, o)
        lse.index_copy_(0, bucket.places, lse_own)
    for part in layout.below:
        rows = slice(part.first, part.stop)
        mask = None
        if window is not None:
            back = layout.positions[rows, None] - layout.positions[part.keys]
            mask = torch.where(back < window, 0.0, _HIDDEN).to(q_THD.dtype)
        k, v = (x.index_select(0, part.keys)[None] for x in (k_TGD, v_TGD))
        above, lse_above = _attention(q_THD[None, rows], k, v, scale=scale, causal=False, mask=mask, softcap=softcap)
        _merge(out[rows], lse[rows], above[0], lse_above[0])
    return out, lse


def _attend_ragged(
    q_THD: torch.Tensor, k_TGD: torch.Tensor, v_TGD: torch.Tensor, layout: Layout, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_attend_segments`, by kernels for sequences of any lengths."""
    out, lse = _ragged(q_THD, k_TGD, v_TGD, layout.ragged_own, scale, causal=True)
    if layout.ragged_below is not None:
        first, keys, groups = layout.ragged_below
        k, v = k_TGD.index_select(0, keys), v_TGD.index_select(0, keys)
        _merge(out[first:], lse[first:], *_ragged(q_THD[first:], k, v, groups, scale, causal=False))
    return out, lse


def _merge(out: torch.Tensor, lse: torch.Tensor, other: torch.Tensor, lse_other: torch.Tensor) -> None:
    """Attention over two disjoint sets of keys becomes attention over both, in `out` and `lse`."""
    share = torch.sigmoid(lse_other - lse).to(out.dtype)[..., None]
    out.lerp_(other, share)
    torch.logaddexp(lse, lse_other, out=lse)


def _banded(length: int, window: int, like: torch.Tensor) -> torch.Tensor:
    steps = torch.arange(length, device=like.device)
    back = steps[:, None] - steps
    return torch.where((back >= 0) & (back < window), 0.0, _HIDDEN).to(like.dtype)


def _attention(
    q_NQHD: torch.Tensor,
    k_NKGD: torch.Tensor,
    v_NKGD: torch.Tensor,
    *,
    scale: float,
    causal: bool,
    mask: torch.Tensor | None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [N, Q, H, D] and log-sum-exp [N, Q, H]; `mask` [Q, K] is added to the scores and stands instead of `causal`."""
    q, k, v = (x.transpose(1, 2) for x in (q_NQHD, k_NKGD, v_NKGD))
    if q.device.type == "cpu" and softcap is None:
        o, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, causal and mask is None, attn_mask=None if mask is None else mask[None, None], scale=scale
        )
        return o.transpose(1, 2), lse.transpose(1, 2)
    o, lse = _plain_attention(q, k, v, scale, causal, mask, softcap)
    return o.transpose(1, 2), lse.transpose(1, 2)


def _plain_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    causal: bool,
    mask: torch.Tensor | None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_attention`, heads before positions: for what no fused kernel takes (a cap; a window or float32 on a GPU)."""
    groups = k.shape[1]
    if groups > 1 and 4 * q.shape[:3].numel() * k.shape[2] > _SCORE_BYTES:  # a group of heads at a time
        per_group = zip(q.chunk(groups, dim=1), k.split(1, dim=1), v.split(1, dim=1), strict=True)
        parts = [_plain_attention(*part, scale, causal, mask, softcap) for part in per_group]
        return torch.cat([out for out, _ in parts], dim=1), torch.cat([lse for _, lse in parts], dim=1)
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    scores = (q @ k.transpose(2, 3)).float() * scale
    if softcap is not None:
        scores.div_(softcap).tanh_().mul_(softcap)
    if mask is None and causal:
        mask = _banded(q.shape[2], q.shape[2], scores)
    scores = scores if mask is None else scores + mask
    lse = scores.logsumexp(-1)
    return torch.exp(scores - lse[..., None]).to(v.dtype) @ v, lse


def _ragged(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, groups: Ragged, scale: float, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output [T, H, D] and log-sum-exp [T, H]."""
    # Not at the top: it brings torch's compiler with it, a second and memory that a CPU never needs.
    from torch.nn.attention import varlen

    settings: dict[str, Any] = {}
    if q.shape[1] != k.shape[1]:
        if _takes_groups(varlen.varlen_attn):
            settings = {"enable_gqa": True}
        else:
            k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    out, lse = varlen.varlen_attn(
        q,
        k,
        v,
        groups.query_edges,
        groups.key_edges,
        groups.longest_query,
        groups.longest_key,
        scale=scale,
        window_size=(-1, 0) if causal else (-1, -1),
        return_aux=varlen.AuxRequest(lse=True),
        **settings,
    )
    # Documented as [T, H]; flash attention's kernels give [H, T].
    return out, lse.t() if lse.shape == (q.shape[1], q.shape[0]) else lse


@cache
def _takes_groups(kernel: Any) -> bool:
    """Whether a kernel takes fewer key heads than query heads; torch 2.11 has one that does not."""
    return "enable_gqa" in inspect.signature(kernel).parameters
