"""Draws rows with replacement in proportion to their weights, for trainers that have no weighted loss.

The draw is systematic: the rows stand in a random order that follows from their ids and the seed, each as long as its weight,
and a comb of N teeth at equal distances, whose first tooth is random too, is laid beside them. A row of the expected number c
of copies gets c rounded down or up, and c on average over seeds; the sum is N. How the rows lie in parts moves nothing.
"""

from __future__ import annotations

import numpy as np

from operators.scoring.scores import random_of

_OF_DRAWS = 0x5EED  # draws of one seed are not those of the column `random`, which may have chosen the rows


def order_keys(ids: list[str], seed: int) -> np.ndarray:
    """Float64 [rows]: the keys by which rows stand in the random order."""
    return random_of(ids, seed ^ _OF_DRAWS) if ids else np.zeros(0)


def copies(keys: np.ndarray, weights: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Int64 [rows]: how often each row is drawn; they sum to `draws`.

    `weights` are at least 0; raises ValueError where they are all 0."""
    order = np.lexsort((weights, keys))
    ends = np.cumsum(weights[order])
    if not len(ends) or not ends[-1] > 0:
        raise ValueError("no row has a weight above 0")
    first = random_of(["0" * 32], seed ^ _OF_DRAWS)[0]
    # Teeth stand at first + 0, 1, ... N - 1 of a comb as long as N: how many of them end before the end of each row.
    teeth = np.minimum(np.floor(ends / ends[-1] * draws + (1 - first)), draws)
    teeth[-1] = draws
    result = np.empty(len(ends), dtype=np.int64)
    result[order] = np.diff(teeth, prepend=0).astype(np.int64)
    return result
