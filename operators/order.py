"""An order of instructions in which neighbours in meaning stand near each other, so that rows which share alternatives meet."""

from __future__ import annotations

import numpy as np

_LEAF = 8  # a group this small is put in order by its last direction and split no further
_STEPS = 8  # power iterations towards the direction in which a group is longest


def neighbourhood_order(embeddings_PD: np.ndarray) -> np.ndarray:
    """Int64 [P]: a permutation of the rows, by halving along the direction of greatest spread, again and again.

    Ties keep the order of the rows. Cost: about P D log2(P) steps of power iteration.
    """
    found: list[np.ndarray] = []
    groups = [np.arange(len(embeddings_PD))]
    while groups:
        rows = groups.pop()
        if len(rows) > 1:
            rows = rows[np.argsort(_along_spread(embeddings_PD[rows].astype(np.float64)), kind="stable")]
        if len(rows) <= _LEAF:
            found.append(rows)
            continue
        middle = len(rows) // 2
        groups += [rows[middle:], rows[:middle]]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


def _along_spread(points_ND: np.ndarray) -> np.ndarray:
    """Float64 [N]: where each point lies along (nearly) the first principal direction."""
    centred = points_ND - points_ND.mean(axis=0)
    direction = centred[np.argmax((centred**2).sum(axis=1))]
    for _ in range(_STEPS):
        length = np.linalg.norm(direction)
        if length == 0:
            break
        direction = centred.T @ (centred @ (direction / length))
    return centred @ direction
