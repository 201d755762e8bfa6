"""Where budgets end in rankings: histograms of all parts, digit by digit, for several rankings and budgets in each pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from operators.selection import budget, ranking_key
from pipeline.engine.job import over_parts, stream
from pipeline.selection.passes import Histogram, histogram_of_part
from pipeline.selection.ranking import Ranking
from pipeline.storage.records import BlockPart


@dataclass(frozen=True)
class Search:
    """A ranking, and the ends of its budgets as far as they are known; `eligible` rows after the first pass."""

    ranking: Ranking
    cuts: dict[str, budget.Cut]
    eligible: int = 0

    def ends(self) -> dict[str, Any]:
        """The ranking and the prefix at which each budget ends, in a form that travels to tasks."""
        prefixes = {name: None if cut.prefix is None else list(cut.prefix) for name, cut in self.cuts.items()}
        return {"ranking": asdict(self.ranking), "prefixes": prefixes}


def find_ends(stage: str, parts: list[BlockPart], searches: list[Search], passed: Callable[[], None]) -> list[Search]:
    """All searches at their end; `passed` is called after each pass over the parts."""
    first = True
    while any(not cut.done for search in searches for cut in search.cuts.values()):
        searches = _deeper(stage, parts, searches, first)
        first = False
        passed()
    return searches


def _deeper(stage: str, parts: list[BlockPart], searches: list[Search], first: bool) -> list[Search]:
    """All open cuts one digit deeper, with the sum of all parts' histograms."""
    wanted: list[dict[str, Any]] = [
        {
            "ranking": asdict(search.ranking),
            "prefixes": {name: list(cut.prefix or ()) for name, cut in search.cuts.items() if not cut.done},
        }
        for search in searches
    ]
    shape = (2, 1 << ranking_key.DIGIT_BITS)  # cost and units
    sums = {
        (number, name): np.zeros(shape, dtype=np.int64)
        for number, search in enumerate(wanted)
        for name in search["prefixes"]
    }
    eligible = [0] * len(searches)
    for histogram in stream(stage, Histogram, over_parts(parts, histogram_of_part, searches=wanted)):
        total = sums[histogram.search, histogram.budget]
        total[0, histogram.bins] += np.array(histogram.costs, dtype=np.int64)
        total[1, histogram.bins] += np.array(histogram.units, dtype=np.int64)
        eligible[histogram.search] += histogram.eligible
    cuts: list[dict[str, budget.Cut]] = [dict(search.cuts) for search in searches]
    for (number, name), (costs, units) in sums.items():
        bins = np.flatnonzero(units)
        cuts[number][name] = cuts[number][name].advance(bins, costs[bins], units[bins])
    return [
        replace(search, cuts=cuts[number], eligible=eligible[number] if first else search.eligible)
        for number, search in enumerate(searches)
    ]
