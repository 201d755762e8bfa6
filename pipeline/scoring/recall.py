"""Stage 5: which pairs of each block earlier runs have stored already.

Two slim tables meet, by group: what blocks ask for (group, block), and what the store holds (group, pair, sum). What is found
goes to the blocks in one more shuffle. Neither text nor token ids move.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from operators.hashing import content_hash
from operators.schema import STORED, conform
from pipeline.engine.job import SHUFFLE_BYTES, TEXT_PER_PARQUET_BYTE, Job, by_block, mapped, over_parts, stream
from pipeline.engine.light_pass import are_small, divided, is_small, pass_here
from pipeline.retrieval.shards import in_shards
from pipeline.storage import computed
from pipeline.storage.parts import read_table, write_part
from pipeline.storage.records import Block, BlockPart, Part, PlacedBlock, record_table, records_of

BYTES_ASKED = 256  # that a row of a block asks with on its way: two groups
# Rows of both tables on their way to each other: those of blocks have no pair, those of the store no block.
_MEETING = pa.schema([*STORED, pa.field("run", pa.string()), pa.field("block", pa.int64())])
_PAIRS = pa.schema([pa.field("pair", pa.binary(16)), pa.field("sum", pa.float64())])
_PAIRS_OF_BLOCK = pa.schema([*_PAIRS, pa.field("block", pa.int64())])


@dataclass(frozen=True)
class Source:
    """A part whose rows meet those of others: of a block that asks, or of the store as a run has written it."""

    path: str
    block: int | None = None
    run: str | None = None


def recall_pairs(job: Job, placed: list[PlacedBlock], offers: dict[int, Part], scorer: str) -> list[Block]:
    """The blocks, each with the OFFERS of its queries and what earlier runs have stored of its pairs."""
    stored = [part for part in computed.by_run(scorer) if not job.fresh and part[0] != job.run]
    recalled = _stored_pairs(job, placed, stored) if stored else {}
    return [
        Block(block.block, block.part, offers[block.block], block.duplicates, recalled.get(block.block))
        for block in placed
    ]


def _stored_pairs(job: Job, placed: list[PlacedBlock], stored: list[tuple[str, str, int]]) -> dict[int, Part]:
    """By block, its pairs that are in parts of the store, (run, path, bytes)."""
    with job.reporter.stage("recall", len(placed), "blocks") as stage:
        pairs, recalled = 0, []
        for block in _recalled(job, placed, stored):
            recalled.append(block)
            pairs += block.part.rows
            stage.advance(note=f"{pairs:,} stored pairs")
    return {block.block: block.part for block in by_block("recall", recalled)}


def _recalled(job: Job, placed: list[PlacedBlock], stored: list[tuple[str, str, int]]) -> Iterator[BlockPart]:
    stored_bytes = sum(size for _, _, size in stored)
    sources = [Source(block.part.path, block=block.block) for block in placed]
    sources += [Source(path, run=run) for run, path, _ in stored]
    if is_small(placed) and are_small(len(stored), stored_bytes):
        return pass_here("recall", BlockPart, sources, recall_here, work=job.work)
    meeting_bytes = stored_bytes * TEXT_PER_PARQUET_BYTE
    meeting_bytes += sum(block.part.rows for block in placed) * BYTES_ASKED
    shuffles = max(1, -(-meeting_bytes // SHUFFLE_BYTES))
    dataset = over_parts(sources, asked_and_stored, work=job.work).repartition(shuffles, keys=["group"])
    blocks = 1 + max(block.block for block in placed)  # some may have no rows
    dataset = in_shards(mapped(dataset, meet), "block", blocks)
    return stream("recall", BlockPart, mapped(dataset, write_recalled, fn_kwargs={"work": job.work}))


def recall_here(batch: pa.Table, *, work: str) -> pa.Table:
    """Write what is stored of the pairs of each block, where these sources are all that there are."""
    met = meet(pa.concat_tables(asked_and_stored(batch, work=work)))
    return divided(met, "block", write_recalled, work=work)


def asked_and_stored(batch: pa.Table, *, work: str) -> Iterable[pa.Table]:
    """MEETING rows of PLACED parts and of parts of the store."""
    for source in records_of(Source, batch):
        if source.block is not None:
            placed = read_table(source.path, ["pair_key", "output", "duplicate"])
            rows = placed.filter(pc.invert(placed["duplicate"]))
            groups = {*rows["pair_key"].to_pylist(), *map(content_hash, rows["output"].unique().to_pylist())}
            yield _meeting({"group": pa.array(sorted(groups), pa.binary(16))}, len(groups), block=source.block)
        else:
            for _, table in computed.undamaged([source.path], work):
                yield _meeting({name: table[name] for name in STORED.names}, len(table), run=source.run)


def _meeting(columns: dict[str, Any], rows: int, **same: object) -> pa.Table:
    for field in _MEETING:
        if field.name not in columns:
            columns[field.name] = pa.array([same.get(field.name)] * rows, field.type)
    return conform(pa.table(columns), _MEETING)


def meet(batch: pa.Table) -> pa.Table:
    """Stored pairs with their block, of MEETING rows that hold all of each of their groups."""
    asked = batch.filter(pc.is_valid(batch["block"])).select(["group", "block"])
    stored = computed.newest(batch.filter(pc.is_null(batch["block"]))).select(["group", "pair", "sum"])
    return conform(stored.join(asked, "group", join_type="inner").select(_PAIRS_OF_BLOCK.names), _PAIRS_OF_BLOCK)


def write_recalled(batch: pa.Table, *, work: str) -> pa.Table:
    """Write what is stored of the pairs of one block."""
    if not len(batch):
        return record_table([])
    part = write_part(f"{work}/known", batch.select(_PAIRS.names), _PAIRS)
    return record_table([BlockPart(batch["block"][0].as_py(), part)])
