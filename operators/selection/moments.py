"""Count, mean and spread of numbers that lie in many parts, merged without cancellation and without overflow.

Source: Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979). They merge
M2, the sum of squared deviations; its root is kept here instead, so that numbers near the largest float do not overflow.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """How many numbers, their mean, and the root of the sum of their squared deviations from it."""

    count: int
    mean: float
    root_m2: float

    @property
    def deviation(self) -> float:
        """The standard deviation of all of them (not of a sample); 0.0 where there are none."""
        return self.root_m2 / math.sqrt(self.count) if self.count else 0.0


def moments_of(values: np.ndarray) -> Moments:
    """Moments of finite float64 values [N]."""
    if not len(values):
        return Moments(0, 0.0, 0.0)
    # A power of two, by which no digit is lost.
    scale = math.ldexp(1.0, max(-1000, math.frexp(float(np.abs(values).max()))[1] - 1))
    scaled = values / scale
    mean = float(scaled.mean())
    return Moments(len(values), mean * scale, float(np.linalg.norm(scaled - mean)) * scale)


def merged(parts: Iterable[Moments]) -> Moments:
    """Moments of the numbers of all parts together."""
    return functools.reduce(_merge, parts, Moments(0, 0.0, 0.0))


def _merge(a: Moments, b: Moments) -> Moments:
    count = a.count + b.count
    if not a.count or not b.count:
        return b if not a.count else a
    share = b.count / count
    between = abs(b.mean - a.mean) * math.sqrt(a.count * share)
    return Moments(count, a.mean + (b.mean - a.mean) * share, math.hypot(a.root_m2, b.root_m2, between))
