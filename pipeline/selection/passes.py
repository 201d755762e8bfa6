"""What selection does to each scored part: totals, caps, histograms, and the choice itself.

Every pass reads a few columns and returns numbers of bounded size. All conditions are predicates of a row alone (`where`, a
cut per capped group, a cut per budget), so the last pass needs no join. A unit is a row, or a conversation whose turns share a
key.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from operators.schema import SCORED, SELECTED
from operators.selection import budget, filter, ranking_key
from pipeline.selection.ranking import (
    GROUP_CUTS,
    WHOLE,
    Eligible,
    Ranking,
    block_path,
    costs_of,
    eligible,
    groups_of,
    inside_budgets,
    read_scored,
)
from pipeline.storage.parts import read_table, write_part, write_table
from pipeline.storage.records import BlockPart, Part, record_table, records_of

ROWS_PER_FILE = 100_000
CommonRows = list[list[int]]  # how many rows of a part each two rankings select, and each alone
FileRows = list[int]  # rows of a part by output file
_CHOSEN = pa.schema([*SCORED, pa.field("order", pa.uint64()), pa.field("unit", pa.string())])


@dataclass(frozen=True)
class PartTotals:
    """The rows of a part and their cost."""

    rows: int
    total: int


@dataclass(frozen=True)
class Histogram:
    """Of one ranking and one of its budgets: cost and units of a part by the next digit of the selection key, and the rows that
    may be taken. A unit counts where its first row is."""

    search: int
    budget: str
    bins: list[int]
    costs: list[int]
    units: list[int]
    eligible: int


@dataclass(frozen=True)
class PartReach:
    """Rows of a block without a tss_pp: among those up to the budget's end, and among those that reach a threshold."""

    block: int
    without_score: int
    open: int


@dataclass(frozen=True)
class ChosenPart:
    """The chosen rows of a block, a sample of their orders, and how many they are by source."""

    part: Part
    orders: list[int]
    sources: dict[str, int]


def totals_of_part(batch: pa.Table, *, cost: str) -> pa.Table:
    """Records of PartTotals."""
    records = []
    for scored in records_of(BlockPart, batch):
        table = read_table(scored.part.path, ["n_prompt_tokens", "n_target_tokens"])
        records.append(PartTotals(len(table), int(costs_of(table, cost).sum())))
    return record_table(records)


def caps_of_part(batch: pa.Table, *, ranking: dict[str, Any], column: str, n: int) -> Iterable[pa.Table]:
    """The `n` best eligible units of each group within a part: all that a cap can still need of it."""
    chosen = Ranking(**ranking)
    for scored in records_of(BlockPart, batch):
        columns = filter.needed_columns({*chosen.columns(), column})
        rows = eligible(read_scored(scored, chosen, columns), chosen, scored.block)
        blocks = pa.array([scored.block] * len(rows.table), pa.int64())
        groups = pa.array(groups_of(rows.table, chosen, column), pa.string())
        units = pa.array(rows.units.tolist(), pa.string())
        table = pa.table([blocks, groups, pa.array(rows.orders), units], schema=GROUP_CUTS)
        yield table.take(pa.array(_best(table, n)))


def cuts_of_groups(batch: pa.Table, *, n: int) -> pa.Table:
    """For each group and each block that has rows of it, the last row that a cap admits; all rows of a group are in `batch`."""
    best = batch.take(pa.array(_best(batch, n)))
    last: dict[str, int] = {}
    count: dict[str, int] = {}
    for place, group in enumerate(best["group"].to_pylist()):
        last[group], count[group] = place, count.get(group, 0) + 1
    orders, ids = best["order"].to_pylist(), best["id"].to_pylist()
    cuts = []
    for block, group in sorted(set(zip(batch["block"].to_pylist(), batch["group"].to_pylist(), strict=True))):
        cut = last[group] if count[group] == n else None
        order, id = (None, None) if cut is None else (orders[cut], ids[cut])
        cuts.append({"block": block, "group": group, "order": order, "id": id})
    return pa.Table.from_pylist(cuts, schema=GROUP_CUTS)


def write_cuts(batch: pa.Table, *, folder: str) -> pa.Table:
    """Write the cuts of each block's own groups; all cuts of a block are in `batch`."""
    blocks = batch["block"].to_numpy()
    return record_table(
        write_table(block_path(folder, int(block)), batch.filter(pa.array(blocks == block)))
        for block in np.unique(blocks)
    )


def _best(rows: pa.Table, n: int) -> np.ndarray:
    """Places of the `n` best units of each group; one that several rows or blocks report counts once."""
    groups, ids = (np.array(rows[name].to_pylist(), dtype=str) for name in ("group", "id"))
    _, firsts = np.unique(ids, return_index=True)
    return np.asarray(
        firsts[ranking_key.best_of_groups(groups[firsts], rows["order"].to_numpy()[firsts], ids[firsts], n)]
    )


def histogram_of_part(batch: pa.Table, *, searches: list[dict[str, Any]]) -> pa.Table:
    """For each ranking and each of its budgets under search: cost and units by the next digit of the selection key."""
    rankings, records = [Ranking(**search["ranking"]) for search in searches], []
    for scored in records_of(BlockPart, batch):
        passing = _passing(read_scored(scored, rankings[0], _columns_of(rankings)), rankings)
        for number, (ranking, search) in enumerate(zip(rankings, searches, strict=True)):
            prefixes = search["prefixes"]
            if not prefixes:
                continue
            rows = eligible(passing[ranking.where], replace(ranking, where=None), scored.block)
            digits = rows.digits()
            for name, drawing in inside_budgets(rows.table, ranking, prefixes).items():
                prefix = tuple(prefixes[name])
                bins, costs, units = budget.histogram(
                    digits[drawing], rows.costs[drawing], rows.firsts[drawing], prefix
                )
                counts = (bins.tolist(), costs.tolist(), units.tolist())
                records.append(Histogram(number, name, *counts, eligible=int(drawing.sum())))
    return record_table(records)


def overlap_of_part(batch: pa.Table, *, searches: list[dict[str, Any]]) -> pa.Table:
    """How many rows of a part each two of the rankings select, and each alone, given where their one budget ends."""
    rankings, records = [Ranking(**search["ranking"]) for search in searches], []
    for scored in records_of(BlockPart, batch):
        whole = read_scored(scored, rankings[0], _columns_of(rankings))
        passing = _passing(whole.append_column("row", pa.array(np.arange(len(whole)))), rankings)
        chosen = np.zeros((len(rankings), len(whole)), dtype=np.int64)
        for number, (ranking, search) in enumerate(zip(rankings, searches, strict=True)):
            rows = eligible(passing[ranking.where], replace(ranking, where=None), scored.block)
            inside = budget.below(rows.digits(), _prefix(search["prefixes"][WHOLE]))
            chosen[number, rows.table["row"].to_numpy()[inside]] = 1
        records.append((chosen @ chosen.T).tolist())
    return record_table(records)


def _passing(whole: pa.Table, rankings: list[Ranking]) -> dict[str | None, pa.Table]:
    """The rows that each filter passes, so that rankings that share one do not evaluate it again."""
    wheres = {ranking.where for ranking in rankings}
    return {
        where: whole.filter(pa.array(filter.evaluate(filter.parse(where), whole))) if where else whole
        for where in wheres
    }


def _columns_of(rankings: list[Ranking]) -> list[str]:
    return filter.needed_columns({name for ranking in rankings for name in ranking.columns()})


def _prefix(listed: list[int] | None) -> tuple[int, ...] | None:
    return None if listed is None else tuple(listed)


def reach_of_part(
    batch: pa.Table, *, ranking: dict[str, Any], prefixes: dict[str, list[int] | None], threshold: float
) -> pa.Table:
    """Records of PartReach: `prefixes` says where the budget ends."""
    chosen, records = Ranking(**ranking), []
    for scored in records_of(BlockPart, batch):
        rows = eligible(read_table(scored.part.path, chosen.columns()), chosen, scored.block)
        unscored = np.isnan(filter.numeric(rows.table, "tss_pp"))
        inside = budget.within(rows.digits(), _prefix(prefixes["asked"]))
        reaches = filter.numeric(rows.table, "tss_pp_bound") >= threshold
        records.append(PartReach(scored.block, int((inside & unscored).sum()), int((reaches & unscored).sum())))
    return record_table(records)


def choose_of_part(
    batch: pa.Table, *, ranking: dict[str, Any], prefixes: dict[str, list[int] | None], work: str, sample: int
) -> pa.Table:
    """Write the rows of a part that every cut admits, with a sample of their orders for the boundaries of the output files."""
    chosen, records = Ranking(**ranking), []
    for scored in records_of(BlockPart, batch):
        rows = eligible(read_scored(scored, chosen), chosen, scored.block)
        inside = _inside_cuts(rows, chosen, prefixes)
        orders, units = rows.orders[inside], pa.array(rows.units[inside].tolist(), pa.string())
        taken = rows.table.select(SCORED.names).filter(pa.array(inside))
        taken = taken.append_column("order", pa.array(orders)).append_column("unit", units)
        if len(taken):
            spread = np.linspace(0, len(taken) - 1, min(sample, len(taken))).astype(int)
            sources = {source["values"]: source["counts"] for source in taken["source"].value_counts().to_pylist()}
            part = write_part(f"{work}/chosen", taken, _CHOSEN)
            records.append(ChosenPart(part, np.sort(orders)[spread].tolist(), sources))
    return record_table(records)


def _inside_cuts(rows: Eligible, ranking: Ranking, prefixes: dict[str, list[int] | None]) -> np.ndarray:
    """Bool [N]: whether each row stands before the end of the budget that it draws on."""
    digits = rows.digits()
    inside = np.zeros(len(rows.table), dtype=bool)
    for name, drawing in inside_budgets(rows.table, ranking, prefixes).items():
        inside |= drawing & budget.below(digits, _prefix(prefixes[name]))
    return inside


def file_of_rows(batch: pa.Table, *, boundaries: list[int]) -> Iterable[pa.Table]:
    """The chosen rows of recorded parts with the number of the output file that each belongs to."""
    for part in records_of(Part, batch):
        table = read_table(part.path)
        numbers = np.searchsorted(np.array(boundaries, dtype=np.uint64), table["order"].to_numpy(), side="right")
        yield table.append_column("output_file", pa.array(numbers, pa.int64()))


def count_files(batch: pa.Table, *, boundaries: list[int]) -> pa.Table:
    """Rows of recorded parts by output file."""
    records = []
    for part in records_of(Part, batch):
        orders = read_table(part.path, ["order"])["order"].to_numpy()
        numbers = np.searchsorted(np.array(boundaries, dtype=np.uint64), orders, side="right")
        records.append(np.bincount(numbers, minlength=len(boundaries) + 1).tolist())
    return record_table(records)


def write_ranked(batch: pa.Table, *, offsets: list[int], work: str) -> pa.Table:
    """Write one output file: its rows best first, turns of a conversation in their order, with their rank in the whole
    selection."""
    if not len(batch):
        return record_table([])
    file = batch["output_file"][0].as_py()
    rows = batch.sort_by([(name, "ascending") for name in ("order", "unit", "turn", "id")])
    ranks = pa.array(np.arange(offsets[file], offsets[file] + len(rows)), pa.int64())
    table = rows.drop_columns(["order", "unit", "output_file"]).append_column("selection_rank", ranks)
    return record_table([BlockPart(file, write_part(f"{work}/selected", table, SELECTED))])
