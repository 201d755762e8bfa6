"""Where budgets end in rankings: histograms of all parts, digit by digit, for several rankings and budgets in each pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.selection import budget
from pipeline.engine.job import mapped, over_parts, tables
from pipeline.engine.light_pass import light_tables
from pipeline.selection.passes import HISTOGRAM, add_up, histogram_of_parts
from pipeline.selection.ranking import Ranking
from pipeline.storage.records import BlockPart

# Histograms of so many rows go from their tasks to the driver. Those of more meet in tasks first, digit by digit, in so many
# shares: what the driver gets is then one row for each digit that occurs.
_ROWS_FOR_DRIVER = 50_000_000
_SHARES = 16
_HELD_ROWS = 1 << 20  # of histograms that the driver adds up together


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

    def open(self) -> dict[str, list[int]]:
        """The prefix up to which each budget has been searched whose end is not known yet."""
        return {name: list(cut.prefix or ()) for name, cut in self.cuts.items() if not cut.done}


def find_ends(stage: str, parts: list[BlockPart], searches: list[Search], passed: Callable[[], None]) -> list[Search]:
    """All searches at their end; `passed` is called after each pass over the parts."""
    first = True
    while any(search.open() for search in searches):
        searches = advanced(searches, _histograms(stage, parts, asked(searches)), first)
        first = False
        passed()
    return searches


def asked(searches: list[Search]) -> list[dict[str, Any]]:
    """What tasks count for these searches."""
    return [{"ranking": asdict(search.ranking), "prefixes": search.open()} for search in searches]


def advanced(searches: list[Search], sums: pa.Table, first: bool) -> list[Search]:
    """All open cuts one digit deeper, by HISTOGRAM of all parts."""
    deeper = []
    for number, search in enumerate(searches):
        of_search = sums.filter(pc.equal(sums["search"], number))
        cuts = dict(search.cuts)
        for place, name in enumerate(search.open()):
            of_cut = of_search.filter(pc.equal(of_search["budget"], place))
            # Each digit that occurs has a unit: turns share the key of the first one, wherever it lies.
            cuts[name] = cuts[name].advance(*(of_cut[column].to_numpy() for column in ("digit", "cost", "units")))
        rows = int(pc.sum(of_search["rows"]).as_py() or 0)
        deeper.append(replace(search, cuts=cuts, eligible=rows if first else search.eligible))
    return deeper


def _histograms(stage: str, parts: list[BlockPart], wanted: list[dict[str, Any]]) -> pa.Table:
    """HISTOGRAM of all parts, by digit."""
    if sum(record.part.rows for record in parts) > _ROWS_FOR_DRIVER:
        dataset = over_parts(parts, histogram_of_parts, searches=wanted)
        counted = tables(stage, mapped(dataset.repartition(_SHARES, keys=["digit"]), add_up))
    else:
        counted = light_tables(stage, parts, histogram_of_parts, searches=wanted)
    sums = HISTOGRAM.empty_table()
    for table in counted:
        sums = pa.concat_tables([sums, table.cast(HISTOGRAM)])
        if len(sums) > _HELD_ROWS:
            sums = add_up(sums)
    return add_up(sums)
