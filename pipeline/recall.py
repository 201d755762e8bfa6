"""Stage 5: which pairs of each block earlier runs have stored already.

Two slim tables meet, by group: what blocks ask for (group, block), and what the store holds (group, pair, sum). What is found
goes to the blocks in one more shuffle. Neither text nor token ids move.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.schema import STORED, conform
from operators.text import content_hash
from pipeline import store
from pipeline.parts import read_part, record_table, write_part

BYTES_ASKED = 256  # that a row of a block asks with on its way: two groups
# Rows of both tables on their way to each other: those of blocks have no pair, those of the store no block.
_MEETING = pa.schema([*STORED, pa.field("run", pa.string()), pa.field("block", pa.int64())])
_FOUND = pa.schema([pa.field("pair", pa.binary(16)), pa.field("sum", pa.float64())])
_FOUND_IN_BLOCK = pa.schema([*_FOUND, pa.field("block", pa.int64())])


def asked_and_stored(batch: pa.Table, *, work: str) -> Iterable[pa.Table]:
    """MEETING rows of PLACED parts and of parts of the store."""
    for item in map(json.loads, batch["item"].to_pylist()):
        if "block" in item:
            placed = read_part(item, ["pair_key", "output", "duplicate"])
            rows = placed.filter(pc.invert(placed["duplicate"]))
            groups = {*rows["pair_key"].to_pylist(), *map(content_hash, rows["output"].unique().to_pylist())}
            yield _meeting({"group": pa.array(sorted(groups), pa.binary(16))}, len(groups), block=item["block"])
        else:
            for _, table in store.sound([item["path"]], work):
                yield _meeting({name: table[name] for name in STORED.names}, len(table), run=item["run"])


def _meeting(columns: dict, rows: int, **same: object) -> pa.Table:
    for field in _MEETING:
        if field.name not in columns:
            columns[field.name] = pa.array([same.get(field.name)] * rows, field.type)
    return conform(pa.table(columns), _MEETING)


def meet(batch: pa.Table) -> pa.Table:
    """FOUND rows with their block, of MEETING rows that hold all of each of their groups."""
    asked = batch.filter(pc.is_valid(batch["block"])).select(["group", "block"])
    found = newest(batch.filter(pc.is_null(batch["block"]))).select(["group", "pair", "sum"])
    return conform(found.join(asked, "group", join_type="inner").select(_FOUND_IN_BLOCK.names), _FOUND_IN_BLOCK)


def newest(stored: pa.Table, keys: Sequence[str] = ("group", "pair")) -> pa.Table:
    """Rows of the store with their `run`, each key once: as the newest run has it, if it was computed anew. What one run has
    stored twice, as l(0) of an output that stands in two blocks, may differ in last digits: the choice depends on no order."""
    ties = [("sum", "ascending")] if "sum" in stored.column_names else []
    ordered = stored.sort_by([*((key, "ascending") for key in keys), ("run", "descending"), *ties])
    words = np.hstack([_words(ordered[key]) for key in keys])
    first = np.r_[True, (words[1:] != words[:-1]).any(axis=1)][: len(ordered)]
    return ordered.filter(pa.array(first))


def _words(column: pa.ChunkedArray) -> np.ndarray:
    """Digests as uint64 [N, 2]."""
    return np.frombuffer(b"".join(column.to_pylist()), dtype=np.uint64).reshape(-1, 2)


def write_found(batch: pa.Table, *, work: str) -> pa.Table:
    """Write what was found for one block."""
    if not len(batch):
        return record_table([])
    found = batch.select(_FOUND.names)
    return record_table([{**write_part(f"{work}/known", found, _FOUND), "block": batch["block"][0].as_py()}])
