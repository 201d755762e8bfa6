"""Scales of the charts: where a column's values lie, in a space in which a histogram of them can be read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RATIOS = {"ifd"}
POSITIVE = RATIOS | {"ppl"}
_ENDS = (0.005, 0.995)  # quantiles at which a chart ends; what lies beyond counts in its outermost bins


@dataclass(frozen=True)
class Scale:
    """A scale from `low` to `high`: `log`, or `symlog`, which is linear around `origin`, by about `constant` to each side."""

    kind: str
    low: float
    high: float
    constant: float = 1.0
    origin: float = 0.0

    def forward(self, values: np.ndarray) -> np.ndarray:
        """Float64 [N]: values in the space in which bins are of one width."""
        if self.kind == "log":
            return np.asarray(np.log(values))
        away = values - self.origin
        return np.asarray(np.sign(away) * np.log1p(np.abs(away) / self.constant))

    def back(self, places: np.ndarray) -> np.ndarray:
        """Float64 [N]: the values at places of that space."""
        if self.kind == "log":
            return np.asarray(np.exp(places))
        return np.asarray(np.sign(places) * np.expm1(np.abs(places)) * self.constant + self.origin)

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
        return np.asarray(np.clip(((places - first) / (last - first) * bins).astype(np.int64), 0, bins - 1))

    def ticks(self, count: int = 7) -> list[float]:
        """Values to name on an axis: about so many, each with one digit, or one beside the origin."""
        ends = self.forward(np.array([self.low, self.high]))
        away = self.back(np.linspace(ends[0], ends[1], count)) - self.origin
        near = [abs(value) < 10 * abs(self.origin) for value in away]
        values = {
            float(f"{value:.1g}") + self.origin if close else float(f"{value + self.origin:.1g}")
            for value, close in zip(away, near, strict=True)
        }
        if self.low < 0 < self.high:
            values.add(0.0)
        return sorted(value for value in values if self.low <= value <= self.high)


def scale_of(values: np.ndarray, column: str) -> Scale | None:
    """The scale of the finite values of a column; None where there are none. Ratios are on a logarithmic scale; what has a
    fixed end, as perplexity has at 1 and tss_pp at 0, is stretched towards it, where most rows may be."""
    values = values[np.isfinite(values) & ((values > 0) | (column not in POSITIVE))]
    if not len(values):
        return None
    low, high = (float(end) for end in np.quantile(values, _ENDS))
    if not low < high:  # all are alike
        width = abs(low) * 0.1 or 1.0
        low, high = (low / 1.1, low * 1.1) if column in POSITIVE else (low - width, high + width)
    if column in RATIOS:
        return Scale("log", low, high)
    origin = 1.0 if column == "ppl" else 0.0
    away = np.abs(values - origin)
    mixed = low < origin < high
    constant = float(np.quantile(away, 0.5 if mixed else 0.1))
    return Scale("symlog", low, high, max(constant, 1e-12 * max(abs(low - origin), abs(high - origin))), origin)
