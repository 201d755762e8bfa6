"""For every way in which rows ask, the ranked alternatives; and the order in which instructions stand in blocks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from operators.retrieval.prompt_order import neighbourhood_order, shared_order
from operators.schema import NEIGHBOURS
from pipeline.engine.job import Job, execute, items, mapped, once
from pipeline.retrieval import place
from pipeline.retrieval.index import cached_pool, pool_settings, ranges_of
from pipeline.storage.arrays import load_array, save_array
from pipeline.storage.parts import Record, read_part, read_table, record_table, write_part, write_table

NEIGHBOUR_RANGE = 2048
SPARE = 2  # candidates kept per query, as a multiple of k: an alternative may prove too long for a row


def find_neighbours(job: Job, table: Record) -> None:
    """Write the ranked candidates of all queries and the order of the instructions."""
    config = job.config
    ranges = ranges_of(table["instructions"], NEIGHBOUR_RANGE)
    with job.reporter.stage("neighbours", len(ranges), "ranges") as stage:
        kwargs = {"work": job.work, "pool": pool_settings(job), "k": config.alternatives.k}
        parts = execute(
            "neighbours",
            mapped(items(ranges), neighbours_of_range, fn_kwargs=kwargs),
            lambda record: stage.advance(),
        )
        blocks = place.block_count(table["tokens"], config.alternatives.k)
        once("neighbours", build_neighbours, parts, job.index, config.alternatives.k, blocks)


def neighbours_of_range(batch: pa.Table, *, work: str, pool: dict[str, Any], k: int) -> pa.Table:
    """Write the NEIGHBOURS of ranges of instructions."""
    records = []
    for item in map(json.loads, batch["item"].to_pylist()):
        table = cached_pool(**pool).neighbours(item["start"], item["stop"], SPARE * k)
        records.append({**write_part(f"{work}/neighbours", table, NEIGHBOURS), "start": item["start"]})
    return record_table(records)


def build_neighbours(parts: list[Record], index: str, k: int, blocks: int) -> None:
    """All NEIGHBOURS as one table, in the order of the instructions; and in `order.npy` the order in which rows of the
    instructions are to stand in so many scoring blocks."""
    ordered = sorted(parts, key=lambda part: part["start"])
    table = pa.concat_tables([read_part(part) for part in ordered])
    write_table(f"{index}/neighbours.parquet", table)
    tokens = read_table(f"{index}/instructions.parquet", ["tokens"])["tokens"].to_numpy()
    asked: list[list[int]] = [[row] for row in range(len(tokens))]
    for row, candidates in zip(table["instruction_row"].to_pylist(), table["candidates"].to_pylist(), strict=True):
        asked[row] += candidates[:k]
    base = neighbourhood_order(load_array(f"{index}/embeddings.npy"))
    order = shared_order(base, [np.unique(one) for one in asked], tokens, -(-int(tokens.sum()) // blocks))
    save_array(f"{index}/order.npy", order)
