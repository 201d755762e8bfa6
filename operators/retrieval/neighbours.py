"""Exact k nearest neighbours by cosine similarity, as blocked matrix products; ties are deterministic."""

from __future__ import annotations

import numpy as np

# A float32 dot product of unit vectors of a few hundred dimensions is off by less than this. Whatever lies within it of a
# decision is decided again in float64, so neither the block size nor the BLAS can move a neighbour.
MARGIN = 1e-5
BLOCK_CELLS = 20_000_000  # similarities held at once: 80 MB


def similarities(queries_QD: np.ndarray, pool_PD: np.ndarray) -> np.ndarray:
    """Float32 [Q, P] dot products."""
    return np.asarray(queries_QD @ pool_PD.T)


def exact_similarities(query_D: np.ndarray, pool_PD: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Float64 dot products of one query with some rows of the pool, each computed by itself."""
    return np.asarray((pool_PD[rows].astype(np.float64) * query_D.astype(np.float64)).sum(axis=1))


def settle(sims_QP: np.ndarray, queries_QD: np.ndarray, pool_PD: np.ndarray, threshold: float) -> np.ndarray:
    """Bool [Q, P]: similarity at least `threshold`, with cells near the threshold computed again in float64."""
    above = sims_QP >= threshold
    for query in np.flatnonzero((np.abs(sims_QP - threshold) < MARGIN).any(axis=1)):
        rows = np.flatnonzero(np.abs(sims_QP[query] - threshold) < MARGIN)
        above[query, rows] = exact_similarities(queries_QD[query], pool_PD, rows) >= threshold
    return above


def top(sims_P: np.ndarray, query_D: np.ndarray, pool_PD: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows of the pool with the highest similarity, highest first, ties by row; and their similarities.

    `sims_P` is float32 with -inf where a row may not be taken. The pool is sorted by instruction hash, so ties by row are
    ties by hash.
    """
    allowed = np.flatnonzero(np.isfinite(sims_P))
    if len(allowed) > count > 0:
        kth = np.partition(sims_P[allowed], len(allowed) - count)[len(allowed) - count]
        allowed = allowed[sims_P[allowed] >= kth - 2 * MARGIN]
    exact = exact_similarities(query_D, pool_PD, allowed)
    best = np.lexsort((allowed, -exact))[:count]
    return allowed[best], exact[best]
