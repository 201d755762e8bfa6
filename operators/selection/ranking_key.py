"""The key by which rows are ranked: the score, highest first, and ties by the id.

A row's key is the pair (order, id): `order` is a uint64 that rises as the score falls, and ids are hex digests, so both can be
cut into digits of 16 bits and compared or searched digit by digit.
"""

from __future__ import annotations

import numpy as np

DIGIT_BITS = 16
DIGITS = 12  # 4 of the order, 8 of the id


def order_of(scores: np.ndarray) -> np.ndarray:
    """Uint64 [N] from finite float64 scores: ascending order means descending score; -0.0 and 0.0 are one."""
    bits = (np.asarray(scores, dtype=np.float64) + 0.0).view(np.uint64)
    negative = (bits >> np.uint64(63)).astype(bool)
    ascending = np.where(negative, ~bits, bits | np.uint64(1 << 63))
    return ~ascending


def lowest_score(prefix: tuple[int, ...] | None) -> float:
    """The lowest score that a row can have whose digits begin with `prefix`; -inf for None."""
    if prefix is None:
        return -np.inf
    digits = [*prefix[:4], *[0xFFFF] * (4 - len(prefix[:4]))]
    ascending = ~np.uint64(sum(digit << shift for digit, shift in zip(digits, (48, 32, 16, 0), strict=True)))
    bits = ascending ^ np.uint64(1 << 63) if ascending >> np.uint64(63) else ~ascending
    score = float(np.array([bits]).view(np.float64)[0])
    return score if np.isfinite(score) else -np.inf


def digits_of(orders: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Int64 [N, DIGITS]: the 16-bit digits of (order, id), most significant first. `ids` holds 32 hex characters each."""
    shifts = np.array([48, 32, 16, 0], dtype=np.uint64)
    high = (orders[:, None] >> shifts) & np.uint64(0xFFFF)
    raw = np.frombuffer(bytes.fromhex("".join(ids)), dtype=">u2").reshape(len(ids), 8) if len(ids) else np.zeros((0, 8))
    return np.concatenate([high.astype(np.int64), raw.astype(np.int64)], axis=1)


def best_of_groups(groups: np.ndarray, orders: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    """Indices of the `n` best rows of each group, by (order, id)."""
    ranked = np.lexsort((ids, orders, groups))
    sorted_groups = groups[ranked]
    starts = (
        np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]]) if len(ranked) else np.array([], dtype=int)
    )
    place = np.arange(len(ranked)) - np.repeat(starts, np.diff(np.r_[starts, len(ranked)]))
    return ranked[place < n]
