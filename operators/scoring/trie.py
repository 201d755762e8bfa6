"""Which work sequences share: their token trie, cut into segments, and packs of segments that go through the model at once.

Sequences that begin alike share those positions in a causal model: the hidden states there are the same. So the sequences of
a block form a trie; a segment is a run of tokens with one parent segment, a sequence is the path from a root to its last
segment, and each token of a segment is computed once for all sequences that pass through it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

# A shared segment costs calls of its own in every layer. Anything from 1 to 64 took the same time on 2 cores
# (tests/benchmarks/sharing.py); fewer segments are fewer calls where those weigh more.
LEAST_SAVED = 24


@dataclass(frozen=True)
class Trie:
    """Segments of N sequences, parents before children.

    A sequence i (in sorted order) ends in segment `leaf[i]`; `parent` is -1 at a root. The tokens of segment s are those of
    sequence `sample[s]` from position `start[s]` to `stop[s]`.
    """

    order: np.ndarray  # [N] input index of each sequence in sorted order
    leaf: np.ndarray  # [N] segment of each sorted sequence
    parent: np.ndarray  # [S]
    sample: np.ndarray  # [S] sorted index of one sequence that passes through
    start: np.ndarray  # [S] tokens before the segment
    stop: np.ndarray  # [S]


def build_trie(flat: np.ndarray, bounds: np.ndarray, least_saved: int = LEAST_SAVED) -> Trie:
    """The trie of sequences i = flat[bounds[i]:bounds[i + 1]] (none empty), with a shared segment wherever it saves at least
    `least_saved` tokens."""
    order = _sorted(flat, bounds)
    starts, lengths = bounds[:-1][order], np.diff(bounds)[order]
    common = _common_prefixes(flat, starts, lengths)
    parent: list[int] = []
    sample: list[int] = []
    start: list[int] = []
    stop: list[int] = []
    leaf = np.zeros(len(order), dtype=np.int64)

    def segment(above: int, first: int, depth: int, end: int) -> int:
        for values, value in zip((parent, sample, start, stop), (above, first, depth, end), strict=True):
            values.append(value)
        return len(parent) - 1

    # Each task: sequences low..high-1 share the first `depth` tokens, which stand in segment `above` and its ancestors.
    tasks = [(0, len(order), 0, -1)]
    while tasks:
        low, high, depth, above = tasks.pop()
        if high - low == 1:
            # A sequence that ends where a shared segment ends has no tokens of its own.
            ends_here = lengths[low] == depth and above >= 0
            leaf[low] = above if ends_here else segment(above, low, depth, int(lengths[low]))
            continue
        inner = common[low : high - 1]
        shared = int(inner.min())
        if (high - low - 1) * (shared - depth) >= least_saved:
            above, depth = segment(above, low, depth, shared), shared
        cuts = low + 1 + np.flatnonzero(inner == shared)
        edges = [low, *cuts.tolist(), high]
        tasks.extend((a, b, depth, above) for a, b in zip(edges[-2::-1], edges[:0:-1], strict=True))
    return Trie(order, leaf, *(np.array(values, dtype=np.int64) for values in (parent, sample, start, stop)))


def _sorted(flat: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Input indices in the lexicographic order of the sequences; equal ones in the order of the input."""
    wide = flat.astype(">u4")  # big-endian bytes compare as the numbers do
    keys = [wide[a:b].tobytes() for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)]
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _common_prefixes(flat: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Int64 [N - 1]: how many first tokens each sorted sequence shares with the next one."""
    shorter = np.asarray(np.minimum(lengths[:-1], lengths[1:]))
    if not len(shorter):
        return shorter
    edges = np.concatenate([[0], np.cumsum(shorter)[:-1]])
    within = runs(np.zeros_like(shorter), shorter)
    differs = flat[runs(starts[:-1], shorter)] != flat[runs(starts[1:], shorter)]
    return np.asarray(np.minimum.reduceat(np.where(differs, within, np.repeat(shorter, shorter)), edges))


def runs(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers starts[i] .. starts[i] + lengths[i] - 1 of every i, one run after the other."""
    return np.asarray(np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths))


@dataclass(frozen=True)
class Pack:
    """Segments that go through the model together, in the order in which their tokens stand.

    Levels stand one after the other (roots, their children, ..), and the children of a segment side by side.
    """

    segments: np.ndarray  # [P] in the trie
    parent: np.ndarray  # [P] place in this pack, or -1
    sequences: np.ndarray  # [B] sorted indices of the sequences that end here
    leaf: np.ndarray  # [B] place in this pack of the segment in which each ends


def packs(trie: Trie, pack_tokens: int) -> Iterator[Pack]:
    """Packs of at most `pack_tokens` tokens (more only where one sequence alone is longer), which together hold every
    sequence once. Sequences follow the trie, so a shared segment stands in as few packs as possible."""
    sizes = (trie.stop - trie.start).tolist()
    parents, leaves = trie.parent.tolist(), trie.leaf.tolist()
    inside: dict[int, None] = {}
    first, tokens = 0, 0
    for sequence, segment in enumerate(leaves):
        path = _missing(segment, parents, inside)
        added = sum(sizes[above] for above in path)
        if inside and tokens + added > pack_tokens:
            yield _pack(trie, list(inside), first, sequence)
            inside, first, tokens = {}, sequence, 0
            path = _missing(segment, parents, inside)
            added = sum(sizes[above] for above in path)
        inside.update(dict.fromkeys(reversed(path)))
        tokens += added
    if inside:
        yield _pack(trie, list(inside), first, len(leaves))


def _missing(segment: int, parents: list[int], inside: dict[int, None]) -> list[int]:
    """The segment and those of its ancestors that are not inside, leaf first."""
    path = []
    while segment >= 0 and segment not in inside:
        path.append(segment)
        segment = parents[segment]
    return path


def _pack(trie: Trie, chosen: list[int], first: int, stop: int) -> Pack:
    segments = np.sort(np.array(chosen, dtype=np.int64))  # parents come before children in the trie
    place = {segment: i for i, segment in enumerate(segments.tolist())}
    parent = np.array([place.get(above, -1) for above in trie.parent[segments].tolist()], dtype=np.int64)
    level = np.zeros(len(segments), dtype=np.int64)
    for i, above in enumerate(parent.tolist()):
        level[i] = level[above] + 1 if above >= 0 else 0
    # Siblings by length, so that those of equal length stand side by side.
    width = (trie.stop - trie.start)[segments]
    ranked = np.lexsort((segments, width, parent, level))
    rank = np.empty(len(ranked), dtype=np.int64)
    rank[ranked] = np.arange(len(ranked))
    above = parent[ranked]
    leaf = np.array([rank[place[end]] for end in trie.leaf[first:stop].tolist()], dtype=np.int64)
    return Pack(segments[ranked], np.where(above >= 0, rank[above], -1), np.arange(first, stop), leaf)
