"""What decides which rows a selection may take and in which order: conditions on a row alone, each a column or a cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

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

    def columns(self) -> list[str]:
        """The stored columns that a pass reads."""
        if self.units is not None:
            return ["id", "n_prompt_tokens", "n_target_tokens"]
        names = {self.score} if isinstance(self.score, str) else set(self.score)
        names |= {"id", "source", "n_prompt_tokens", "n_target_tokens"} | {name for name, _ in self.caps}
        names |= {"tss_pp_bound"} if self.by_bound else set()
        names |= {"random"} if self.temperature else set()
        names |= {self.quota} if self.quota else set()
        return filter.needed_columns(names | (filter.column_names(filter.parse(self.where)) if self.where else set()))


@dataclass(frozen=True)
class Eligible:
    """The rows of a block that may be taken, their orders (uint64 [N], ascending is best first) and costs (int64 [N])."""

    table: pa.Table
    orders: np.ndarray
    costs: np.ndarray
    units: np.ndarray  # str [N]: the id of each row, or the conversation of which it is a turn
    firsts: np.ndarray  # int64 [N]: 1 for the first row of each unit, 0 for its others

    def digits(self) -> np.ndarray:
        """Int64 [N, DIGITS]: the digits of the rows' places in the ranking."""
        return ranking_key.digits_of(self.orders, self.units)


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
    keys = _keys(table, ranking)
    keep = ~np.isnan(keys)
    if ranking.quota and WHOLE not in ranking.shares:
        keep &= np.array([group in ranking.shares for group in groups_of(table, ranking, ranking.quota)], dtype=bool)
    table, orders = table.filter(pa.array(keep)), ranking_key.order_of(keys[keep])
    for column, folder in ranking.caps:
        if len(table):
            cuts = read_table(block_path(folder, block))
            inside = _inside_cap(groups_of(table, ranking, column), orders, _units(table, ranking), cuts)
            table, orders = table.filter(pa.array(inside)), orders[inside]
    firsts = (
        np.ones(len(table), dtype=np.int64) if ranking.units is None else table["first"].to_numpy().astype(np.int64)
    )
    return Eligible(table, orders, costs_of(table, ranking.cost), np.array(_units(table, ranking), dtype=str), firsts)


def _keys(table: pa.Table, ranking: Ranking) -> np.ndarray:
    """Float64 [N]: by what rows are ranked; NaN where they may not be taken."""
    if ranking.units is not None:
        keys: np.ndarray = pc.list_element(table["scores"], ranking.unit_score).to_numpy()
        return keys
    scores = filter.score_of(table, ranking.score, ranking.moments)
    if ranking.by_bound:
        scores = np.where(np.isnan(scores), filter.numeric(table, "tss_pp_bound"), scores)
    keep = np.isfinite(scores)
    if ranking.temperature:
        scores = keys_of(scores, filter.numeric(table, "random"), ranking.temperature)
    if ranking.where:
        keep &= filter.evaluate(filter.parse(ranking.where), table)
    return np.where(keep, scores, np.nan)


def _units(table: pa.Table, ranking: Ranking) -> list[str]:
    names: list[str] = table["id" if ranking.units is None else "unit"].to_pylist()
    return names


def block_path(folder: str, block: int) -> str:
    """The file of a block in a folder of a cap's cuts, or of UNITS."""
    return urls.join(folder, f"block-{block:06d}.parquet")


def costs_of(table: pa.Table, cost: str) -> np.ndarray:
    """Int64 [N]: what each row costs: 1 (`rows`), its target tokens (`output`), or all of its tokens (`total`)."""
    if cost == "rows":
        return np.ones(len(table), dtype=np.int64)
    targets: np.ndarray = table["n_target_tokens"].to_numpy().astype(np.int64)
    return targets if cost == "output" else targets + table["n_prompt_tokens"].to_numpy()


def _inside_cap(groups: list[str], orders: np.ndarray, units: list[str], cuts: pa.Table) -> np.ndarray:
    last: dict[str, tuple[Any, str]] = {
        cut["group"]: (cut["order"], cut["id"]) for cut in cuts.to_pylist() if cut["order"] is not None
    }
    return np.array(
        [
            group not in last or (int(order), unit) <= last[group]
            for group, order, unit in zip(groups, orders, units, strict=True)
        ],
        dtype=bool,
    )


def groups_of(table: pa.Table, ranking: Ranking, column: str) -> list[str]:
    """The group of each row, or of its conversation, as text; rows without a value are one group."""
    if ranking.units is not None:
        labels: list[str] = pc.list_element(table["groups"], ranking.unit_groups.index(column)).to_pylist()
        return labels
    return ["null" if name is None else group_label(name) for name in filter.groups(table, column)]


def group_label(name: str) -> str:
    """A group's name, told from that of the rows without a value and from WHOLE."""
    return f"={name}"


def inside_budgets(table: pa.Table, ranking: Ranking, names: Iterable[str]) -> dict[str, np.ndarray]:
    """For each budget, bool [N]: which rows draw on it; without a quota, all of them on each."""
    if not ranking.quota:
        return dict.fromkeys(names, np.ones(len(table), dtype=bool))
    groups = groups_of(table, ranking, ranking.quota)
    owners = np.array([group if group in ranking.shares else WHOLE for group in groups], dtype=object)
    return {name: owners == name for name in names}
