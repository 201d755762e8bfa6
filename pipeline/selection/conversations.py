"""`select.unit: conversation`: rankings of rows become rankings of conversations, whose turns may lie in any blocks.

Rows meet by conversation in a shuffle of a few columns, and what was found of each conversation goes back to the blocks of its
rows in another: a file for each block, row by row. All passes read it beside the scored part, and work as they do on rows:
the turns of a conversation share its place in the ranking, so that a cut takes all of them or none.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa

from operators.scoring.draw import keys_of
from operators.scoring.scores import random_of
from operators.selection import conversations, filter
from pipeline.engine.job import Job, execute, mapped, over_parts, shuffles_of
from pipeline.engine.light_pass import light_pass
from pipeline.errors import BadRequest
from pipeline.selection.passes import by_blocks
from pipeline.selection.ranking import UNITS, Ranking, block_path, groups_of
from pipeline.storage import urls
from pipeline.storage.parts import read_table, write_table
from pipeline.storage.records import BlockPart, Part, record_table, records_of

# A row on its way to the others of its conversation.
_TURNS = pa.schema(
    [
        pa.field("block", pa.int64()),
        pa.field("row", pa.int64()),  # its place in the block
        pa.field("unit", pa.string()),
        pa.field("turn", pa.int32()),
        pa.field("id", pa.string()),
        pa.field("scores", pa.list_(pa.float64())),  # by each ranking; NaN where the row may not be taken
        pa.field("groups", pa.list_(pa.string())),
    ]
)
_PLACED = pa.schema([pa.field("block", pa.int64()), pa.field("row", pa.int64()), *UNITS])


def over_conversations(
    job: Job, stage: str, scored: list[BlockPart], rankings: list[Ranking], groups: Sequence[str] = ()
) -> list[Ranking]:
    """The same rankings over conversations in place of rows; `groups` are the columns of caps and quotas to come."""
    folder = urls.join(job.work, "conversations", uuid.uuid4().hex)
    shuffles, seed = shuffles_of(scored), job.config.seed
    plain = [asdict(ranking) for ranking in rankings]
    turns = over_parts(scored, turns_of_part, rankings=plain, groups=list(groups), seed=seed)
    settings = {
        "aggregate": job.config.select.unit_score,
        "temperatures": [ranking.temperature for ranking in rankings],
        "seed": seed,
    }
    gathered = mapped(turns.repartition(shuffles, keys=["unit"]), units_of_turns, fn_kwargs=settings)
    written = mapped(gathered.repartition(shuffles, keys=["block"]), write_units, fn_kwargs={"folder": folder})
    execute(stage, Part, written)
    return [
        replace(ranking, where=None, temperature=0.0, units=folder, unit_score=number, unit_groups=list(groups))
        for number, ranking in enumerate(rankings)
    ]


def require_conversations(scored: list[BlockPart]) -> None:
    """Raise BadRequest where no row of these parts belongs to a conversation."""
    if not any(light_pass("select", int, scored, count_conversations)):
        raise BadRequest(
            "select.unit: found conversation, and no row of this run has one: none was read from turns; accepted: example"
        )


def count_conversations(batch: pa.Table) -> pa.Table:
    """Rows of recorded parts that belong to a conversation."""
    columns = (
        read_table(scored.part.path, ["conversation"])["conversation"] for scored in records_of(BlockPart, batch)
    )
    return record_table([sum(len(column) - column.null_count for column in columns)])


def turns_of_part(
    batch: pa.Table, *, rankings: list[dict[str, Any]], groups: list[str], seed: int
) -> Iterable[pa.Table]:
    """What decides about the conversation of each row of recorded parts."""
    chosen = [Ranking(**ranking) for ranking in rankings]
    columns = {name for ranking in chosen for name in ranking.columns()} | {"conversation", "turn", *groups}
    for scored in records_of(BlockPart, batch):
        table = read_table(scored.part.path, filter.needed_columns(columns))
        units = conversations.unit_names(table)
        if "random" in table.column_names:
            # A conversation is drawn as a whole: the mean of the numbers of its turns would depend on how many they are.
            drawn = pa.array(random_of(units, seed), pa.float64())
            table = table.set_column(table.column_names.index("random"), "random", drawn)
        scores = np.stack([_scores(table, ranking) for ranking in chosen], axis=1)
        labels = [groups_of(table, chosen[0], column).to_numpy(False) for column in groups]
        yield pa.table(
            [
                pa.array([scored.block] * len(table), pa.int64()),
                pa.array(np.arange(len(table))),
                pa.array(units, pa.string()),
                table["turn"],
                table["id"],
                _lists(scores, pa.float64()),
                _lists(np.stack(labels, axis=1) if labels else np.zeros((len(table), 0), dtype=object), pa.string()),
            ],
            schema=_TURNS,
        )


def _scores(table: pa.Table, ranking: Ranking) -> np.ndarray:
    scores = filter.score_of(table, ranking.score, ranking.moments)
    keep = np.isfinite(scores)
    if ranking.where:
        keep &= filter.evaluate(filter.parse(ranking.where), table)
    return np.where(keep, scores, np.nan)


def _lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Values [N, S] as a column of lists."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).ravel(), kind))


def units_of_turns(
    batch: pa.Table, *, aggregate: conversations.Aggregate, temperatures: list[float], seed: int
) -> pa.Table:
    """For each row, what holds of its conversation; all rows of a conversation are in `batch`."""
    if not len(batch):
        return _PLACED.empty_table()
    names = batch["unit"].to_pylist()
    units = conversations.gather(names, batch["turn"].to_pylist(), batch["id"].to_pylist())
    leads = units.rows[units.starts]
    scores = np.array(batch["scores"].to_pylist(), dtype=np.float64).reshape(len(batch), len(temperatures))
    keys = conversations.unit_scores(scores, units, aggregate)
    keys = np.where(np.isfinite(keys), keys, np.nan)
    uniform = random_of([names[lead] for lead in leads], seed)
    keys = np.stack([keys_of(keys[:, i], uniform, t) for i, t in enumerate(temperatures)], axis=1)
    first = np.zeros(len(batch), dtype=bool)
    first[leads] = True
    return pa.table(
        [
            batch["block"],
            batch["row"],
            batch["unit"],
            pa.array(first),
            _lists(units.spread(keys), pa.float64()),
            batch["groups"].take(pa.array(units.spread(leads))),
        ],
        schema=_PLACED,
    )


def write_units(batch: pa.Table, *, folder: str) -> pa.Table:
    """Write UNITS of each block, in the order of its rows; all rows of a block are in `batch`."""
    if not len(batch):
        return record_table([])
    rows = batch.sort_by([("block", "ascending"), ("row", "ascending")])
    return record_table(
        write_table(block_path(folder, block), table.select(UNITS.names)) for block, table in by_blocks(rows)
    )
