"""Distinct instructions of a run: those of each admitted part, then one table of all, sorted by key."""

from __future__ import annotations

import json

import pyarrow as pa

from operators.retrieval.alternatives import distinct_instructions, instruction_key, merge_instructions
from operators.schema import INSTRUCTIONS, from_rows
from pipeline.engine.job import Job, execute, items, mapped, once
from pipeline.storage.parts import Record, read_part, record_table, write_part, write_table

_COLUMNS = ["instruction_key", "instruction", "input", "task", "n_prompt_tokens", "n_target_tokens"]


def collect_instructions(job: Job, admitted: list[Record], pool_texts: list[str] | None) -> Record:
    """Write the table of distinct instructions; what it holds."""
    with job.reporter.stage("instructions", len(admitted)) as stage:
        parts = execute(
            "instructions",
            mapped(items(admitted), instructions_of_part, fn_kwargs={"work": job.work}),
            lambda record: stage.advance(note=f"{record['rows']:,} in this part"),
        )
        table = once("instructions", build_table, parts, job.index, pool_texts)
        stage.advance(0, f"{table['instructions']:,} distinct instructions")
    return table


def instructions_of_part(batch: pa.Table, *, work: str) -> pa.Table:
    """Write the INSTRUCTIONS of each admitted part."""
    return record_table(
        write_part(f"{work}/instructions", distinct_instructions(read_part(json.loads(text), _COLUMNS)), INSTRUCTIONS)
        for text in batch["item"].to_pylist()
    )


def build_table(parts: list[Record], index: str, pool_texts: list[str] | None) -> Record:
    """Merge all INSTRUCTIONS into `instructions.parquet`, sorted by key; a pool file's replace the run's as the pool."""
    table = merge_instructions(read_part(part) for part in parts)
    if pool_texts is not None:
        table = table.set_column(table.column_names.index("in_pool"), "in_pool", pa.array([False] * len(table)))
        extra = [
            {"key": instruction_key(text), "text": text, "in_pool": True, "tokens": 0, "uses": []}
            for text in pool_texts
        ]
        table = merge_instructions([table, from_rows(extra, INSTRUCTIONS)])
    write_table(f"{index}/instructions.parquet", table)
    return {
        "instructions": len(table),
        "pool": sum(table["in_pool"].to_pylist()),
        "tokens": sum(table["tokens"].to_pylist()),
    }
