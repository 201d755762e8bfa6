"""How much of each group of rows is selected: of sources, tasks, clusters, lengths and layouts."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.report.gather import Gathered
from pipeline.report.tally import SCORED

SHOWN = 15
COLUMNS = {
    "source": "the input that a row came from",
    "task": "the task that the corpus names",
    "cluster": "instructions by meaning, numbered",
    "length": "tokens of the output",
    "layout": "what the row was, as its columns tell",
}


@dataclass(frozen=True)
class Group:
    """A group of a column: scored rows, those that are selected, and their share."""

    name: str
    rows: int
    selected: int
    share: float


@dataclass(frozen=True)
class Groups:
    """The largest groups of a column, in their order, and how many more there are."""

    column: str
    meaning: str
    groups: list[Group]
    more: int
    highest: float  # share that a bar has room for


@dataclass(frozen=True)
class Shares:
    """Groups of each column that has more than one, and the share of all rows that is selected."""

    columns: list[Groups]
    whole: float | None


def shares_of(gathered: Gathered) -> Shares:
    """The shares of a tally."""
    if "groups" not in gathered.tally:
        return Shares([], None)
    counted: dict[str, dict[str | None, list[int]]] = {name: {} for name in COLUMNS}
    for row in gathered.tally["groups"].to_pylist():
        counts = counted[row["column"]].setdefault(row["value"], [0, 0])
        counts[0 if row["of"] == SCORED else 1] += row["rows"]
    rows, selected = (sum(counts[place] for counts in counted["layout"].values()) for place in (0, 1))
    whole = selected / rows if rows else 0.0
    return Shares([_groups(name, groups, whole) for name, groups in counted.items() if len(groups) > 1], whole)


def _groups(column: str, counts: dict[str | None, list[int]], whole: float) -> Groups:
    largest = sorted(counts.items(), key=lambda item: (-item[1][0], item[0] is None, item[0] or ""))
    shown = [
        Group(_name(column, value), rows, selected, selected / rows if rows else 0.0)
        for value, (rows, selected) in largest[:SHOWN]
    ]
    if column == "length":
        shown = [shown[place] for place in sorted(range(len(shown)), key=lambda place: int(largest[place][0] or 0))]
    highest = max([whole, *(group.share for group in shown)]) or 1.0
    return Groups(column, COLUMNS[column], shown, len(largest) - len(shown), highest)


def _name(column: str, value: str | None) -> str:
    if value is None:
        return "(none)"
    if column == "length":
        return f"{int(value):,}" if value == "1" else f"{int(value):,} to {2 * int(value) - 1:,}"
    return value
