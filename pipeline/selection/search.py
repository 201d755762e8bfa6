"""Where budgets end in rankings: histograms of all parts, digit by digit, for several rankings and budgets in each pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from operators.selection import budget
from pipeline.engine.job import execute, over_parts, stream
from pipeline.selection import passes as passes
from pipeline.storage.parts import Record


@dataclass(frozen=True)
class Search:
    """A ranking, and the ends of its budgets as far as they are known; `eligible` rows after the first pass."""

    ranking: passes.Ranking
    cuts: dict[str, budget.Cut]
    eligible: int = 0

    def ends(self) -> dict[str, Any]:
        """The ranking and the prefix at which each budget ends, in a form that travels to tasks."""
        prefixes = {name: None if cut.prefix is None else list(cut.prefix) for name, cut in self.cuts.items()}
        return {"ranking": asdict(self.ranking), "prefixes": prefixes}


def slim(scored: list[Record]) -> list[Record]:
    """What a pass needs of the records of SCORED parts."""
    return [{name: record[name] for name in ("path", "block")} for record in scored]


def find_ends(stage: str, parts: list[Record], searches: list[Search], passed: Callable[[], None]) -> list[Search]:
    """All searches at their end; `passed` is called after each pass over the parts."""
    first = True
    while any(not cut.done for search in searches for cut in search.cuts.values()):
        searches = _deeper(stage, parts, searches, first)
        first = False
        passed()
    return searches


def _deeper(stage: str, parts: list[Record], searches: list[Search], first: bool) -> list[Search]:
    """All open cuts one digit deeper, with the sum of all parts' histograms."""
    wanted = [
        {
            "ranking": asdict(search.ranking),
            "prefixes": {name: list(cut.prefix or ()) for name, cut in search.cuts.items() if not cut.done},
        }
        for search in searches
    ]
    shape = (2, 1 << budget.DIGIT_BITS)  # cost and rows
    sums = {(n, name): np.zeros(shape, dtype=np.int64) for n, one in enumerate(wanted) for name in one["prefixes"]}
    for record in stream(stage, over_parts(parts, passes.histogram_of_part, searches=wanted)):
        found = sums[record["search"], record["budget"]]
        found[0, record["bins"]] += np.array(record["costs"], dtype=np.int64)
        found[1, record["bins"]] += np.array(record["rows"], dtype=np.int64)
    cuts: list[dict[str, budget.Cut]] = [dict(search.cuts) for search in searches]
    eligible = [0] * len(searches)
    for (n, name), (costs, rows) in sums.items():
        bins = np.flatnonzero(rows)
        cuts[n][name] = cuts[n][name].advance(bins, costs[bins], rows[bins])
        eligible[n] += int(rows.sum())
    return [
        replace(search, cuts=cuts[n], eligible=eligible[n] if first else search.eligible)
        for n, search in enumerate(searches)
    ]


def sweep(stage: str, parts: list[Record], function: Any, **kwargs: Any) -> list[Record]:
    """One pass over the parts; its records."""
    return execute(stage, over_parts(parts, function, **kwargs))
