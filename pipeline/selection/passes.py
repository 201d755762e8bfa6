"""What selection does to scored parts: totals, caps, histograms, and the choice itself.

Every pass reads a few columns of several parts and returns one record for all of them, of a size that does not grow with parts
or rows; sums of integers are the same however parts are divided into tasks. All conditions are predicates of a row alone
(`where`, a cut per capped group, a cut per budget), so the last pass needs no join. A unit is a row, or a conversation whose
turns share a key.
"""

from __future__ import annotations

from collections import Counter
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
    units_of,
)
from pipeline.storage.parts import read_table, write_part, write_table
from pipeline.storage.records import BlockPart, Part, record_table, records_of

ROWS_PER_FILE = 100_000
CommonRows = list[list[int]]  # how many rows each two rankings select, and each alone
FileRows = list[int]  # rows by output file
_CHOSEN = pa.schema([*SCORED, pa.field("order", pa.uint64()), pa.field("unit", pa.string())])
# By the next digit of the selection key, cost and units of the rows that draw on a budget of a ranking, both by their places in
# what was asked. A unit counts where its first row is.
HISTOGRAM = pa.schema(
    [
        pa.field("search", pa.int32()),
        pa.field("budget", pa.int32()),
        pa.field("digit", pa.int32()),
        pa.field("cost", pa.int64()),
        pa.field("units", pa.int64()),
        pa.field("rows", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Totals:
    """The rows of parts and their cost."""

    rows: int
    total: int


@dataclass(frozen=True)
class Reached:
    """Rows without a tss_pp: among those up to the budget's end, and by block among those that reach a threshold."""

    without_score: int
    open: dict[int, int]


@dataclass(frozen=True)
class Chosen:
    """The chosen rows of parts, a sample of their keys in hexadecimal, and how many they are by source."""

    parts: list[Part]
    sample: list[str]
    sources: dict[str, int]


def totals_of_parts(batch: pa.Table, *, cost: str) -> pa.Table:
    """A record of Totals."""
    rows, total = 0, 0
    for scored in records_of(BlockPart, batch):
        table = read_table(scored.part.path, ["n_prompt_tokens", "n_target_tokens"])
        rows, total = rows + len(table), total + int(costs_of(table, cost).sum())
    return record_table([Totals(rows, total)])


def caps_of_part(batch: pa.Table, *, ranking: dict[str, Any], column: str, n: int) -> Iterable[pa.Table]:
    """The `n` best eligible units of each group within a part: all that a cap can still need of it."""
    chosen = Ranking(**ranking)
    for scored in records_of(BlockPart, batch):
        columns = filter.needed_columns({*chosen.columns(), column})
        rows = eligible(read_scored(scored, chosen, columns), chosen, scored.block)
        groups = groups_of(rows.table, chosen, column)
        best = pa.array(ranking_key.best_of_groups(_numbers(groups), rows.keys, n))
        blocks = pa.array(np.full(len(best), scored.block))
        units = units_of(rows, chosen).take(best)
        yield pa.table([blocks, groups.take(best), pa.array(rows.keys[0]).take(best), units], schema=GROUP_CUTS)


def cuts_of_groups(batch: pa.Table, *, n: int) -> pa.Table:
    """For each group and each block that has rows of it, the last row that a cap admits; all rows of a group are in `batch`."""
    names = batch["group"].combine_chunks().dictionary_encode()
    groups = names.indices.to_numpy(False)
    best = ranking_key.best_of_groups(groups, ranking_key.keys_of(batch["order"].to_numpy(), batch["id"]), n)
    sizes = np.bincount(groups[best], minlength=len(names.dictionary))
    last = best[np.cumsum(sizes) - 1] if len(best) else best
    pairs = np.unique(np.stack([batch["block"].to_numpy(), groups], axis=1), axis=0)
    cut = pa.array(last[pairs[:, 1]], mask=sizes[pairs[:, 1]] < n) if len(pairs) else pa.array([], pa.int64())
    columns = [pa.array(pairs[:, 0]), names.dictionary.take(pa.array(pairs[:, 1]))]
    return pa.table([*columns, batch["order"].take(cut), batch["id"].take(cut)], schema=GROUP_CUTS)


def write_cuts(batch: pa.Table, *, folder: str) -> pa.Table:
    """Write the cuts of each block's own groups; all cuts of a block are in `batch`."""
    return record_table(write_table(block_path(folder, block), table) for block, table in by_blocks(batch))


def by_blocks(rows: pa.Table) -> Iterable[tuple[int, pa.Table]]:
    """The rows of each block, in the order in which they are."""
    rows = rows.take(pa.array(np.argsort(rows["block"].to_numpy(), kind="stable")))
    blocks, starts = np.unique(rows["block"].to_numpy(), return_index=True)
    sizes = np.diff([*starts, len(rows)])
    for block, start, size in zip(blocks.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        yield block, rows.slice(start, size)


def _numbers(names: pa.Array) -> np.ndarray:
    """Int [N]: a number for each distinct text."""
    numbers: np.ndarray = names.dictionary_encode().indices.to_numpy(False)
    return numbers


def histogram_of_parts(batch: pa.Table, *, searches: list[dict[str, Any]]) -> pa.Table:
    """HISTOGRAM of all parts together, under the prefix to which each budget of each ranking has been searched."""
    rankings = [Ranking(**search["ranking"]) for search in searches]
    ids = any(
        len(prefix) >= ranking_key.DIGITS_OF_WORD for search in searches for prefix in search["prefixes"].values()
    )
    columns, counts = _columns_of(rankings, ids), [HISTOGRAM.empty_table()]
    for scored in records_of(BlockPart, batch):
        passing = _passing(read_scored(scored, rankings[0], columns), rankings)
        for number, (ranking, search) in enumerate(zip(rankings, searches, strict=True)):
            if prefixes := search["prefixes"]:
                rows = eligible(passing[ranking.where], replace(ranking, where=None), scored.block)
                counts += _histograms(rows, ranking, number, prefixes)
    return add_up(pa.concat_tables(counts))


def _histograms(rows: Eligible, ranking: Ranking, number: int, prefixes: dict[str, list[int]]) -> Iterable[pa.Table]:
    """HISTOGRAM of a part under each prefix."""
    for place, (name, drawing) in enumerate(inside_budgets(rows.table, ranking, prefixes).items()):
        keys, costs, firsts = rows.keys[:, drawing], rows.costs[drawing], rows.firsts[drawing]
        bins, *counts = budget.histogram(keys, costs, firsts, tuple(prefixes[name]))
        named = [np.full(len(bins), value) for value in (number, place)]
        yield pa.table([*named, bins, *counts], schema=HISTOGRAM)


def add_up(histograms: pa.Table) -> pa.Table:
    """HISTOGRAM with the sums of all rows for the same digit, in the order of digits."""
    names = ["search", "budget", "digit"]
    sums = histograms.group_by(names).aggregate([(name, "sum") for name in ("cost", "units", "rows")])
    return sums.rename_columns({f"{name}_sum": name for name in ("cost", "units", "rows")}).sort_by(
        [(name, "ascending") for name in names]
    )


def overlap_of_parts(batch: pa.Table, *, searches: list[dict[str, Any]]) -> pa.Table:
    """How many rows each two of the rankings select, and each alone, given where their one budget ends."""
    rankings = [Ranking(**search["ranking"]) for search in searches]
    ends = [_prefix(search["prefixes"][WHOLE]) for search in searches]
    columns = _columns_of(rankings, any(len(end or ()) > ranking_key.DIGITS_OF_WORD for end in ends))
    common = np.zeros((len(rankings), len(rankings)), dtype=np.int64)
    for scored in records_of(BlockPart, batch):
        whole = read_scored(scored, rankings[0], columns)
        passing = _passing(_numbered(whole), rankings)
        chosen = np.zeros((len(rankings), len(whole)))
        for number, (ranking, end) in enumerate(zip(rankings, ends, strict=True)):
            rows = eligible(passing[ranking.where], replace(ranking, where=None), scored.block)
            chosen[number, rows.table["row"].to_numpy()[budget.below(rows.keys, end)]] = 1
        common += (chosen @ chosen.T).astype(np.int64)  # floats hold the counts of a part exactly, and multiply faster
    return record_table([common.tolist()])


def _passing(whole: pa.Table, rankings: list[Ranking]) -> dict[str | None, pa.Table]:
    """The rows that each filter passes, so that rankings that share one do not evaluate it again."""
    wheres = {ranking.where for ranking in rankings}
    return {
        where: whole.filter(pa.array(filter.evaluate(filter.parse(where), whole))) if where else whole
        for where in wheres
    }


def _columns_of(rankings: list[Ranking], ids: bool) -> list[str]:
    return filter.needed_columns({name for ranking in rankings for name in ranking.columns(ids)})


def _prefix(listed: list[int] | None) -> tuple[int, ...] | None:
    return None if listed is None else tuple(listed)


def reach_of_parts(
    batch: pa.Table, *, ranking: dict[str, Any], prefixes: dict[str, list[int] | None], threshold: float
) -> pa.Table:
    """A record of Reached: `prefixes` says where the budget ends."""
    chosen, without_score, above = Ranking(**ranking), 0, {}
    for scored in records_of(BlockPart, batch):
        rows = eligible(read_table(scored.part.path, chosen.columns()), chosen, scored.block)
        unscored = np.isnan(filter.numeric(rows.table, "tss_pp"))
        without_score += int((budget.within(rows.keys, _prefix(prefixes["asked"])) & unscored).sum())
        above[scored.block] = int(((filter.numeric(rows.table, "tss_pp_bound") >= threshold) & unscored).sum())
    return record_table([Reached(without_score, above)])


def choose_of_parts(
    batch: pa.Table, *, ranking: dict[str, Any], prefixes: dict[str, list[int] | None], work: str, every: int
) -> pa.Table:
    """Write the rows of parts that every cut admits. The boundaries of the output files are drawn from a sample of their units,
    about one of `every`: the same ones however rows are divided into parts."""
    chosen, parts, sample, sources = Ranking(**ranking), [], [], Counter[str]()
    for scored in records_of(BlockPart, batch):
        columns = filter.needed_columns(set(chosen.columns()))
        rows = eligible(_numbered(read_scored(scored, chosen, columns)), chosen, scored.block)
        inside = np.flatnonzero(_inside_cuts(rows, chosen, prefixes))
        if not len(inside):
            continue
        keys, units = rows.keys[:, inside], units_of(rows, chosen).take(pa.array(inside))
        table = read_table(scored.part.path, SCORED.names).take(rows.table["row"].take(pa.array(inside)))
        table = table.append_column("order", pa.array(keys[0])).append_column("unit", units)
        parts.append(write_part(f"{work}/chosen", table, _CHOSEN))
        drawn = keys[2] % np.uint64(every) == 0  # ids are hashes
        sample += [key.hex() for key in ranking_key.sortable(keys[:, drawn]).tolist()]
        sources.update({row["values"]: row["counts"] for row in table["source"].value_counts().to_pylist()})
    return record_table([Chosen(parts, sample, dict(sources))])


def _numbered(table: pa.Table) -> pa.Table:
    """A table with the place of each row."""
    return table.append_column("row", pa.array(np.arange(len(table))))


def _inside_cuts(rows: Eligible, ranking: Ranking, prefixes: dict[str, list[int] | None]) -> np.ndarray:
    """Bool [N]: whether each row stands before the end of the budget that it draws on."""
    inside = np.zeros(len(rows.table), dtype=bool)
    for name, drawing in inside_budgets(rows.table, ranking, prefixes).items():
        inside |= drawing & budget.below(rows.keys, _prefix(prefixes[name]))
    return inside


def file_of_rows(batch: pa.Table, *, boundaries: list[str]) -> Iterable[pa.Table]:
    """The chosen rows of recorded parts with the number of the output file that each belongs to."""
    for part in records_of(Part, batch):
        table = read_table(part.path)
        yield table.append_column("output_file", pa.array(_files_of(table, boundaries), pa.int64()))


def count_files(batch: pa.Table, *, boundaries: list[str]) -> pa.Table:
    """Rows of recorded parts by output file."""
    counts = np.zeros(len(boundaries) + 1, dtype=np.int64)
    for part in records_of(Part, batch):
        counts += np.bincount(_files_of(read_table(part.path, ["order", "unit"]), boundaries), minlength=len(counts))
    return record_table([counts.tolist()])


def _files_of(chosen: pa.Table, boundaries: list[str]) -> np.ndarray:
    """Int64 [N]: how many boundaries do not stand after each row; turns of a conversation share its key."""
    keys = ranking_key.sortable(ranking_key.keys_of(chosen["order"].to_numpy(), chosen["unit"]))
    edges = np.array([bytes.fromhex(boundary) for boundary in boundaries], dtype=keys.dtype)
    return np.searchsorted(edges, keys, side="right")


def write_only_file(batch: pa.Table, *, work: str) -> pa.Table:
    """Write the chosen rows of all recorded parts as the one output file."""
    return write_ranked(pa.concat_tables(file_of_rows(batch, boundaries=[])), offsets=[0], work=work)


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
