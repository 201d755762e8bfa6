"""Clusters of instructions by meaning: seeded k-means over embeddings, for caps and quotas that keep a selection broad."""

from __future__ import annotations

import math

import numpy as np

MOST = 1000  # clusters where nobody says how many
SAMPLE = 50_000  # embeddings that the centres are found from
_ROWS_TOGETHER = 65_536


def auto_count(instructions: int) -> int:
    """About the root of half of the distinct instructions, a rule of thumb of k-means; at least 1, at most MOST."""
    return max(1, min(MOST, round(math.sqrt(instructions / 2))))


def cluster_centres(sample_ND: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Float32 [C, D] with C at most `count`: the centres of clusters of embeddings (float32), of a sample of all where these
    are many. The same embeddings and seed give the same centres: one thread computes them, since several add in no fixed
    order."""
    if count >= len(sample_ND):
        return np.ascontiguousarray(sample_ND)
    from sklearn.cluster import KMeans  # takes a second to import
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return np.asarray(KMeans(count, n_init=1, random_state=seed % 2**32).fit(sample_ND).cluster_centers_)


def clusters_of(embeddings: np.ndarray, centres_CD: np.ndarray) -> np.ndarray:
    """Int32 [N]: the cluster of each embedding (float32 [N, D]), the number of its nearest centre."""
    from sklearn.metrics import pairwise_distances_argmin
    from threadpoolctl import threadpool_limits

    starts = range(0, len(embeddings), _ROWS_TOGETHER)
    with threadpool_limits(1):
        labels = [pairwise_distances_argmin(embeddings[start : start + _ROWS_TOGETHER], centres_CD) for start in starts]
    return np.concatenate([*labels, np.zeros(0)]).astype(np.int32)
