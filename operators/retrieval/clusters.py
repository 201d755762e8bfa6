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


def clusters_of(embeddings: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Int32 [N]: the cluster of each embedding (float32 [N, D]), from 0 on; at most `count`, and at most N.

    The same embeddings and seed give the same clusters: one thread computes them, since several add in no fixed order."""
    rows = len(embeddings)
    if count >= rows:
        return np.arange(rows, dtype=np.int32)
    from sklearn.cluster import KMeans  # takes a second to import
    from threadpoolctl import threadpool_limits

    generator = np.random.default_rng(seed % 2**64)
    drawn = np.sort(generator.choice(rows, SAMPLE, replace=False)) if rows > SAMPLE else np.arange(rows)
    with threadpool_limits(1):
        model = KMeans(min(count, len(drawn)), n_init=1, random_state=seed % 2**32).fit(embeddings[drawn])
        starts = range(0, rows, _ROWS_TOGETHER)
        return np.concatenate([model.predict(embeddings[start : start + _ROWS_TOGETHER]) for start in starts])
