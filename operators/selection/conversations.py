"""Conversations as what is selected: all turns of each have one score, that of the conversation, and one place in the ranking.

A row that belongs to no conversation is a unit of its own, under its own id.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Aggregate = Literal["mean", "min"]


@dataclass(frozen=True)
class Units:
    """Rows gathered by unit: `rows`, int64 [N], places of the rows, unit after unit and in each by turn and id; `starts`, int64
    [U], where in `rows` each unit begins."""

    rows: np.ndarray
    starts: np.ndarray

    @property
    def sizes(self) -> np.ndarray:
        """Int64 [U]: rows of each unit."""
        return np.diff(np.r_[self.starts, len(self.rows)])

    def spread(self, values: np.ndarray) -> np.ndarray:
        """A value of each unit [U, ...] as one of each row [N, ...], where the rows stand."""
        result = np.empty((len(self.rows), *values.shape[1:]), dtype=values.dtype)
        result[self.rows] = np.repeat(values, self.sizes, axis=0)
        return result


def unit_names(table: pa.Table) -> list[str]:
    """The unit of each row: its conversation, or its id where it belongs to none; 32 hex characters each."""
    names: list[str] = pc.coalesce(table["conversation"], table["id"]).to_pylist()
    return names


def gather(names: Sequence[str], turns: Sequence[int | None], ids: Sequence[str]) -> Units:
    """The units of rows, of which each says its unit, its turn (None: there is none) and its id."""
    places = np.array([-1 if turn is None else turn for turn in turns], dtype=np.int64)
    units = np.array(names, dtype=str)
    rows = np.lexsort((np.array(ids, dtype=str), places, units))
    ranked = units[rows]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(rows) else np.zeros(0, dtype=np.int64)
    return Units(rows, starts)


def unit_scores(scores: np.ndarray, units: Units, aggregate: Aggregate) -> np.ndarray:
    """Float64 [U, S] from scores [N, S] of rows, finite or NaN: mean or minimum over the rows of each unit; NaN where that of
    any of them is."""
    ranked: np.ndarray = scores[units.rows]
    if not len(units.starts):
        return ranked
    result: np.ndarray = np.minimum.reduceat(ranked, units.starts, axis=0)  # in which a NaN stays
    if aggregate == "mean":
        for unit in np.flatnonzero(units.sizes > 1):
            start = units.starts[unit]
            columns = ranked[start : start + units.sizes[unit]].T.tolist()
            result[unit] = [_mean(column) for column in columns]
    return result


def _mean(values: list[float]) -> float:
    """Of a sum that is rounded once, so that it is the same whatever the order."""
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # as perplexities of whole sequences can make it
        return math.fsum(value / len(values) for value in values)
