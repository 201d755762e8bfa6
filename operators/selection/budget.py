"""Selection keys, histograms and cuts (SPEC 4): which prefix of a ranking fits a budget, without holding the ranking.

A row's place in the ranking is the pair (order, id): `order` is a uint64 that rises as the score falls, and ids are hex
digests, so both can be cut into digits of 16 bits and searched digit by digit with histograms of fixed size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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


def histogram(
    digits: np.ndarray, costs: np.ndarray, prefix: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Among rows whose digits begin with `prefix`: the next digits that occur, and the cost and the rows of each."""
    inside = (digits[:, : len(prefix)] == np.array(prefix, dtype=np.int64)).all(axis=1)
    bins, inverse = np.unique(digits[inside, len(prefix)], return_inverse=True)
    cost = np.zeros(len(bins), dtype=np.int64)
    np.add.at(cost, inverse, costs[inside])
    return bins, cost, np.bincount(inverse, minlength=len(bins)).astype(np.int64)


@dataclass(frozen=True)
class Cut:
    """The state of a search for the end of the longest prefix whose cost fits.

    Everything below `prefix` is taken: `used` cost in `rows` rows, with `room` cost left. `done` once the search has ended:
    then rows whose digits are below `prefix` are taken and no others; None takes all.
    """

    prefix: tuple[int, ...] | None
    room: int
    used: int = 0
    rows: int = 0
    done: bool = False

    def advance(self, bins: np.ndarray, costs: np.ndarray, rows: np.ndarray) -> Cut:
        """Go one digit deeper, given the histogram under `prefix` with its bins in ascending order."""
        running = np.cumsum(costs)
        whole = int(np.searchsorted(running, self.room, side="right"))  # the bins that fit as a whole
        used = int(running[whole - 1]) if whole else 0
        taken = int(rows[:whole].sum())
        if whole == len(bins):  # only at the first digit: a deeper search enters a bin that does not fit
            return Cut(None, self.room - used, self.used + used, self.rows + taken, done=True)
        prefix = (*(self.prefix or ()), int(bins[whole]))
        # A bin of one row holds the row that does not fit; it ends the prefix, whatever smaller rows follow.
        done = len(prefix) == DIGITS or int(rows[whole]) == 1
        return Cut(prefix, self.room - used, self.used + used, self.rows + taken, done)


def below(digits: np.ndarray, prefix: tuple[int, ...] | None) -> np.ndarray:
    """Bool [N]: whether each row comes before every row that begins with `prefix` (all of them where it is None)."""
    result = np.zeros(len(digits), dtype=bool)
    if prefix is None:
        return ~result
    undecided = np.ones(len(digits), dtype=bool)
    for place, digit in enumerate(prefix):
        result |= undecided & (digits[:, place] < digit)
        undecided &= digits[:, place] == digit
    return result


def within(digits: np.ndarray, prefix: tuple[int, ...] | None) -> np.ndarray:
    """Bool [N]: whether each row comes before those that begin with `prefix`, or is one of them."""
    begins = np.ones(len(digits), dtype=bool)
    for place, digit in enumerate(prefix or ()):
        begins &= digits[:, place] == digit
    return below(digits, prefix) | begins


def best_of_groups(groups: np.ndarray, orders: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    """Indices of the `n` best rows of each group, by (order, id)."""
    ranked = np.lexsort((ids, orders, groups))
    sorted_groups = groups[ranked]
    starts = (
        np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]]) if len(ranked) else np.array([], dtype=int)
    )
    place = np.arange(len(ranked)) - np.repeat(starts, np.diff(np.r_[starts, len(ranked)]))
    return ranked[place < n]


def largest_budget(total: int, budget: Mapping[str, float]) -> int:
    """The budget in units of cost: a number as it is, a fraction of `total` rounded down."""
    ((unit, amount),) = budget.items()
    return int(amount) if unit in ("tokens", "examples") else int(np.floor(total * amount + 1e-9))
