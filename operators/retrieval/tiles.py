"""How the similarities of a tile, some queries by some vectors, are computed: by numpy here, by torch in `gpu_tiles.py`.

They are float32 and say only what may be near enough; what is left is decided in float64 (`nearest.py`). So the way of
computing can move no neighbour, as long as a similarity is off by less than MARGIN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# A float32 dot product of unit vectors of a few hundred dimensions is off by less than this.
MARGIN = 1e-5


class Tiles(NamedTuple):
    """A way to compute tiles.

    `cells`: similarities of a tile, at most. `held`: vectors (float32 [N, D]) as `reaching` takes them, of which a slice may be
    taken. `reaching`: of queries and vectors, both held, and floors (float32 [Q], one a query), the cells whose similarity
    reaches the floor of its query: int64 [C], query * P + vector, ascending; float32 [C], their similarities.
    """

    cells: int
    held: Callable[[np.ndarray], Any]
    reaching: Callable[[Any, Any, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _as_it_is(vectors_ND: np.ndarray) -> np.ndarray:
    return vectors_ND


def _reaching(queries_QD: np.ndarray, vectors_PD: np.ndarray, floors_Q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    similar = queries_QD @ vectors_PD.T
    # Cells by one number: numpy looks through a flat array fourteen times as fast as by row and column.
    cells = np.flatnonzero(similar >= floors_Q[:, None])
    return cells, similar.ravel()[cells]


# A tile of 4 MB stays in the caches of a core.
HOST = Tiles(1 << 20, _as_it_is, _reaching)
