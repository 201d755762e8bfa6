"""Sums of floats that nothing rounds: the same whatever parts they come in, and in whatever order these are added.

A sum is kept in cells of 32 bits: the value of cell c counts times 2 ** (32 c). A float is a whole number times a power of two,
so each belongs to a cell as a whole number, and Python's integers do not overflow.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np

CELL_BITS = 32
_MANTISSA_BITS = 53
_HALF = 27  # sums of half a mantissa fit into 64 bits for as many rows as there can be

# log(2) in two parts, of which the first has few enough digits that a whole number of them is exact (from fdlibm).
_LOG2 = (6.93147180369123816490e-01, 1.90821492927058770002e-10)
_TOP_CELLS = 8  # what is below them is nothing beside a sum of positive numbers

Cells = dict[int, int]


def exact_sum(values: np.ndarray, powers: np.ndarray | int = 0) -> Cells:
    """Of finite floats [N], each times 2 to its power [N]."""
    fractions, exponents = np.frexp(values)
    mantissas = np.ldexp(fractions, _MANTISSA_BITS).astype(np.int64)
    places, inverse = np.unique(exponents.astype(np.int64) + powers - _MANTISSA_BITS, return_inverse=True)
    halves = np.zeros((2, len(places)), dtype=np.int64)
    np.add.at(halves[0], inverse, mantissas >> _HALF)
    np.add.at(halves[1], inverse, mantissas & ((1 << _HALF) - 1))
    cells: Cells = {}
    for place, high, low in zip(places.tolist(), *halves.tolist(), strict=True):
        cell, shift = divmod(place, CELL_BITS)
        cells[cell] = cells.get(cell, 0) + (((high << _HALF) + low) << shift)
    return cells


def squares(values: np.ndarray) -> Cells:
    """The sum of the squares of finite floats [N]."""
    fractions, exponents = np.frexp(values)
    # A square has twice the bits: halves of a mantissa, the lower one with a sign, have products that a float holds exactly.
    high = np.ldexp(np.rint(np.ldexp(fractions, 26)), -26)
    low = fractions - high
    powers = 2 * exponents.astype(np.int64)
    return add(exact_sum(part, powers) for part in (high * high, 2 * high * low, low * low))


def sum_of_exps(logs: np.ndarray) -> Cells:
    """The sum of exp of finite floats [N], each of which is rounded once, whether or not a float could hold it."""
    powers = np.floor(np.clip(logs / math.log(2), -(2.0**62), 2.0**62))
    rest = np.clip((logs - powers * _LOG2[0]) - powers * _LOG2[1], 0.0, 1.0)
    return exact_sum(np.exp(rest), powers.astype(np.int64))


def log_of(cells: Mapping[int, int]) -> float:
    """The logarithm of a sum of positive numbers."""
    bottom = max(cells) - _TOP_CELLS
    whole = sum(value << CELL_BITS * (cell - bottom) for cell, value in cells.items() if cell >= bottom)
    return math.log(whole) + CELL_BITS * bottom * math.log(2)


def add(parts: Iterable[Mapping[int, int]]) -> Cells:
    """The sum of sums."""
    total: Counter[int] = Counter()
    for part in parts:
        for cell, value in part.items():
            total[cell] += value
    return dict(total)


def value_of(cells: Mapping[int, int]) -> Fraction:
    """The sum as a fraction."""
    return sum((Fraction(value) * Fraction(2) ** (CELL_BITS * cell) for cell, value in cells.items()), Fraction(0))
