"""Histograms and cuts: which prefix of a ranking fits a budget, without holding the ranking.

The ranking is searched digit by digit of its keys (`ranking_key.py`), with histograms of fixed size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from operators.selection.ranking_key import DIGITS, before, digit_of, edge


def histogram(
    keys: np.ndarray, costs: np.ndarray, firsts: np.ndarray, prefix: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Among rows whose keys [W, N] begin with `prefix`: the next digits that occur, and the cost, units and rows of each. Rows
    of a unit have the same key, and `firsts` is 1 for one of them and 0 for the others."""
    inside = within(keys, prefix) & ~below(keys, prefix)
    bins, inverse, rows = np.unique(digit_of(keys[:, inside], len(prefix)), return_inverse=True, return_counts=True)
    cost, units = np.zeros((2, len(bins)), dtype=np.int64)
    np.add.at(cost, inverse, costs[inside])
    np.add.at(units, inverse, firsts[inside])
    return bins.astype(np.int64), cost, units, rows


@dataclass(frozen=True)
class Cut:
    """The state of a search for the end of the longest prefix whose cost fits.

    Everything below `prefix` is taken: `used` cost in `units` units, with `room` cost left. A unit is what a budget takes
    whole: a row, or several rows with the same digits. `done` once the search has ended: then rows whose digits are below
    `prefix` are taken and no others; None takes all.
    """

    prefix: tuple[int, ...] | None
    room: int
    used: int = 0
    units: int = 0
    done: bool = False

    def advance(self, bins: np.ndarray, costs: np.ndarray, units: np.ndarray) -> Cut:
        """Go one digit deeper, given the histogram under `prefix` with its bins in ascending order."""
        running = np.cumsum(costs)
        whole = int(np.searchsorted(running, self.room, side="right"))  # the bins that fit as a whole
        used = int(running[whole - 1]) if whole else 0
        taken = int(units[:whole].sum())
        if whole == len(bins):  # only at the first digit: a deeper search enters a bin that does not fit
            return Cut(None, self.room - used, self.used + used, self.units + taken, done=True)
        prefix = (*(self.prefix or ()), int(bins[whole]))
        # A bin of one unit holds the one that does not fit; it ends the prefix, whatever smaller ones follow.
        done = len(prefix) == DIGITS or int(units[whole]) == 1
        return Cut(prefix, self.room - used, self.used + used, self.units + taken, done)


def below(keys: np.ndarray, prefix: tuple[int, ...] | None) -> np.ndarray:
    """Bool [N]: whether each of the keys [W, N] comes before every key that begins with `prefix` (all of them where it is
    None)."""
    if prefix is None:
        return np.ones(keys.shape[1], dtype=bool)
    return before(keys, edge(prefix, 0, len(keys)))


def within(keys: np.ndarray, prefix: tuple[int, ...] | None) -> np.ndarray:
    """Bool [N]: whether each of the keys [W, N] comes before those that begin with `prefix`, or is one of them."""
    if prefix is None:
        return np.ones(keys.shape[1], dtype=bool)
    return before(keys, edge(prefix, 0xFFFF, len(keys)), or_equal=True)


def largest_budget(total: int, budget: Mapping[str, float]) -> int:
    """The budget in units of cost: a number as it is, a fraction of `total` rounded down."""
    ((unit, amount),) = budget.items()
    return int(amount) if unit in ("tokens", "examples") else int(np.floor(total * amount + 1e-9))
