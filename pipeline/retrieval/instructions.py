"""Distinct instructions of a run: those of each admitted part, then one table of all in shards, sorted by key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from operators.retrieval.instruction_table import distinct_instructions, merge_instructions, pool_instructions
from operators.schema import INSTRUCTIONS
from pipeline.engine.job import Job, execute, items, mapped, once
from pipeline.engine.light_pass import light_pass
from pipeline.retrieval.shards import SHARD_ROWS, Shards, in_shards, instructions_path, shards_of_keys
from pipeline.storage.parts import read_table, write_part, write_table
from pipeline.storage.records import Part, record_table, records_of

_COLUMNS = ["instruction_key", "instruction", "input", "task", "n_prompt_tokens", "n_target_tokens"]
_SKETCH = 32  # of the smallest keys: how dense they lie says how many there are, to a sixth
_MERGED_TOGETHER = 200_000  # rows of parts that are merged at once


@dataclass(frozen=True)
class DistinctPart:
    """The INSTRUCTIONS of an admitted part, and the smallest of their keys as parts of the whole range."""

    part: Part
    smallest: list[float]


@dataclass(frozen=True)
class Shard:
    """What a shard holds: instructions, those that are offered as alternatives, the tokens of their rows."""

    shard: int
    instructions: int
    pool: int
    tokens: int


@dataclass(frozen=True)
class InstructionTable:
    """The distinct instructions of a run: the shards, how many are offered as alternatives, the tokens of their rows."""

    shards: Shards
    pool: int
    tokens: int


def collect_instructions(
    job: Job, admitted: list[Part], pool_texts: list[str] | None, max_length: int
) -> InstructionTable:
    """Write the table of distinct instructions; what it holds. A pool file's instructions replace the run's as the pool."""
    with job.reporter.stage("instructions", len(admitted)) as stage:
        kwargs = {"work": job.work, "max_length": max_length, "in_pool": pool_texts is None}
        distinct = []
        for record in light_pass("instructions", DistinctPart, admitted, instructions_of_part, divided=items, **kwargs):
            distinct.append(record)
            stage.advance(note=f"{record.part.rows:,} in this part")
        if pool_texts is not None:
            distinct.append(_distinct_part(job.work, pool_instructions(pool_texts)))
        parts = [record.part for record in distinct]
        count = -(-_estimate(distinct) // SHARD_ROWS)
        if count > 1:
            divided = in_shards(mapped(items(parts), divide_part, fn_kwargs={"count": count}), "shard", count)
            written = mapped(divided, write_shard, fn_kwargs={"index": job.index})
            shards = execute("instructions", Shard, written)
        else:
            shards = [once("instructions", write_only_shard, parts, job.index)]
        sizes = [0] * count
        for shard in shards:
            sizes[shard.shard] = shard.instructions
        stage.advance(0, f"{sum(sizes):,} distinct instructions")
    return InstructionTable(
        Shards(job.index, sizes), sum(shard.pool for shard in shards), sum(shard.tokens for shard in shards)
    )


def instructions_of_part(batch: pa.Table, *, work: str, max_length: int, in_pool: bool) -> pa.Table:
    """Write the INSTRUCTIONS of each admitted part."""
    records = []
    for part in records_of(Part, batch):
        table = distinct_instructions(read_table(part.path, _COLUMNS), max_length)
        column = pa.array(np.full(len(table), in_pool))
        records.append(_distinct_part(work, table.set_column(table.column_names.index("in_pool"), "in_pool", column)))
    return record_table(records)


def _distinct_part(work: str, table: pa.Table) -> DistinctPart:
    smallest = [int.from_bytes(key[:8], "big") / 2.0**64 for key in table["key"][:_SKETCH].to_pylist()]
    return DistinctPart(write_part(f"{work}/instructions", table, INSTRUCTIONS), smallest)


def _estimate(distinct: list[DistinctPart]) -> int:
    """About how many distinct instructions all parts have; it follows from these alone, however they are divided."""
    smallest = sorted({key for record in distinct for key in record.smallest})[:_SKETCH]
    return len(smallest) if len(smallest) < _SKETCH else round((_SKETCH - 1) / max(smallest[-1], 2.0**-64))


def divide_part(batch: pa.Table, *, count: int) -> Iterable[pa.Table]:
    """INSTRUCTIONS of recorded parts with the number of the shard that each belongs to."""
    for part in records_of(Part, batch):
        table = read_table(part.path)
        yield table.append_column("shard", pa.array(shards_of_keys(table["key"], count)))


def write_shard(batch: pa.Table, *, index: str) -> pa.Table:
    """Write the INSTRUCTIONS of one shard, merged."""
    if not len(batch):
        return record_table([])
    shard = batch["shard"][0].as_py()
    return record_table([_write(merge_instructions([batch.drop_columns(["shard"])]), index, shard)])


def write_only_shard(parts: list[Part], index: str) -> Shard:
    """Write the INSTRUCTIONS of all parts, merged; parts may repeat each other, so some are merged at a time."""
    merged, waiting, rows = INSTRUCTIONS.empty_table(), [], 0
    for part in parts:
        waiting.append(read_table(part.path))
        rows += part.rows
        if rows > _MERGED_TOGETHER:
            merged, waiting, rows = merge_instructions([merged, *waiting]), [], 0
    return _write(merge_instructions([merged, *waiting]), index, 0)


def _write(table: pa.Table, index: str, shard: int) -> Shard:
    write_table(instructions_path(index, shard), table)
    in_pool, tokens = table["in_pool"].to_numpy(), table["tokens"].to_numpy()
    return Shard(shard, len(table), int(in_pool.sum()), int(tokens.sum()))
