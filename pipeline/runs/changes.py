"""What a refresh has changed: ids of two runs meet in a shuffle and are counted, of all scored rows and of the selected ones.

A row that was edited has another id, so it counts as one that left and one that entered.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from pipeline.engine.job import Job, mapped, over_parts, stream
from pipeline.storage.parts import Record, read_part, record_table

NAMES = ("entered", "left", "stayed", "moved")  # moved: stayed, with another rank in the selection
ROWS_TOGETHER = 1_000_000
_SIDES = pa.schema([pa.field("id", pa.string()), pa.field("after", pa.bool_()), pa.field("rank", pa.int64())])


def compare(job: Job, before: dict[str, list[Record]], after: dict[str, list[Record]]) -> dict[str, dict[str, int]]:
    """What happened since an earlier run: its rows and its selected rows against those of this one (`py`)."""
    found = {}
    with job.reporter.stage("changes", 2, "tables") as stage:
        for kind in ("scored", "selected"):
            sides = [
                {"path": part["path"], "kind": kind, "after": side}
                for side, parts in ((False, before[kind]), (True, after[kind]))
                for part in parts
            ]
            size = max(1, sum(part["rows"] for part in [*before[kind], *after[kind]]) // ROWS_TOGETHER)
            dataset = over_parts(sides, sides_of_parts).repartition(size, keys=["id"])
            counts: Counter[str] = Counter()
            for record in stream("changes", mapped(dataset, count_changes)):
                counts.update(record)
            found[kind] = {name: counts[name] for name in NAMES}
            stage.advance()
    return found


def sides_of_parts(batch: pa.Table) -> Iterable[pa.Table]:
    """Ids of recorded parts with the side that they are on, and their rank where there is one."""
    for item in map(json.loads, batch["item"].to_pylist()):
        ranked = item["kind"] == "selected"
        table = read_part(item, ["id", "selection_rank"] if ranked else ["id"])
        ranks = table["selection_rank"] if ranked else pa.array(np.zeros(len(table), dtype=np.int64))
        yield pa.table([table["id"], pa.array([item["after"]] * len(table)), ranks], schema=_SIDES)


def count_changes(batch: pa.Table) -> pa.Table:
    """How many of the rows, all sides of an id together, entered, left, stayed, and stayed with another rank."""
    if not len(batch):
        return record_table([])
    after = np.array(batch["after"].to_pylist(), dtype=bool)
    sides = [
        dict(zip(side["id"].to_pylist(), side["rank"].to_pylist(), strict=True))
        for side in (batch.filter(pa.array(~after)), batch.filter(pa.array(after)))
    ]
    before, now = sides
    stayed = before.keys() & now.keys()
    counts = (
        len(now) - len(stayed),
        len(before) - len(stayed),
        len(stayed),
        sum(before[one] != now[one] for one in stayed),
    )
    return record_table([dict(zip(NAMES, counts, strict=True))])
