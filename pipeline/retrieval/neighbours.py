"""For every way in which rows ask, the ranked alternatives, and where the rows of each instruction stand.

A table of one shard is searched whole, by ranges of its rows. A larger one, or one of more instructions than are searched
exactly, goes through an inverted file (`lists.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from operators.retrieval.alternatives import Queries, queries_of, ranked
from operators.retrieval.clusters import SAMPLE, auto_count, cluster_centres, clusters_of
from operators.retrieval.query_table import place_queries
from operators.schema import NEIGHBOURS
from pipeline.engine.job import Job, execute, items, mapped_on_gpus, once
from pipeline.engine.light_pass import pass_here
from pipeline.retrieval.blocks import block_width
from pipeline.retrieval.exact import gpus_of_search, neighbours_in_shards, tiles_here
from pipeline.retrieval.instructions import InstructionTable
from pipeline.retrieval.lists import find_in_lists
from pipeline.retrieval.shards import (
    RowRange,
    Shards,
    cached_embeddings,
    cached_instructions,
    queries_path,
    ranges_of,
)
from pipeline.storage.parts import read_table, write_part, write_table
from pipeline.storage.records import Part, Retrieval, record_table, records_of

NEIGHBOUR_RANGE = 2048


class RangeNeighbours(NamedTuple):
    """A part of NEIGHBOURS of the instructions from `start` on."""

    start: int
    part: Part


def find_neighbours(job: Job, table: InstructionTable) -> Retrieval:
    """Write the QUERIES of every shard; how they were found."""
    wanted, rows = job.config.alternatives, table.shards.rows
    clusters = auto_count(rows) if wanted.clusters == "auto" else int(wanted.clusters)
    if len(table.shards.sizes) > 1 or rows > wanted.exact_below:
        return find_in_lists(job, table, clusters)
    ranges = ranges_of(rows, NEIGHBOUR_RANGE)
    rules = {"paraphrase_max": wanted.paraphrase_max, "same_task": wanted.same_task}
    with job.reporter.stage("neighbours", len(ranges), "ranges") as stage:
        kwargs = {"work": job.work, "shards": table.shards, "k": wanted.k, "rules": rules}
        last: tuple[Any, ...] = (table.shards, wanted.k, block_width(table.tokens, wanted.k), clusters)
        if len(ranges) == 1:
            parts = list(pass_here("neighbours", RangeNeighbours, ranges, neighbours_of_range, gpus=0.0, **kwargs))
            write_queries([record.part for record in parts], *last)
            stage.advance()
        else:
            dataset = mapped_on_gpus(items(ranges), neighbours_of_range, kwargs, gpus_of_search(job, rows))
            parts = execute("neighbours", RangeNeighbours, dataset, lambda record: stage.advance())
            ordered = [part for _, part in sorted(parts, key=lambda record: record.start)]
            once("neighbours", write_queries, ordered, *last)
    return Retrieval("exact")


def neighbours_of_range(
    batch: pa.Table, *, work: str, shards: Shards, k: int, rules: dict[str, Any], gpus: float
) -> pa.Table:
    """Write the NEIGHBOURS of ranges of instructions."""
    instructions, embeddings = cached_instructions(shards.index, 0), cached_embeddings(shards.index, 0)
    tiles = tiles_here(gpus)

    def search(queries: Queries, count: int) -> tuple[pa.Table, np.ndarray]:
        return neighbours_in_shards(shards, queries, count, k, rules, tiles)

    records = []
    for rows in records_of(RowRange, batch):
        places = slice(rows.start, rows.stop)
        queries = queries_of(instructions[places], shards.rows_of(0)[places], embeddings[places])
        part = write_part(f"{work}/neighbours", ranked(queries, k, search), NEIGHBOURS)
        records.append(RangeNeighbours(rows.start, part))
    return record_table(records)


def write_queries(parts: list[Part], shards: Shards, k: int, width: int, clusters: int) -> None:
    """The QUERIES of the only shard, from the NEIGHBOURS of its ranges in order."""
    neighbours = pa.concat_tables([read_table(part.path) for part in parts])
    embeddings = cached_embeddings(shards.index, 0)
    labels = clusters_of(embeddings, cluster_centres(embeddings[:SAMPLE], clusters))
    tokens = cached_instructions(shards.index, 0)["tokens"].to_numpy()
    table = place_queries(neighbours, shards.rows_of(0), embeddings, tokens, labels, k=k, width=width)
    write_table(queries_path(shards.index, 0), table)
