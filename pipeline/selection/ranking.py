"""What decides which rows a selection may take and in which order: conditions on a row alone, each a column or a cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.scoring.draw import keys_of
from operators.selection import filter, ranking_key
from pipeline.storage import urls
from pipeline.storage.parts import read_table
from pipeline.storage.records import BlockPart

Moments = dict[str, tuple[float, float]]  # mean and deviation of each column of a weighted score
WHOLE = ""  # the name of the one budget where no quota splits it
# What holds of the conversation of each row of a block, in the order of its rows (`conversations.py`).
UNITS = pa.schema(
    [
        pa.field("unit", pa.string()),  # 32 hex characters: the conversation, or the id of a row without one
        pa.field("first", pa.bool_()),  # whether the row is the first of it
        pa.field("scores", pa.list_(pa.float64())),  # by each ranking; NaN where the conversation may not be taken
        pa.field("groups", pa.list_(pa.string())),  # of its first row
    ]
)
# The last row that a cap admits of a group; null where it admits all of them.
GROUP_CUTS = pa.schema(
    [
        pa.field("block", pa.int64()),
        pa.field("group", pa.string()),
        pa.field("order", pa.uint64()),
        pa.field("id", pa.string()),  # or the unit, where conversations are ranked
    ]
)


@dataclass(frozen=True)
class Ranking:
    """What decides eligibility and order, in a form that travels to tasks.

    Over conversations (`units`) the turns of each share its score and its place; score, filter and temperature are in the files
    of UNITS already. Rankings of one pass are all over rows, or all over the same conversations."""

    score: str | dict[str, float]
    moments: Moments
    cost: str
    where: str | None
    caps: list[tuple[str, str]] = field(default_factory=list)  # (column, folder of the cuts of its groups by block)
    quota: str | None = None  # the column whose groups have budgets of their own
    shares: list[str] = field(default_factory=list)  # these groups, and WHOLE where others share what is left
    temperature: float = 0.0
    by_bound: bool = False  # rows without a tss_pp stand where their bound is
    units: str | None = None  # the folder of UNITS by block; None where rows are ranked
    unit_score: int = 0  # the place of this ranking's score among those of UNITS
    unit_groups: list[str] = field(default_factory=list)  # the columns of their groups

    def columns(self, ids: bool = True) -> list[str]:
        """The stored columns that a pass reads; without `ids`, those of a pass that compares no more than the orders of rows,
        which is most of what is read otherwise."""
        if self.units is not None:
            return ["n_prompt_tokens", "n_target_tokens"]
        names = {self.score} if isinstance(self.score, str) else set(self.score)
        names |= {"n_prompt_tokens", "n_target_tokens"} | {name for name, _ in self.caps}
        names |= {"id"} if ids or self.caps else set()
        names |= {"tss_pp_bound"} if self.by_bound else set()
        names |= {"random"} if self.temperature else set()
        names |= {self.quota} if self.quota else set()
        return filter.needed_columns(names | (filter.column_names(filter.parse(self.where)) if self.where else set()))


@dataclass(frozen=True)
class Eligible:
    """The rows of a block that may be taken, their keys (uint64 [3, N], or [1, N] where ids were not read) and costs (int64
    [N])."""

    table: pa.Table
    keys: np.ndarray
    costs: np.ndarray
    firsts: np.ndarray  # int64 [N]: 1 for the first row of each unit, 0 for its others


def read_scored(scored: BlockPart, ranking: Ranking, columns: list[str] | None = None) -> pa.Table:
    """Columns of a scored part (default: all), with those of UNITS where conversations are ranked."""
    table = read_table(scored.part.path, columns)
    if ranking.units is None:
        return table
    units = read_table(block_path(ranking.units, scored.block)) if len(table) else UNITS.empty_table()
    if len(units) != len(table):
        raise RuntimeError(
            f"block {scored.block} has {len(table)} rows, and {len(units)} of them came with a conversation"
        )
    for name in UNITS.names:
        table = table.append_column(name, units[name])
    return table


def eligible(table: pa.Table, ranking: Ranking, block: int) -> Eligible:
    """The rows of a block's table, as `read_scored` gives it, that a ranking may take."""
    scores = _scores(table, ranking)
    keep = ~np.isnan(scores)
    if ranking.quota and WHOLE not in ranking.shares:
        keep &= pc.is_in(groups_of(table, ranking, ranking.quota), value_set=pa.array(ranking.shares)).to_numpy(False)
    table, keys = table.filter(pa.array(keep)), ranking_key.order_of(scores[keep])[None, :]
    units = _unit_column(ranking)
    if units in table.column_names:
        keys = ranking_key.keys_of(keys[0], table[units])
    for column, folder in ranking.caps:
        if len(table):
            cuts = read_table(block_path(folder, block))
            inside = _inside_cap(groups_of(table, ranking, column), keys, cuts)
            table, keys = table.filter(pa.array(inside)), keys[:, inside]
    firsts = (
        np.ones(len(table), dtype=np.int64) if ranking.units is None else table["first"].to_numpy().astype(np.int64)
    )
    return Eligible(table, keys, costs_of(table, ranking.cost), firsts)


def _scores(table: pa.Table, ranking: Ranking) -> np.ndarray:
    """Float64 [N]: by what rows are ranked; NaN where they may not be taken."""
    if ranking.units is not None:
        unit_scores: np.ndarray = pc.list_element(table["scores"], ranking.unit_score).to_numpy()
        return unit_scores
    scores = filter.score_of(table, ranking.score, ranking.moments)
    if ranking.by_bound:
        scores = np.where(np.isnan(scores), filter.numeric(table, "tss_pp_bound"), scores)
    keep = np.isfinite(scores)
    if ranking.temperature:
        scores = keys_of(scores, filter.numeric(table, "random"), ranking.temperature)
    if ranking.where:
        keep &= filter.evaluate(filter.parse(ranking.where), table)
    return np.where(keep, scores, np.nan)


def _unit_column(ranking: Ranking) -> str:
    return "id" if ranking.units is None else "unit"


def units_of(rows: Eligible, ranking: Ranking) -> pa.ChunkedArray:
    """The unit of each row: its id, or the conversation of which it is a turn; 32 hex characters."""
    return rows.table[_unit_column(ranking)]


def block_path(folder: str, block: int) -> str:
    """The file of a block in a folder of a cap's cuts, or of UNITS."""
    return urls.join(folder, f"block-{block:06d}.parquet")


def costs_of(table: pa.Table, cost: str) -> np.ndarray:
    """Int64 [N]: what each row costs: 1 (`rows`), its target tokens (`output`), or all of its tokens (`total`)."""
    if cost == "rows":
        return np.ones(len(table), dtype=np.int64)
    targets: np.ndarray = table["n_target_tokens"].to_numpy().astype(np.int64)
    return targets if cost == "output" else targets + table["n_prompt_tokens"].to_numpy()


def _inside_cap(groups: pa.Array, keys: np.ndarray, cuts: pa.Table) -> np.ndarray:
    """Bool [N]: whether each row stands at or before the last one that the cap admits of its group."""
    cuts = cuts.filter(pc.is_valid(cuts["order"]))
    if not len(cuts):
        return np.ones(len(groups), dtype=bool)
    last = ranking_key.keys_of(cuts["order"].to_numpy(), cuts["id"])
    places = pc.index_in(groups, value_set=cuts["group"].combine_chunks())
    cut = places.is_valid().to_numpy(False)
    inside: np.ndarray = ~cut
    inside[cut] = ranking_key.before(keys[:, cut], last[:, places.drop_null().to_numpy()], or_equal=True)
    return inside


def groups_of(table: pa.Table, ranking: Ranking, column: str) -> pa.Array:
    """The group of each row, or of its conversation, as text; rows without a value are one group."""
    if ranking.units is not None:
        groups: pa.Array = pc.list_element(table["groups"], ranking.unit_groups.index(column)).combine_chunks()
        return groups
    names = filter.groups(table, column)
    return pc.fill_null(pc.binary_join_element_wise("=", names, ""), "null")


def group_label(name: str) -> str:
    """A group's name, told from that of the rows without a value and from WHOLE."""
    return f"={name}"


def inside_budgets(table: pa.Table, ranking: Ranking, names: Iterable[str]) -> dict[str, np.ndarray]:
    """For each budget, bool [N]: which rows draw on it; without a quota, all of them on each."""
    if not ranking.quota:
        return dict.fromkeys(names, np.ones(len(table), dtype=bool))
    owners = pc.index_in(groups_of(table, ranking, ranking.quota), value_set=pa.array(ranking.shares))
    places = pc.fill_null(owners, ranking.shares.index(WHOLE) if WHOLE in ranking.shares else -1).to_numpy(False)
    return {name: places == ranking.shares.index(name) for name in names}
