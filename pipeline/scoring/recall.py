"""Stage 5: which pairs of each block earlier runs have stored already.

Two slim tables meet, by group: what blocks ask for (group, block), and what the store holds (group, pair, sum). What is found
goes to the blocks in one more shuffle. Neither text nor token ids move.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from operators.hashing import content_hash
from operators.schema import STORED, conform
from pipeline.engine.job import SHUFFLE_BYTES, TEXT_PER_PARQUET_BYTE, Job, by_block, execute, mapped, over_parts
from pipeline.storage import computed
from pipeline.storage.parts import Record, read_part, record_table, write_part

BYTES_ASKED = 256  # that a row of a block asks with on its way: two groups
# Rows of both tables on their way to each other: those of blocks have no pair, those of the store no block.
_MEETING = pa.schema([*STORED, pa.field("run", pa.string()), pa.field("block", pa.int64())])
_FOUND = pa.schema([pa.field("pair", pa.binary(16)), pa.field("sum", pa.float64())])
_FOUND_IN_BLOCK = pa.schema([*_FOUND, pa.field("block", pa.int64())])


def recall_pairs(job: Job, placed: list[Record], scorer: str) -> list[Record]:
    """The same records with what earlier runs have stored of each block in `known`."""
    stored = [one for one in computed.by_run(scorer) if not job.fresh and one[0] != job.run]
    if not stored:
        return placed
    meeting_bytes = sum(size for _, _, size in stored) * TEXT_PER_PARQUET_BYTE
    meeting_bytes += sum(part["rows"] for part in placed) * BYTES_ASKED
    shuffles = max(1, -(-meeting_bytes // SHUFFLE_BYTES))
    meeting = [{"path": part["path"], "block": part["block"]} for part in placed]
    meeting += [{"path": path, "run": run} for run, path, _ in stored]
    dataset = over_parts(meeting, asked_and_stored, work=job.work).repartition(shuffles, keys=["group"])
    dataset = mapped(dataset, meet)
    blocks = 1 + max(part["block"] for part in placed)  # some may have no rows
    dataset = dataset.sort("block", boundaries=list(range(1, blocks))) if blocks > 1 else dataset.repartition(1)
    with job.reporter.stage("recall", len(placed), "blocks") as stage:
        pairs = 0

        def tick(record: Record) -> None:
            nonlocal pairs
            pairs += record["rows"]
            stage.advance(note=f"{pairs:,} stored pairs")

        found = execute("recall", mapped(dataset, write_found, fn_kwargs={"work": job.work}), tick)
    known = {record["block"]: record for record in by_block("recall", found)}
    return [{**part, "known": known.get(part["block"])} for part in placed]


def asked_and_stored(batch: pa.Table, *, work: str) -> Iterable[pa.Table]:
    """MEETING rows of PLACED parts and of parts of the store."""
    for item in map(json.loads, batch["item"].to_pylist()):
        if "block" in item:
            placed = read_part(item, ["pair_key", "output", "duplicate"])
            rows = placed.filter(pc.invert(placed["duplicate"]))
            groups = {*rows["pair_key"].to_pylist(), *map(content_hash, rows["output"].unique().to_pylist())}
            yield _meeting({"group": pa.array(sorted(groups), pa.binary(16))}, len(groups), block=item["block"])
        else:
            for _, table in computed.sound([item["path"]], work):
                yield _meeting({name: table[name] for name in STORED.names}, len(table), run=item["run"])


def _meeting(columns: dict, rows: int, **same: object) -> pa.Table:
    for field in _MEETING:
        if field.name not in columns:
            columns[field.name] = pa.array([same.get(field.name)] * rows, field.type)
    return conform(pa.table(columns), _MEETING)


def meet(batch: pa.Table) -> pa.Table:
    """FOUND rows with their block, of MEETING rows that hold all of each of their groups."""
    asked = batch.filter(pc.is_valid(batch["block"])).select(["group", "block"])
    found = computed.newest(batch.filter(pc.is_null(batch["block"]))).select(["group", "pair", "sum"])
    return conform(found.join(asked, "group", join_type="inner").select(_FOUND_IN_BLOCK.names), _FOUND_IN_BLOCK)


def write_found(batch: pa.Table, *, work: str) -> pa.Table:
    """Write what was found for one block."""
    if not len(batch):
        return record_table([])
    found = batch.select(_FOUND.names)
    return record_table([{**write_part(f"{work}/known", found, _FOUND), "block": batch["block"][0].as_py()}])
