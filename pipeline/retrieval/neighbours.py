"""For every way in which rows ask, the ranked alternatives; and the order in which instructions stand in blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from operators.retrieval.clusters import auto_count, clusters_of
from operators.retrieval.prompt_order import neighbourhood_order, shared_order
from operators.schema import NEIGHBOURS
from pipeline.engine.job import Job, execute, items, mapped, once
from pipeline.retrieval.index import RowRange, cached_pool, pool_settings, ranges_of
from pipeline.retrieval.place import block_count
from pipeline.storage.arrays import load_array, save_array
from pipeline.storage.parts import read_table, write_part, write_table
from pipeline.storage.records import InstructionTable, Part, record_table, records_of

NEIGHBOUR_RANGE = 2048
SPARE = 2  # candidates kept per query, as a multiple of k: an alternative may prove too long for a row


class RangeNeighbours(NamedTuple):
    """A part of NEIGHBOURS of the instructions from `start` on."""

    start: int
    part: Part


def find_neighbours(job: Job, table: InstructionTable) -> None:
    """Write the ranked candidates of all queries, the order of the instructions and their clusters."""
    k = job.config.alternatives.k
    ranges = ranges_of(table.instructions, NEIGHBOUR_RANGE)
    with job.reporter.stage("neighbours", len(ranges), "ranges") as stage:
        kwargs = {"work": job.work, "pool": pool_settings(job), "k": k}
        dataset = mapped(items(ranges), neighbours_of_range, fn_kwargs=kwargs)
        parts = execute("neighbours", RangeNeighbours, dataset, lambda record: stage.advance())
        once("neighbours", build_neighbours, parts, job.index, k, block_count(table.tokens, k))
        wanted = job.config.alternatives.clusters
        count = auto_count(table.instructions) if wanted == "auto" else int(wanted)
        once("neighbours", build_clusters, job.index, count)


def neighbours_of_range(batch: pa.Table, *, work: str, pool: dict[str, Any], k: int) -> pa.Table:
    """Write the NEIGHBOURS of ranges of instructions."""
    loaded = cached_pool(**pool)
    tables = ((rows.start, loaded.neighbours(rows.start, rows.stop, SPARE * k)) for rows in records_of(RowRange, batch))
    return record_table(
        RangeNeighbours(start, write_part(f"{work}/neighbours", table, NEIGHBOURS)) for start, table in tables
    )


def build_neighbours(parts: list[RangeNeighbours], index: str, k: int, blocks: int) -> None:
    """All NEIGHBOURS as one table, in the order of the instructions; and the order in which rows of the instructions are to
    stand in so many scoring blocks."""
    ordered = sorted(parts, key=lambda record: record[0])
    table = pa.concat_tables([read_table(part.path) for _, part in ordered])
    write_table(f"{index}/neighbours.parquet", table)
    tokens = read_table(f"{index}/instructions.parquet", ["tokens"])["tokens"].to_numpy()
    prompted: list[list[int]] = [[row] for row in range(len(tokens))]
    for row, candidates in zip(table["instruction_row"].to_pylist(), table["candidates"].to_pylist(), strict=True):
        prompted[row] += candidates[:k]
    base = neighbourhood_order(load_array(f"{index}/embeddings.arrow"))
    order = shared_order(base, [np.unique(rows) for rows in prompted], tokens, -(-int(tokens.sum()) // blocks))
    save_array(f"{index}/order.arrow", order)


def build_clusters(index: str, count: int) -> None:
    """The cluster of each instruction; the run's seed, which `tss select` may change, has no part in it."""
    save_array(f"{index}/clusters.arrow", clusters_of(load_array(f"{index}/embeddings.arrow"), count))
