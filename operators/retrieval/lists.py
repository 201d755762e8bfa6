"""An inverted file: centres of a pool's embeddings, each with the list of what is nearest to it, so that a query looks into a
few.

The centres are those of k-means with unit vectors. Sums are of whole numbers and near ties are decided in float64, so the same
embeddings give the same lists on every machine.
"""

from __future__ import annotations

import math

import numpy as np

from operators.retrieval.nearest import Nearest
from operators.retrieval.prompt_order import neighbourhood_order
from operators.retrieval.tiles import HOST, Tiles

SAMPLE_PER_LIST = 64  # vectors that a centre is computed from, on average
_PASSES = 8
_UNIT = 1 << 20  # whole numbers to 1, where vectors are summed


def list_count(instructions: int) -> int:
    """About twice the root of the distinct instructions: then centres and the vectors of the lists that a query probes cost
    about the same."""
    return max(1, round(2 * math.sqrt(instructions)))


def find_centres(sample_ND: np.ndarray, count: int, tiles: Tiles = HOST) -> np.ndarray:
    """Float32 [L, D] with L at most `count`: centres of a sample in random order (float32, rows of length 1 or 0), in an order
    in which those near each other in meaning are near."""
    centres = sample_ND[: min(count, len(sample_ND))]
    whole = np.rint(sample_ND * np.float32(_UNIT)).astype(np.int32)
    for _ in range(_PASSES):
        lists = nearest_lists(sample_ND, centres, tiles)
        order = np.argsort(lists, kind="stable")
        heads = np.flatnonzero(np.r_[True, np.diff(lists[order]) != 0])
        sums = np.add.reduceat(whole[order], heads, axis=0, dtype=np.int64).astype(np.float64)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # A centre that nothing is nearest to goes; so does one whose vectors cancel.
        centres = (sums / np.maximum(lengths, 1.0)).astype(np.float32)[lengths[:, 0] > 0]
        if not len(centres):
            return sample_ND[:1]
    return np.ascontiguousarray(centres[neighbourhood_order(centres)])


def nearest_lists(vectors_ND: np.ndarray, centres_LD: np.ndarray, tiles: Tiles = HOST) -> np.ndarray:
    """Int64 [N]: the list of each vector."""
    return probed_lists(vectors_ND, centres_LD, 1, tiles)[:, 0]


def probed_lists(vectors_ND: np.ndarray, centres_LD: np.ndarray, probes: int, tiles: Tiles = HOST) -> np.ndarray:
    """Int64 [N, min(probes, L)]: the lists that each vector's nearest are looked for in, best first."""
    search = Nearest(vectors_ND, probes, tiles)
    search.see(centres_LD, np.arange(len(centres_LD)))
    _, lists, _, _ = search.end()
    return lists.reshape(len(vectors_ND), min(probes, len(centres_LD)))
