"""What decides which rows a selection may take and in which order: conditions on a row alone, each a column or a cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from operators.scoring.draw import keys_of
from operators.selection import filter, ranking_key
from pipeline.storage import urls
from pipeline.storage.parts import read_table

Moments = dict[str, tuple[float, float]]  # mean and deviation of each column of a weighted score
WHOLE = ""  # the name of the one budget where no quota splits it
# The last row that a cap admits of a group; null where it admits all of them.
GROUP_CUTS = pa.schema(
    [
        pa.field("block", pa.int64()),
        pa.field("group", pa.string()),
        pa.field("order", pa.uint64()),
        pa.field("id", pa.string()),
    ]
)


@dataclass(frozen=True)
class Ranking:
    """What decides eligibility and order, in a form that travels to tasks."""

    score: str | dict[str, float]
    moments: Moments
    cost: str
    where: str | None
    caps: list[tuple[str, str]] = field(default_factory=list)  # (column, folder of the cuts of its groups by block)
    quota: str | None = None  # the column whose groups have budgets of their own
    shares: list[str] = field(default_factory=list)  # these groups, and WHOLE where others share what is left
    temperature: float = 0.0
    by_bound: bool = False  # rows without a tss_pp stand where their bound is

    def columns(self) -> list[str]:
        """The stored columns that a pass reads."""
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

    def digits(self) -> np.ndarray:
        """Int64 [N, DIGITS]: the digits of the rows' places in the ranking."""
        return ranking_key.digits_of(self.orders, np.array(self.table["id"].to_pylist(), dtype=str))


def eligible(table: pa.Table, ranking: Ranking, block: int) -> Eligible:
    """The rows of a block's table that a ranking may take."""
    scores = filter.score_of(table, ranking.score, ranking.moments)
    if ranking.by_bound:
        scores = np.where(np.isnan(scores), filter.numeric(table, "tss_pp_bound"), scores)
    keep = np.isfinite(scores)
    if ranking.temperature:
        scores = keys_of(scores, filter.numeric(table, "random"), ranking.temperature)
    if ranking.where:
        keep &= filter.evaluate(filter.parse(ranking.where), table)
    if ranking.quota and WHOLE not in ranking.shares:
        keep &= np.array([group in ranking.shares for group in groups_of(table, ranking.quota)], dtype=bool)
    table, orders = table.filter(pa.array(keep)), ranking_key.order_of(scores[keep])
    for column, folder in ranking.caps:
        if len(table):
            inside = _inside_cap(table, orders, column, read_table(cuts_path(folder, block)))
            table, orders = table.filter(pa.array(inside)), orders[inside]
    return Eligible(table, orders, costs_of(table, ranking.cost))


def cuts_path(folder: str, block: int) -> str:
    """The file of a cap's cuts of the groups of a block."""
    return urls.join(folder, f"block-{block:06d}.parquet")


def costs_of(table: pa.Table, cost: str) -> np.ndarray:
    """Int64 [N]: what each row costs: 1 (`rows`), its target tokens (`output`), or all of its tokens (`total`)."""
    if cost == "rows":
        return np.ones(len(table), dtype=np.int64)
    targets: np.ndarray = table["n_target_tokens"].to_numpy().astype(np.int64)
    return targets if cost == "output" else targets + table["n_prompt_tokens"].to_numpy()


def _inside_cap(table: pa.Table, orders: np.ndarray, column: str, cuts: pa.Table) -> np.ndarray:
    last: dict[str, tuple[Any, str]] = {
        cut["group"]: (cut["order"], cut["id"]) for cut in cuts.to_pylist() if cut["order"] is not None
    }
    groups, ids = groups_of(table, column), table["id"].to_pylist()
    return np.array(
        [
            group not in last or (int(order), id) <= last[group]
            for group, order, id in zip(groups, orders, ids, strict=True)
        ],
        dtype=bool,
    )


def groups_of(table: pa.Table, column: str) -> list[str]:
    """The group of each row as text; rows without a value are one group."""
    return ["null" if name is None else group_label(name) for name in filter.groups(table, column)]


def group_label(name: str) -> str:
    """A group's name, told from that of the rows without a value and from WHOLE."""
    return f"={name}"


def inside_budgets(table: pa.Table, ranking: Ranking, names: Iterable[str]) -> dict[str, np.ndarray]:
    """For each budget, bool [N]: which rows draw on it; without a quota, all of them on each."""
    if not ranking.quota:
        return dict.fromkeys(names, np.ones(len(table), dtype=bool))
    groups = groups_of(table, ranking.quota)
    owners = np.array([group if group in ranking.shares else WHOLE for group in groups], dtype=object)
    return {name: owners == name for name in names}
