"""The key by which rows are ranked: the score, highest first, and ties by the id.

A row's key is the pair (order, id): `order` is a uint64 that rises as the score falls, and ids are hex digests of 128 bits.
Keys are words of 64 bits that are compared word by word, and searched in digits of 16 bits. Where rows are told apart by their
orders, the first word is enough.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

DIGIT_BITS = 16
DIGITS_OF_WORD = 4
DIGITS = 12  # 4 of the order, 8 of the id
_ID_CHARACTERS = 32


def order_of(scores: np.ndarray) -> np.ndarray:
    """Uint64 [N] from finite float64 scores: ascending order means descending score; -0.0 and 0.0 are one."""
    bits = (np.asarray(scores, dtype=np.float64) + 0.0).view(np.uint64)
    negative = (bits >> np.uint64(63)).astype(bool)
    ascending = np.where(negative, ~bits, bits | np.uint64(1 << 63))
    return ~ascending


def score_of(order: int) -> float:
    """The score that has this order."""
    ascending = ~np.uint64(order)
    bits = ascending ^ np.uint64(1 << 63) if ascending >> np.uint64(63) else ~ascending
    return float(np.array([bits]).view(np.float64)[0])


def lowest_score(prefix: tuple[int, ...] | None) -> float:
    """The lowest score that a row can have whose digits begin with `prefix`; -inf for None."""
    if prefix is None:
        return -np.inf
    digits = [*prefix[:4], *[0xFFFF] * (4 - len(prefix[:4]))]
    score = score_of(sum(digit << shift for digit, shift in zip(digits, (48, 32, 16, 0), strict=True)))
    return score if np.isfinite(score) else -np.inf


def words_of(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Uint64 [2, N] of a column of ids. Raises ValueError unless each is 32 hex characters."""
    column = (ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids).cast(pa.string())
    if not len(column):
        return np.zeros((2, 0), dtype=np.uint64)
    _, offsets, data = column.buffers()
    edges = np.frombuffer(offsets, dtype=np.int32)[column.offset : column.offset + len(column) + 1]
    if column.null_count or (np.diff(edges) != _ID_CHARACTERS).any():
        raise ValueError("an id of a row is not 32 hex characters")
    raw = bytes.fromhex(str(memoryview(data)[edges[0] : edges[-1]], "ascii"))
    return np.ascontiguousarray(np.frombuffer(raw, dtype=">u8").reshape(-1, 2).T.astype(np.uint64))


def keys_of(orders: np.ndarray, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Uint64 [3, N]: the keys of rows, the most significant word first."""
    return np.concatenate([orders[None, :], words_of(ids)])


def digit_of(keys: np.ndarray, place: int) -> np.ndarray:
    """Uint16 [N]: the digit of that place, from the most significant one, of keys [W, N]."""
    word, inside = divmod(place, DIGITS_OF_WORD)
    shift = np.uint64(64 - DIGIT_BITS * (inside + 1))
    digits: np.ndarray = (keys[word] >> shift).astype(np.uint16)
    return digits


def edge(prefix: tuple[int, ...], filler: int, words: int) -> np.ndarray:
    """Uint64 [W]: the key of so many words that begins with `prefix` and has `filler` for its other digits. Raises ValueError
    where the prefix is longer."""
    digits = [*prefix, *[filler] * (words * DIGITS_OF_WORD - len(prefix))]
    if len(digits) > words * DIGITS_OF_WORD:
        raise ValueError(f"a prefix of {len(prefix)} digits asks for more than {words} words of a key")
    return np.array(digits, dtype=">u2").view(">u8").astype(np.uint64)


def before(keys: np.ndarray, others: np.ndarray, or_equal: bool = False) -> np.ndarray:
    """Bool [N]: whether keys [W, N] stand before others, [W] or [W, N]."""
    result = np.full(keys.shape[1], or_equal)
    for key, other in zip(keys[::-1], others[::-1], strict=True):
        result = (key < other) | ((key == other) & result)
    return result


def sortable(keys: np.ndarray) -> np.ndarray:
    """Keys [3, N] as bytes [N] that numpy sorts and searches in the order of the keys."""
    return np.ascontiguousarray(keys.T.astype(">u8")).view("S24").ravel()


def best_of_groups(groups: np.ndarray, keys: np.ndarray, n: int) -> np.ndarray:
    """Places of the `n` best keys [3, N] of each group (a number), group by group and best first; equal ones count once."""
    ranked = np.lexsort((*keys[::-1], groups))
    sorted_groups, sorted_keys = groups[ranked], keys[:, ranked]
    new_group = np.r_[True, sorted_groups[1:] != sorted_groups[:-1]][: len(ranked)]
    new_key = new_group | np.r_[True, (sorted_keys[:, 1:] != sorted_keys[:, :-1]).any(axis=0)][: len(ranked)]
    place = np.cumsum(new_key)  # from 1, over all groups
    first = np.maximum.accumulate(np.where(new_group, place, 0))
    best: np.ndarray = ranked[new_key & (place - first < n)]
    return best
