"""Ids of rows (128 bits in hex) as pairs of numbers, which sort, join and are stored as arrays."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.hashing import DIGEST_BYTES


def id_words(ids: list[str]) -> np.ndarray:
    """Uint64 [N, 2]: the first and the last 64 bits of each id, so that rows sort as the ids do."""
    data = bytes.fromhex("".join(ids))
    return np.frombuffer(data, dtype=">u8").reshape(-1, DIGEST_BYTES // 8).astype(np.uint64)


def hex_ids(words: np.ndarray) -> list[str]:
    """The ids of uint64 [N, 2]: what `id_words` was given."""
    text = words.astype(">u8").tobytes().hex()
    width = 2 * DIGEST_BYTES
    return [text[place : place + width] for place in range(0, len(text), width)]


def sort_ids(
    words: np.ndarray, *, before: tuple[np.ndarray, ...] = (), after: tuple[np.ndarray, ...] = ()
) -> np.ndarray:
    """The order of ids, where `before` (the last of it first) counts more and `after` less, as in np.lexsort."""
    return np.lexsort((*after, words[:, 1], words[:, 0], *before))


def firsts(words: np.ndarray) -> np.ndarray:
    """Bool [N]: of rows of which equal ones stand together, those that differ from the row before."""
    changes = np.ones(len(words), dtype=bool)
    changes[1:] = (words[1:] != words[:-1]).any(axis=1)
    return changes


def number_ids(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(distinct ids in order uint64 [D, 2], the number of each id among them int64 [N])."""
    order = sort_ids(words)
    new = firsts(words[order])
    numbers = np.empty(len(words), dtype=np.int64)
    numbers[order] = np.cumsum(new) - 1
    return words[order][new], numbers


def places_of(words: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Int64 [N]: the row of each id in `among`, sorted distinct ids, or -1."""
    low = np.searchsorted(among[:, 0], words[:, 0], side="left")
    high = np.searchsorted(among[:, 0], words[:, 0], side="right")
    places = np.full(len(words), -1, dtype=np.int64)
    for step in range(int((high - low).max(initial=0))):  # once, unless two ids share their first 64 bits
        row = low + step
        inside = row < high
        same = np.zeros(len(words), dtype=bool)
        same[inside] = among[row[inside], 1] == words[inside, 1]
        places[same] = row[same]
    return places


def share_for(sample: int, rows: int) -> float:
    """The share of all ids below which, of so many rows, no fewer than a sample lie, but for one run in a billion."""
    return min(1.0, (sample + 6 * math.isqrt(sample)) / max(1, rows))


def in_share(ids: pa.ChunkedArray, share: float) -> pa.ChunkedArray:
    """Bool [N]: which ids are in a share of all. They are hashes: these rows are a random sample, and always the same."""
    return pc.less_equal(ids, f"{min(int(share * 2**128), 2**128 - 1):032x}")
