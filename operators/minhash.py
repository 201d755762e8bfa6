"""MinHash signatures and the keys of their bands: rows that share a key are worth comparing.

A value of a signature is the least of the row's shingles under one of many hash functions; two rows agree in it with the
probability of their Jaccard index J. A band is `width` values in a row, so that two rows share one of `count` bands with
probability 1 - (1 - J^width)^count (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4). The functions are a h + b
modulo 2^64 over well mixed hashes, as in datasketch ("affine64"); over a batch of rows numpy does them several times as fast as
datasketch, which takes a row at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from operators.shingles import FoldedRow, mix, shingle_hashes

HASHES = 128
RECALL = 0.99  # of pairs that are just similar enough, at least so many share a band
_RNG = np.random.default_rng(13)
_FACTORS = _RNG.integers(0, 2**64, size=HASHES, dtype=np.uint64) | np.uint64(1)
_OFFSETS = _RNG.integers(0, 2**64, size=HASHES, dtype=np.uint64)
_OF_OUTPUT = np.uint64(0x9E3779B97F4A7C15)  # keeps the shingles of outputs apart from those of prompts
_CHARS_AT_ONCE = 1 << 20
_SHINGLES_AT_ONCE = 1 << 15  # which stay in a core's cache


@dataclass(frozen=True)
class Bands:
    """How a signature is cut: `count` bands of `width` values."""

    count: int
    width: int

    def recall(self, similarity: float) -> float:
        """The probability that two rows of this Jaccard index share a band."""
        return float(1 - (1 - similarity**self.width) ** self.count)


def bands_for(threshold: float) -> Bands:
    """The widest bands, which bring the fewest other rows together, that miss at most 1 - RECALL of pairs at the threshold."""
    choices = [Bands(HASHES // width, width) for width in range(HASHES, 0, -1)]
    return next((bands for bands in choices if bands.recall(threshold) >= RECALL), choices[-1])


def signatures(rows: list[FoldedRow]) -> np.ndarray:
    """Uint32 [N, HASHES] of prompts and outputs."""
    return np.concatenate([np.zeros((0, HASHES), np.uint32), *(_signatures(some) for some in _slices(rows))])


def _slices(rows: list[FoldedRow]) -> Iterator[list[FoldedRow]]:
    """Rows in stretches of so many characters, or single longer ones: memory does not grow with a part."""
    some: list[FoldedRow] = []
    chars = 0
    for row in rows:
        some.append(row)
        chars += len(row.prompt) + len(row.output)
        if chars >= _CHARS_AT_ONCE:
            yield some
            some, chars = [], 0
    if some:
        yield some


def _signatures(rows: list[FoldedRow]) -> np.ndarray:
    hashes, starts = row_shingles(rows)
    starts = starts[::2]  # of rows: prompt and output together
    values = np.full((len(rows), HASHES), np.iinfo(np.uint64).max, dtype=np.uint64)
    first = 0
    while first < len(rows):
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _SHINGLES_AT_ONCE, side="right")) - 1)
        stretch = hashes[starts[first] : starts[last]]
        filled = np.flatnonzero(np.diff(starts[first : last + 1])) + first  # a row without any shingle has no least one
        heads = starts[filled] - starts[first]
        product = np.empty_like(stretch)
        for place in range(HASHES if len(filled) else 0):
            np.multiply(stretch, _FACTORS[place], out=product)
            np.add(product, _OFFSETS[place], out=product)
            values[filled, place] = np.minimum.reduceat(product, heads)
        first = last
    return (values >> np.uint64(32)).astype(np.uint32)


def row_shingles(rows: list[FoldedRow]) -> tuple[np.ndarray, np.ndarray]:
    """As `shingle_hashes` of the texts prompt, output, prompt, ...; no shingle of an output equals any of a prompt."""
    hashes, starts = shingle_hashes([text for row in rows for text in (row.prompt, row.output)])
    of_output = np.repeat(np.arange(len(starts) - 1) % 2 == 1, np.diff(starts))
    hashes[of_output] = mix(hashes[of_output] ^ _OF_OUTPUT)
    return hashes, starts


def band_keys(values: np.ndarray, bands: Bands) -> np.ndarray:
    """Uint64 [N, count]: the key of each band of signatures."""
    keys = np.empty((len(values), bands.count), dtype=np.uint64)
    for band in range(bands.count):
        folded = np.full(len(values), np.uint64(band), dtype=np.uint64)
        for column in values[:, band * bands.width : (band + 1) * bands.width].T:
            folded = mix(folded * np.uint64(0x100000001B3) + column.astype(np.uint64) + np.uint64(1))
        keys[:, band] = folded
    return keys


def agreement(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Float64 [P]: the estimate of the Jaccard index of pairs of signatures, uint32 [P, HASHES] each."""
    return np.asarray((some == others).mean(axis=1), dtype=np.float64)
