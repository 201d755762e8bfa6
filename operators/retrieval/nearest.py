"""The nearest vectors of queries by cosine similarity, exact over a pool that is shown in stretches; ties are deterministic.

Blocked matrix products find what may be near enough, in float32; what is left of them is ordered in float64. Neither the size
of a stretch, nor the order of stretches, nor the BLAS or the GPU can move a neighbour."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from operators.retrieval.tiles import HOST, MARGIN, Tiles

# The first tiles of a query are narrow: they only have to say what is near enough to be looked at in the wider ones.
_NARROWEST = 128
_EXACT_TOGETHER = 1024
_SETTLED = -1  # in place of the number of a stretch

# Of cells (query, place in the stretch, similarity), which may be taken.
Allow = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def all_allowed(queries: np.ndarray, places: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """No rules."""
    return np.ones(len(queries), dtype=bool)


def exact_similarities(queries_ND: np.ndarray, vectors_ND: np.ndarray) -> np.ndarray:
    """Float64 [N]: the dot product of each two rows, computed by itself; one query may stand for all."""
    return np.asarray((vectors_ND.astype(np.float64) * queries_ND.astype(np.float64)).sum(axis=-1))


class Nearest:
    """The `count` nearest of each query (float32 [Q, D], rows of length 1 or 0) among the vectors that it is shown."""

    def __init__(self, queries_QD: np.ndarray, count: int, tiles: Tiles = HOST):
        self._queries, self._count, self._tiles = queries_QD, count, tiles
        self._floor = np.full(len(queries_QD), -np.inf, dtype=np.float32)  # what a similarity must reach by now
        self._stretches: list[tuple[np.ndarray, np.ndarray]] = []  # that are still looked at
        # What `settle` has left of others: cells of no stretch name places here.
        self._rows, self._exact = np.zeros(0, dtype=np.int64), np.zeros(0)
        # Cells that may be among the nearest: query, stretch, place there, similarity. The first are what was kept last.
        self._cells: list[tuple[np.ndarray, ...]] = []
        self._waiting = 0

    def see(
        self,
        pool_PD: np.ndarray,
        rows_P: np.ndarray,
        allow: Allow = all_allowed,
        queries: np.ndarray | None = None,
    ) -> None:
        """Take what is near in a stretch of the pool, for all queries or for some. `rows_P` names its vectors: ties go to the
        smaller. The stretch is kept, and must not change, until `settle` or `end`."""
        self._stretches.append((pool_PD, rows_P))
        asking = np.arange(len(self._queries)) if queries is None else queries
        pool = self._tiles.held(pool_PD)
        together = max(1, self._tiles.cells // (8 * _NARROWEST))
        for start in range(0, len(asking), together):
            self._see(pool, allow, asking[start : start + together])

    def _see(self, pool: Any, allow: Allow, asking: np.ndarray) -> None:
        """See a stretch that is held by the tiles, for these queries."""
        vectors, start, width = self._tiles.held(self._queries[asking]), 0, _NARROWEST
        while start < len(pool):
            stop = min(start + width, len(pool))
            near_enough, similar = self._tiles.reaching(vectors, pool[start:stop], self._floor[asking])
            near, places = np.divmod(near_enough, stop - start)
            cells = asking[near], places + start, similar
            kept = allow(*cells)
            if kept.any():
                query, place, similarity = (column[kept] for column in cells)
                self._cells.append((query, np.full(len(query), len(self._stretches) - 1), place, similarity))
                self._waiting += len(query)
                if self._waiting > len(self._queries) * (self._count + 1):
                    self._keep()
            start, width = stop, min(2 * width, max(_NARROWEST, self._tiles.cells // len(asking)))

    def _keep(self) -> tuple[np.ndarray, ...]:
        """Let go of the cells that can no longer be among the nearest; the others, by query."""
        if not self._cells:
            self._cells.append(tuple(np.zeros(0, dtype=kind) for kind in (np.int64, np.int64, np.int64, np.float32)))
        cells = [np.concatenate(column) for column in zip(*self._cells, strict=True)]
        order = np.argsort(cells[0] << 32 | _descending(cells[3]))
        query, similarity = cells[0][order], cells[3][order]
        heads = np.flatnonzero(np.r_[True, query[1:] != query[:-1]][: len(query)])
        sizes = np.diff(np.r_[heads, len(query)])
        # One more than asked for is kept: it says that there are more.
        full = sizes > self._count
        floor = self._floor[query[heads]]
        floor[full] = similarity[heads[full] + self._count] - np.float32(2 * MARGIN)
        self._floor[query[heads]] = floor
        order = order[similarity >= np.repeat(floor, sizes)]
        kept = tuple(column[order] for column in cells)
        self._cells, self._waiting = [kept], 0
        return kept

    def settle(self) -> None:
        """Let go of the stretches that were seen so far, which may be more than memory holds."""
        query, stretch, place, similarity = self._keep()
        rows, exact = np.zeros(len(query), dtype=np.int64), np.zeros(len(query))
        known = stretch == _SETTLED
        rows[known], exact[known] = self._rows[place[known]], self._exact[place[known]]
        for number in np.unique(stretch[~known]):
            mine = np.flatnonzero(stretch == number)
            vectors, names = self._stretches[number]
            rows[mine] = names[place[mine]]
            for start in range(0, len(mine), _EXACT_TOGETHER):
                cells = mine[start : start + _EXACT_TOGETHER]
                exact[cells] = exact_similarities(self._queries[query[cells]], vectors[place[cells]])
        self._rows, self._exact, self._stretches = rows, exact, []
        self._cells = [(query, np.full(len(query), _SETTLED), np.arange(len(query)), similarity)]

    def end(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of all queries in order, their nearest, best first, ties by row: int64 [Q + 1], where each query's begin; int64 [N],
        rows; float64 [N], similarities; and bool [Q], whether no others were allowed."""
        self.settle()
        query, rows, exact = self._cells[0][0], self._rows, self._exact
        order = np.lexsort((rows, -exact, query))
        counts = np.bincount(query, minlength=len(self._queries))
        ranks = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        best = order[ranks < self._count]
        begins = np.r_[0, np.cumsum(np.minimum(counts, self._count))]
        return begins, rows[best], exact[best], counts <= self._count


def _descending(similarity: np.ndarray) -> np.ndarray:
    """Int64 [N] below 2^32, smaller for a greater float32."""
    bits = np.ascontiguousarray(similarity + np.float32(0)).view(np.int32).astype(np.int64)  # -0 becomes 0
    return 0x7FFFFFFF - np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
