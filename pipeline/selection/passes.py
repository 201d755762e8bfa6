"""What selection does to each scored part: totals, caps, histograms, and the choice itself.

Every pass reads a few columns and returns numbers of bounded size. All conditions are predicates of a row alone (`where`, a
cut per capped group, a cut per budget), so the last pass needs no join.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from operators.schema import SCORED, SELECTED
from operators.selection import budget, filter
from pipeline.storage.parts import read_part, read_table, record_table, write_part

ROWS_PER_FILE = 100_000
WHOLE = ""  # the name of the one budget where no quota splits it
_GROUP_CUTS = pa.schema([pa.field("group", pa.string()), pa.field("order", pa.uint64()), pa.field("id", pa.string())])
_CHOSEN = pa.schema([*SCORED, pa.field("order", pa.uint64())])


@dataclass(frozen=True)
class Ranking:
    """What decides eligibility and order, in a form that travels to tasks."""

    score: str | dict[str, float]
    moments: dict[str, tuple[float, float]]
    cost: str
    where: str | None
    caps: list[tuple[str, list[str]]]  # (column, paths of its group cuts)
    quota: list[str]  # sources with a budget of their own
    by_bound: bool = False  # rows without a tss_pp stand where their bound is

    def columns(self) -> list[str]:
        """The stored columns that a pass reads."""
        names = {self.score} if isinstance(self.score, str) else set(self.score)
        names |= {"id", "source", "n_prompt_tokens", "n_target_tokens"} | {name for name, _ in self.caps}
        names |= {"tss_pp_bound"} if self.by_bound else set()
        return filter.needed_columns(names | (filter.column_names(filter.parse(self.where)) if self.where else set()))


def _eligible(table: pa.Table, ranking: Ranking) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """Rows that may be taken, their orders (uint64) and costs (int64)."""
    scores = filter.score_of(table, ranking.score, ranking.moments)
    if ranking.by_bound:
        scores = np.where(np.isnan(scores), filter.numeric(table, "tss_pp_bound"), scores)
    keep = np.isfinite(scores)
    if ranking.where:
        keep &= filter.evaluate(filter.parse(ranking.where), table)
    if ranking.quota:
        shared = WHOLE in ranking.quota  # what the named sources leave is there for all others
        keep &= np.array([source in ranking.quota or shared for source in table["source"].to_pylist()], dtype=bool)
    table, orders = table.filter(pa.array(keep)), budget.order_of(scores[keep])
    for column, paths in ranking.caps:
        inside = _inside_cap(table, orders, column, paths)
        table, orders = table.filter(pa.array(inside)), orders[inside]
    return table, orders, _costs(table, ranking.cost)


def _costs(table: pa.Table, cost: str) -> np.ndarray:
    if cost == "rows":
        return np.ones(len(table), dtype=np.int64)
    targets = table["n_target_tokens"].to_numpy().astype(np.int64)
    return targets if cost == "output" else targets + table["n_prompt_tokens"].to_numpy()


def _inside_cap(table: pa.Table, orders: np.ndarray, column: str, paths: list[str]) -> np.ndarray:
    cuts = pa.concat_tables([read_table(path) for path in paths]) if paths else _GROUP_CUTS.empty_table()
    last = {row["group"]: (row["order"], row["id"]) for row in cuts.to_pylist()}
    groups, ids = _groups(table, column), table["id"].to_pylist()
    return np.array(
        [
            group not in last or (int(order), one) <= last[group]
            for group, order, one in zip(groups, orders, ids, strict=True)
        ],
        dtype=bool,
    )


def _groups(table: pa.Table, column: str) -> list[str]:
    """The group of each row as text; rows without a value are one group."""
    return ["null" if value is None else f"={value}" for value in filter.column(table, column).to_pylist()]


def _inside_budgets(table: pa.Table, ranking: Ranking, names: Iterable[str]) -> dict[str, np.ndarray]:
    """For each budget, bool [N]: which rows draw on it; without a quota, all of them on each."""
    if not ranking.quota:
        return dict.fromkeys(names, np.ones(len(table), dtype=bool))
    sources = table["source"].to_pylist()
    owners = np.array([source if source in ranking.quota else WHOLE for source in sources], dtype=object)
    return {name: owners == name for name in names}


def totals_of_part(batch: pa.Table, *, score: list[str], cost: str) -> pa.Table:
    """Records with the rows of a part and their cost, and count, sum and sum of squares of the columns of a weighted score."""
    records = []
    for part in map(json.loads, batch["item"].to_pylist()):
        table = read_part(part, list(dict.fromkeys([*score, "n_prompt_tokens", "n_target_tokens"])))
        values = np.array([filter.numeric(table, name) for name in score]).reshape(len(score), len(table))
        values = values[:, np.isfinite(values).all(axis=0)]
        records.append(
            {
                "total": int(_costs(table, cost).sum()),
                "rows": len(table),
                "count": values.shape[1],
                "sums": values.sum(axis=1).tolist(),
                "squares": (values**2).sum(axis=1).tolist(),
            }
        )
    return record_table(records)


def caps_of_part(batch: pa.Table, *, ranking: dict[str, Any], column: str, n: int) -> Iterable[pa.Table]:
    """The `n` best eligible rows of each group within a part: all that a cap can still need of it."""
    chosen = Ranking(**ranking)
    for part in map(json.loads, batch["item"].to_pylist()):
        columns = filter.needed_columns({*chosen.columns(), column})
        table, orders, _ = _eligible(read_part(part, columns), chosen)
        rows = pa.table(
            [pa.array(_groups(table, column), pa.string()), pa.array(orders), table["id"]], schema=_GROUP_CUTS
        )
        yield rows.take(pa.array(_best(rows, n)))


def cuts_of_groups(batch: pa.Table, *, work: str, n: int) -> pa.Table:
    """Write the last row that a cap admits of each group that has so many; all rows of a group are in `batch`."""
    best = batch.take(pa.array(_best(batch, n)))
    groups = np.array(best["group"].to_pylist(), dtype=object)
    last: dict[str, int] = {}
    count: dict[str, int] = {}
    for place, group in enumerate(groups):
        last[group], count[group] = place, count.get(group, 0) + 1
    full = best.take(pa.array([place for group, place in last.items() if count[group] == n], pa.int64()))
    return record_table([write_part(f"{work}/caps", full, _GROUP_CUTS)] if len(full) else [])


def _best(rows: pa.Table, n: int) -> np.ndarray:
    groups, ids = (np.array(rows[name].to_pylist(), dtype=str) for name in ("group", "id"))
    return budget.best_of_groups(groups, rows["order"].to_numpy(), ids, n)


def histogram_of_part(batch: pa.Table, *, searches: list[dict[str, Any]]) -> pa.Table:
    """For each ranking and each of its budgets under search: cost and rows by the next digit of the selection key."""
    rankings, records = [Ranking(**search["ranking"]) for search in searches], []
    for part in map(json.loads, batch["item"].to_pylist()):
        passing = _passing(read_part(part, _columns_of(rankings)), rankings)
        for number, (ranking, search) in enumerate(zip(rankings, searches, strict=True)):
            prefixes = search["prefixes"]
            if not prefixes:
                continue
            table, orders, costs = _eligible(passing[ranking.where], replace(ranking, where=None))
            digits = budget.digits_of(orders, np.array(table["id"].to_pylist(), dtype=str))
            for name, own in _inside_budgets(table, ranking, prefixes).items():
                bins, cost, rows = budget.histogram(digits[own], costs[own], tuple(prefixes[name]))
                found = {"bins": bins.tolist(), "costs": cost.tolist(), "rows": rows.tolist()}
                records.append({"search": number, "budget": name, **found})
    return record_table(records)


def overlap_of_part(batch: pa.Table, *, searches: list[dict[str, Any]]) -> pa.Table:
    """How many rows of a part each two of the rankings select, and each alone, given where their one budget ends."""
    rankings, records = [Ranking(**search["ranking"]) for search in searches], []
    for part in map(json.loads, batch["item"].to_pylist()):
        whole = read_part(part, _columns_of(rankings))
        passing = _passing(whole.append_column("row", pa.array(np.arange(len(whole)))), rankings)
        chosen = np.zeros((len(rankings), len(whole)), dtype=np.int64)
        for number, (ranking, search) in enumerate(zip(rankings, searches, strict=True)):
            table, orders, _ = _eligible(passing[ranking.where], replace(ranking, where=None))
            digits = budget.digits_of(orders, np.array(table["id"].to_pylist(), dtype=str))
            inside = budget.below(digits, _prefix(search["prefixes"][WHOLE]))
            chosen[number, table["row"].to_numpy()[inside]] = 1
        records.append({"common": (chosen @ chosen.T).tolist()})
    return record_table(records)


def _passing(whole: pa.Table, rankings: list[Ranking]) -> dict[str | None, pa.Table]:
    """The rows that each filter passes, so that rankings that share one do not evaluate it again."""
    filters = {ranking.where for ranking in rankings}
    return {one: whole.filter(pa.array(filter.evaluate(filter.parse(one), whole))) if one else whole for one in filters}


def _columns_of(rankings: list[Ranking]) -> list[str]:
    return filter.needed_columns({name for ranking in rankings for name in ranking.columns()})


def _prefix(listed: list[int] | None) -> tuple[int, ...] | None:
    return None if listed is None else tuple(listed)


def reach_of_part(
    batch: pa.Table, *, ranking: dict[str, Any], prefixes: dict[str, list[int] | None], threshold: float
) -> pa.Table:
    """How many rows of a part have no tss_pp among those that stand before the end of the budget, or end it; and among those
    that reach a threshold."""
    chosen, records = Ranking(**ranking), []
    for part in map(json.loads, batch["item"].to_pylist()):
        table, orders, _ = _eligible(read_part(part, chosen.columns()), chosen)
        digits = budget.digits_of(orders, np.array(table["id"].to_pylist(), dtype=str))
        unscored = np.isnan(filter.numeric(table, "tss_pp"))
        inside = budget.within(digits, _prefix(prefixes["asked"]))
        reaches = filter.numeric(table, "tss_pp_bound") >= threshold
        counts = {"without_score": int((inside & unscored).sum()), "open": int((reaches & unscored).sum())}
        records.append({"block": part["block"], **counts})
    return record_table(records)


def choose_of_part(
    batch: pa.Table, *, ranking: dict[str, Any], prefixes: dict[str, list[int] | None], work: str, sample: int
) -> pa.Table:
    """Write the rows of a part that every cut admits, with a sample of their orders for the boundaries of the output files."""
    chosen, records = Ranking(**ranking), []
    for part in map(json.loads, batch["item"].to_pylist()):
        table, orders, _ = _eligible(read_part(part), chosen)
        digits = budget.digits_of(orders, np.array(table["id"].to_pylist(), dtype=str))
        inside = np.zeros(len(table), dtype=bool)
        for name, own in _inside_budgets(table, chosen, prefixes).items():
            inside |= own & budget.below(digits, _prefix(prefixes[name]))
        taken = table.filter(pa.array(inside)).append_column("order", pa.array(orders[inside]))
        if len(taken):
            spread = np.linspace(0, len(taken) - 1, min(sample, len(taken))).astype(int)
            counts = {item["values"]: item["counts"] for item in taken["source"].value_counts().to_pylist()}
            records.append(
                {
                    **write_part(f"{work}/chosen", taken, _CHOSEN),
                    "orders": np.sort(orders[inside])[spread].tolist(),
                    "sources": counts,
                }
            )
    return record_table(records)


def file_of_rows(batch: pa.Table, *, boundaries: list[int]) -> Iterable[pa.Table]:
    """The chosen rows of recorded parts with the number of the output file that each belongs to."""
    for part in map(json.loads, batch["item"].to_pylist()):
        table = read_part(part)
        numbers = np.searchsorted(np.array(boundaries, dtype=np.uint64), table["order"].to_numpy(), side="right")
        yield table.append_column("file", pa.array(numbers, pa.int64()))


def count_files(batch: pa.Table, *, boundaries: list[int]) -> pa.Table:
    """Rows of recorded parts by output file."""
    records = []
    for part in map(json.loads, batch["item"].to_pylist()):
        orders = read_part(part, ["order"])["order"].to_numpy()
        numbers = np.searchsorted(np.array(boundaries, dtype=np.uint64), orders, side="right")
        records.append({"rows": np.bincount(numbers, minlength=len(boundaries) + 1).tolist()})
    return record_table(records)


def write_ranked(batch: pa.Table, *, offsets: list[int], work: str) -> pa.Table:
    """Write one output file: its rows best first, with their rank in the whole selection."""
    if not len(batch):
        return record_table([])
    file = batch["file"][0].as_py()
    rows = batch.sort_by([("order", "ascending"), ("id", "ascending")])
    ranks = pa.array(np.arange(offsets[file], offsets[file] + len(rows)), pa.int64())
    table = rows.drop_columns(["order", "file"]).append_column("selection_rank", ranks)
    return record_table([{**write_part(f"{work}/selected", table, SELECTED), "block": file}])
