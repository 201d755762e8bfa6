"""The selection of a published run again, in one process, as far as it says what became of one row.

The predicates are those of the run's own passes (`selection/ranking.py`); what these find digit by digit over tasks, a sort of
all keys gives here. It takes about 100 bytes of memory a row that may be selected.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.schema import SCORED
from operators.selection import filter, ranking_key
from pipeline.config_select import Select
from pipeline.selection import choose, weigh
from pipeline.selection.conversations import turns_of_part, units_of_turns
from pipeline.selection.ranking import UNITS, Ranking, eligible, groups_of, inside_budgets
from pipeline.storage.parts import read_columns
from pipeline.storage.records import BlockPart, item_table, records_of

IN_MEMORY = "in memory"  # where UNITS lie: in no folder


@dataclass(frozen=True)
class Cap:
    """A cap that a row does not pass: `before` others of its group stand before it, and `n` are taken."""

    column: str
    group: str
    n: int
    before: int


@dataclass(frozen=True)
class Budgeted:
    """Where a row stands among all that compete for its budget: `before` units stand before it, of `competing`, and the first
    `taken` fit into `room`. `key` is the number by which it is ranked, `last_key` that of the last unit taken, None where there
    is none; `used` is what those cost, `cost` what the row or its conversation does."""

    name: str  # of the group of a quota, or empty
    room: int
    used: int
    competing: int
    taken: int
    before: int
    key: float
    last_key: float | None
    cost: int


@dataclass(frozen=True)
class Replay:
    """What became of a row. Not `eligible`: it has no score, does not pass the filter, or draws on no budget, or the first two
    hold of another turn of its conversation. Else a cap left it out, or it stands somewhere under a budget."""

    eligible: bool
    cap: Cap | None = None
    budget: Budgeted | None = None

    @property
    def selected(self) -> bool:
        """Whether the row stands before the end of its budget."""
        return self.budget is not None and self.budget.before < self.budget.taken


@dataclass(frozen=True)
class _Competing:
    """All rows that may be taken: keys uint64 [3, N], costs and 1 for the first row of each unit int64 [N], the number of the
    budget that each draws on, its group by each capped column; and where among them the row is (-1: it is not)."""

    keys: np.ndarray
    costs: np.ndarray
    firsts: np.ndarray
    budgets: np.ndarray
    groups: dict[str, pa.DictionaryArray]
    row: int

    def take(self, keep: np.ndarray) -> _Competing:
        row = int(keep[: self.row].sum()) if self.row >= 0 and keep[self.row] else -1
        groups = {column: of_rows.filter(pa.array(keep)) for column, of_rows in self.groups.items()}
        return _Competing(self.keys[:, keep], self.costs[keep], self.firsts[keep], self.budgets[keep], groups, row)


def replay(scored: list[BlockPart], select: Select, seed: int, asked: int, block: int, place: int) -> Replay:
    """What a selection from SCORED parts under a budget of `asked` made of the row at a place of a block."""
    names = select.score_columns()
    parts: list[weigh.ColumnMoments] = []
    if len(names) > 1:
        parts = list(records_of(weigh.ColumnMoments, weigh.moments_of_parts(item_table(scored), names=names), "record"))
    ((column, shares),) = select.quota.items() or [(None, {})]
    cuts = choose.budgets_of(asked, shares)
    ranking = Ranking(
        select.score,
        {} if isinstance(select.score, str) else weigh.rounded_moments(names, parts),
        choose.cost_under(select),
        select.where,
        temperature=select.drawn_at,
        quota=column,
        shares=list(cuts) if column else [],
    )
    rows = _competing(scored, ranking, select, seed, list(cuts), (block, place))
    if rows.row < 0:
        return Replay(eligible=False)
    for capped, n in select.max_per.items():
        groups = rows.groups[capped]
        before = _units_before(groups.indices.to_numpy(False), rows.keys)
        if before[rows.row] >= n:
            return Replay(True, cap=Cap(capped, str(groups[rows.row]), n, int(before[rows.row])))
        rows = rows.take(before < n)
    name, cut = list(cuts.items())[int(rows.budgets[rows.row])]
    return Replay(True, budget=_budgeted(rows.take(rows.budgets == rows.budgets[rows.row]), name, cut.room))


def _competing(
    scored: list[BlockPart], ranking: Ranking, select: Select, seed: int, budgets: list[str], wanted: tuple[int, int]
) -> _Competing:
    """The rows that a ranking may take; `wanted` is the block and place of the one that is asked for."""
    gathered = None
    if select.unit == "conversation":
        ranking, gathered = _over_conversations(scored, ranking, select, seed)
    names = filter.needed_columns({*ranking.columns(), *(() if gathered is not None else select.max_per)})
    arrays: list[tuple[np.ndarray, ...]] = []
    groups: dict[str, list[pa.Array]] = {column: [] for column in select.max_per}
    row, count = -1, 0
    for record in scored:
        table = read_columns(record.part.path, pa.schema([SCORED.field(name) for name in names]))
        table = table.append_column("row", pa.array(np.arange(len(table))))
        if gathered is not None:
            units = gathered.filter(pc.equal(gathered["block"], record.block))
            for name in UNITS.names:
                table = table.append_column(name, units[name])
        rows = eligible(table, ranking, record.block)
        drawn = inside_budgets(rows.table, ranking, budgets)
        arrays.append(
            (rows.keys.T, rows.costs, rows.firsts, np.array([drawn[name] for name in budgets]).argmax(axis=0))
        )
        for column, of_parts in groups.items():
            of_parts.append(groups_of(rows.table, ranking, column))
        if record.block == wanted[0] and (here := np.flatnonzero(rows.table["row"].to_numpy() == wanted[1])).size:
            row = count + int(here[0])
        count += len(rows.table)
    keys, costs, firsts, owners = (np.concatenate(column) for column in zip(*arrays, strict=True))
    coded = {
        column: pa.chunked_array(of_parts, pa.string()).combine_chunks().dictionary_encode()
        for column, of_parts in groups.items()
    }
    return _Competing(np.ascontiguousarray(keys.T), costs, firsts, owners, coded, row)


def _over_conversations(
    scored: list[BlockPart], ranking: Ranking, select: Select, seed: int
) -> tuple[Ranking, pa.Table]:
    """The same ranking over conversations, and what holds of that of each row: UNITS, block by block in the order of rows."""
    columns = [*select.max_per, *select.quota]
    turns = pa.concat_tables(turns_of_part(item_table(scored), rankings=[asdict(ranking)], groups=columns, seed=seed))
    units = units_of_turns(turns, aggregate=select.unit_score, temperatures=[ranking.temperature], seed=seed)
    over = replace(ranking, where=None, temperature=0.0, units=IN_MEMORY, unit_groups=columns)
    return over, units.sort_by([("block", "ascending"), ("row", "ascending")])


def _units_before(groups: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Int64 [N]: how many units of its group (a number) stand before each row by keys [3, N]; rows of a unit share a key."""
    order = np.lexsort((*keys[::-1], groups))
    ranked = keys[:, order]
    new_group = np.r_[True, groups[order][1:] != groups[order][:-1]][: len(order)]
    new_unit = new_group | np.r_[True, (ranked[:, 1:] != ranked[:, :-1]).any(axis=0)][: len(order)]
    units = np.cumsum(new_unit) - 1  # over all groups
    before = np.empty(len(order), dtype=np.int64)
    before[order] = units - np.maximum.accumulate(np.where(new_group, units, 0))
    return before


def _budgeted(rows: _Competing, name: str, room: int) -> Budgeted:
    """Where the row stands among those that draw on one budget."""
    before = _units_before(np.zeros(len(rows.costs), dtype=np.int64), rows.keys)
    costs = np.zeros(int(before.max()) + 1, dtype=np.int64)  # of units, in their order
    np.add.at(costs, before, rows.costs)
    running = np.cumsum(costs)
    taken = int(np.searchsorted(running, room, side="right"))
    place = int(before[rows.row])
    ends = np.flatnonzero(before == taken - 1)
    return Budgeted(
        name=name.removeprefix("="),
        room=room,
        used=int(running[taken - 1]) if taken else 0,
        competing=len(costs),
        taken=taken,
        before=place,
        key=ranking_key.score_of(int(rows.keys[0, rows.row])),
        last_key=ranking_key.score_of(int(rows.keys[0, ends[0]])) if len(ends) else None,
        cost=int(costs[place]),
    )
