"""Mean and deviation of numbers that come in parts: of exact sums, so that neither cuts nor order move a bit of them, nothing
cancels, and nothing overflows, as perplexities of whole sequences show, which reach 1e300."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from operators.selection.exact_sum import Cells, add, exact_sum, squares, value_of

_BITS = 64  # to which a root is taken before it is rounded


@dataclass(frozen=True)
class Moments:
    """Of `count` finite numbers, their sum and that of their squares, exact."""

    count: int = 0
    sums: Cells = field(default_factory=dict)
    squares: Cells = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Their mean; 0 of none."""
        return float(value_of(self.sums) / max(1, self.count))

    @property
    def deviation(self) -> float:
        """The root of the mean squared difference from their mean; 0 of none."""
        mean = value_of(self.sums) / max(1, self.count)
        return _root(value_of(self.squares) / max(1, self.count) - mean**2)


def moments(values: np.ndarray) -> Moments:
    """Of finite numbers [N]."""
    return Moments(len(values), exact_sum(values), squares(values))


def merge(parts: Iterable[Moments]) -> Moments:
    """The moments of all numbers of several parts together."""
    every = list(parts)
    return Moments(
        sum(part.count for part in every), add(part.sums for part in every), add(part.squares for part in every)
    )


def _root(value: Fraction) -> float:
    """The square root of a fraction, whatever its size."""
    if not value:
        return 0.0
    # Scaled by a power of four to a whole number of at least twice as many bits as a root is to have.
    power = max(0, 2 * _BITS - value.numerator.bit_length() + value.denominator.bit_length()) // 2 + 1
    return float(Fraction(math.isqrt(int(value * 4**power)), 2**power))
