"""Mean and deviation of numbers that come in parts.

Those of the parts are merged as Chan, Golub and LeVeque do ("Updating formulae and a pairwise algorithm for computing sample
variances", 1979): from differences, in which nothing cancels as it does between a mean of squares and a squared mean. What is
kept of the squared differences is the root of their mean: their sum overflows where the numbers do not, as the perplexities of
whole sequences show, which reach 1e300.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Of `count` numbers their mean and their deviation (root of the mean squared difference from it); zeros for none."""

    count: int
    mean: float
    deviation: float


def moments(values: np.ndarray) -> Moments:
    """Of finite numbers [N]; finite whatever they are."""
    if not len(values):
        return Moments(0, 0.0, 0.0)
    _, exponent = math.frexp(float(np.abs(values).max()))
    scaled = np.ldexp(values.astype(np.float64), -exponent)  # by a power of two, which rounds nothing, to at most 1
    mean = float(scaled.mean())
    deviation = math.sqrt(float(((scaled - mean) ** 2).mean()))
    return Moments(len(values), math.ldexp(mean, exponent), math.ldexp(deviation, exponent))


def merge(parts: Iterable[Moments]) -> Moments:
    """The moments of all numbers of several parts together."""
    merged = Moments(0, 0.0, 0.0)
    for part in parts:
        if part.count:
            merged = _merge_two(merged, part)
    return merged


def _merge_two(left: Moments, right: Moments) -> Moments:
    count = left.count + right.count
    share_left, share_right = left.count / count, right.count / count
    # Halves and doubled again: the difference of the largest numbers of both signs would overflow.
    between = 2 * math.sqrt(share_left * share_right) * (right.mean / 2 - left.mean / 2)
    deviation = math.hypot(math.sqrt(share_left) * left.deviation, math.sqrt(share_right) * right.deviation, between)
    return Moments(count, share_left * left.mean + share_right * right.mean, deviation)
