"""What a refresh has changed: ids of two runs meet in a shuffle and are counted, of all scored rows and of the selected ones.

A row that was edited has another id, so it counts as one that left and one that entered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.job import Job, mapped, over_parts, stream
from pipeline.runs.manifest import RowChanges
from pipeline.storage.parts import read_table, read_whole
from pipeline.storage.records import BlockPart, Part, record_table, records_of

NOTHING_NEW = 3  # exit status of `tss refresh --exit-code`
ROWS_TOGETHER = 1_000_000
_SIDES = pa.schema([pa.field("id", pa.string()), pa.field("after", pa.bool_()), pa.field("rank", pa.int64())])


@dataclass(frozen=True)
class Side:
    """A part of one of the two runs that are compared."""

    part: Part
    ranked: bool
    after: bool


def exit_status(changes: dict[str, RowChanges] | None) -> int:
    """NOTHING_NEW where no row entered or left, neither all rows nor the selection; 0 where one did, where there was no earlier
    run to compare with, and where it could not be compared: whoever asks must not miss a change."""
    if changes is None:
        return 0
    return 0 if any(rows.entered or rows.left for rows in changes.values()) else NOTHING_NEW


def compare(job: Job, before: dict[str, list[BlockPart]], after: dict[str, list[BlockPart]]) -> dict[str, RowChanges]:
    """What happened since an earlier run: its rows and its selected rows against those of this one."""
    changes = {}
    with job.reporter.stage("changes", 2, "tables") as stage:
        for kind in ("scored", "selected"):
            sides = [
                Side(record.part, kind == "selected", side)
                for side, records in ((False, before[kind]), (True, after[kind]))
                for record in records
            ]
            rows = sum(record.part.rows for record in [*before[kind], *after[kind]])
            dataset = over_parts(sides, sides_of_parts).repartition(max(1, rows // ROWS_TOGETHER), keys=["id"])
            counts: Counter[str] = Counter()
            for record in stream("changes", RowChanges, mapped(dataset, count_changes)):
                counts.update(vars(record))
            changes[kind] = RowChanges(**{name: counts[name] for name in ("entered", "left", "stayed", "moved")})
            stage.advance()
    return changes


def sides_of_parts(batch: pa.Table) -> Iterable[pa.Table]:
    """Ids of recorded parts with the side that they are on, and their rank where there is one."""
    for side in records_of(Side, batch):
        columns = ["id", "selection_rank"] if side.ranked else ["id"]
        table = read_table(side.part.path, columns) if side.after else read_whole(side.part, columns)
        ranks = table["selection_rank"] if side.ranked else pa.array(np.zeros(len(table), dtype=np.int64))
        yield pa.table([table["id"], pa.array(np.full(len(table), side.after)), ranks], schema=_SIDES)


def count_changes(batch: pa.Table) -> pa.Table:
    """How many of the rows, all sides of an id together, entered, left, stayed, and stayed with another rank."""
    if not len(batch):
        return record_table([])
    before, now = (batch.filter(mask).drop_columns("after") for mask in (pc.invert(batch["after"]), batch["after"]))
    both = before.join(now, "id", join_type="inner", right_suffix="_now")
    moved = pc.sum(pc.not_equal(both["rank"], both["rank_now"])).as_py() or 0
    return record_table([RowChanges(len(now) - len(both), len(before) - len(both), len(both), moved)])
