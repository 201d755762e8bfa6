"""What each condition of a filter removes: for people who ask why a selection is small."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from operators.selection import filter
from pipeline.engine.light_pass import light_pass
from pipeline.selection.rank_values import without_ranks
from pipeline.storage.parts import read_table
from pipeline.storage.records import BlockPart, record_table, records_of


@dataclass(frozen=True)
class Removed:
    """Of scored rows, how many each condition does not let pass, and how many of these all others would."""

    rows: list[int]
    alone: list[int]


def removed_by(scored: list[BlockPart], where: str) -> dict[str, tuple[int, int]]:
    """By condition of a filter: rows that it does not let pass, and those of them that all other conditions would."""
    conditions = filter.clauses(where)
    decided = [without_ranks(scored, condition) for condition in conditions]
    records = list(light_pass("select", Removed, scored, removed_of_parts, conditions=decided))
    rows, alone = (np.sum([getattr(record, name) for record in records], axis=0) for name in ("rows", "alone"))
    return {name: (int(rows[place]), int(alone[place])) for place, name in enumerate(conditions)}


def removed_of_parts(batch: pa.Table, *, conditions: list[str]) -> pa.Table:
    """A record of Removed."""
    trees = [filter.parse(condition) for condition in conditions]
    columns = filter.needed_columns({name for tree in trees for name in filter.column_names(tree)})
    rows, alone = np.zeros((2, len(trees)), dtype=np.int64)
    for scored in records_of(BlockPart, batch):
        # Of a condition over no column at all the length of the table is needed all the same.
        table = read_table(scored.part.path, columns or ["id"])
        fails_CN = np.array([~filter.evaluate(tree, table) for tree in trees])
        rows += fails_CN.sum(axis=1)
        alone += (fails_CN & (fails_CN.sum(axis=0) == 1)).sum(axis=1)
    return record_table([Removed(rows.tolist(), alone.tolist())])
