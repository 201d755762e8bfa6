"""Scales of the charts: where a column's values lie, in a space in which a histogram of them can be read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ENDS = (0.005, 0.995)  # quantiles at which a chart ends; what lies beyond counts in its outermost bins


@dataclass(frozen=True)
class Scale:
    """A scale from `low` to `high`: `log`, or `symlog` with its constant, which is linear around 0."""

    kind: str
    low: float
    high: float
    constant: float = 1.0

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Float64 [N]: values in the space in which bins are of one width."""
        if self.kind == "log":
            return np.asarray(np.log(values))
        return np.asarray(np.sign(values) * np.log1p(np.abs(values) / self.constant))

    def back(self, places: np.ndarray) -> np.ndarray:
        """Float64 [N]: the values at places of that space."""
        if self.kind == "log":
            return np.asarray(np.exp(places))
        return np.asarray(np.sign(places) * np.expm1(np.abs(places)) * self.constant)

    def edges(self, bins: int) -> np.ndarray:
        """Float64 [bins + 1]: the ends of bins, as values."""
        ends = self.forward(np.array([self.low, self.high]))
        edges = self.back(np.linspace(ends[0], ends[1], bins + 1))
        edges[0], edges[-1] = self.low, self.high
        return edges

    def bins_of(self, values: np.ndarray, bins: int) -> np.ndarray:
        """Int64 [N]: the bin of each value; what lies beyond an end is in the outermost one."""
        first, last = self.forward(np.array([self.low, self.high]))
        places = self.forward(np.clip(values, self.low, self.high))
        return np.clip(((places - first) / (last - first) * bins).astype(np.int64), 0, bins - 1)

    def ticks(self, count: int = 5) -> list[float]:
        """Values to name on an axis: about so many, each with one digit."""
        ends = self.forward(np.array([self.low, self.high]))
        values = {float(f"{value:.1g}") for value in self.back(np.linspace(ends[0], ends[1], count))}
        if self.low < 0 < self.high:
            values.add(0.0)
        return sorted(value for value in values if self.low <= value <= self.high)


def scale_of(values: np.ndarray, *, positive: bool) -> Scale | None:
    """The scale of finite values, logarithmic for a column that is positive by its definition; None where there are none."""
    values = values[np.isfinite(values) & ((values > 0) | (not positive))]
    if not len(values):
        return None
    low, high = (float(end) for end in np.quantile(values, _ENDS))
    if not low < high:  # all are alike
        width = abs(low) * 0.1 or 1.0
        low, high = (low / 1.1, low * 1.1) if positive else (low - width, high + width)
    if positive:
        return Scale("log", low, high)
    return Scale("symlog", low, high, max(float(np.median(np.abs(values))), 1e-6 * max(abs(low), abs(high))))
