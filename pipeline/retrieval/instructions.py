"""Distinct instructions of a run: those of each admitted part, then one table of all, sorted by key."""

from __future__ import annotations

import pyarrow as pa

from operators.retrieval.alternatives import distinct_instructions, instruction_key, merge_instructions
from operators.schema import INSTRUCTIONS, from_rows
from pipeline.engine.job import Job, execute, items, mapped, once
from pipeline.storage.parts import read_table, write_part, write_table
from pipeline.storage.records import InstructionTable, Part, record_table, records_of

_COLUMNS = ["instruction_key", "instruction", "input", "task", "n_prompt_tokens", "n_target_tokens"]


def collect_instructions(job: Job, admitted: list[Part], pool_texts: list[str] | None) -> InstructionTable:
    """Write the table of distinct instructions; what it holds."""
    with job.reporter.stage("instructions", len(admitted)) as stage:
        dataset = mapped(items(admitted), instructions_of_part, fn_kwargs={"work": job.work})
        parts = execute("instructions", Part, dataset, lambda part: stage.advance(note=f"{part.rows:,} in this part"))
        table: InstructionTable = once("instructions", build_table, parts, job.index, pool_texts)
        stage.advance(0, f"{table.instructions:,} distinct instructions")
    return table


def instructions_of_part(batch: pa.Table, *, work: str) -> pa.Table:
    """Write the INSTRUCTIONS of each admitted part."""
    return record_table(
        write_part(f"{work}/instructions", distinct_instructions(read_table(part.path, _COLUMNS)), INSTRUCTIONS)
        for part in records_of(Part, batch)
    )


def build_table(parts: list[Part], index: str, pool_texts: list[str] | None) -> InstructionTable:
    """Merge all INSTRUCTIONS into `instructions.parquet`, sorted by key; a pool file's replace the run's as the pool."""
    table = merge_instructions(read_table(part.path) for part in parts)
    if pool_texts is not None:
        table = table.set_column(table.column_names.index("in_pool"), "in_pool", pa.array([False] * len(table)))
        extra = [
            {"key": instruction_key(text), "text": text, "in_pool": True, "tokens": 0, "uses": []}
            for text in pool_texts
        ]
        table = merge_instructions([table, from_rows(extra, INSTRUCTIONS)])
    write_table(f"{index}/instructions.parquet", table)
    return InstructionTable(len(table), sum(table["in_pool"].to_pylist()), sum(table["tokens"].to_pylist()))
