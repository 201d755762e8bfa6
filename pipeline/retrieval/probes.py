"""How many lists of an inverted file a query looks into: as many as the recall on a sample of queries asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from operators.retrieval.alternatives import queries_of
from pipeline.engine.job import Job, execute, items, mapped_on_gpus
from pipeline.retrieval.cells import Cells, search_lists
from pipeline.retrieval.exact import search_shards, tiles_here
from pipeline.retrieval.shards import RowRange, Shards, cached_embeddings, cached_instructions, ranges_of
from pipeline.storage.records import Retrieval, record_table, records_of

SAMPLED_QUERIES = 1024  # instructions whose exact neighbours are found too
_SAMPLED_TOGETHER = 128
_LADDER = 4  # numbers of probes that are tried on the sample at once, each twice the one before


@dataclass(frozen=True)
class Wanted:
    """What alternatives are asked for: k, and the rules."""

    k: int
    rules: dict[str, Any]


@dataclass(frozen=True)
class SampleRecall:
    """Of some sampled queries, for each number of probes: how many queries have exact neighbours, the sum of the shares of
    these that the lists gave, and of the squares of these shares."""

    probes: list[int]
    queries: list[int]
    shares: list[float]
    squares: list[float]


def choose_probes(job: Job, shards: Shards, cells: Cells, wanted: Wanted, lists: int, gpus: float) -> Retrieval:
    """How many lists are probed: the fewest of a ladder whose recall on a sample of queries is as asked for, or all."""
    first, least = job.config.alternatives.probes, job.config.alternatives.min_recall
    sample = [
        rows for shard in shards.used() for rows in ranges_of(_share_of_sample(shards, shard), _SAMPLED_TOGETHER, shard)
    ]
    while True:
        probes = [min(lists, first << step) for step in range(_LADDER)]
        kwargs = {"shards": shards, "cells": cells, "probes": probes, "wanted": wanted}
        measured = mapped_on_gpus(items(sample), recall_of_sample, kwargs, gpus)
        records = execute("lists", SampleRecall, measured)
        for place, number in enumerate(probes):
            retrieval = _measured(records, place, lists, number)
            if number >= lists or retrieval.recall is None or retrieval.recall >= least:
                return retrieval
        first <<= _LADDER


def _share_of_sample(shards: Shards, shard: int) -> int:
    """How many instructions of a shard are sampled: the first, which are those of the smallest hashes."""
    return min(shards.sizes[shard], math.ceil(SAMPLED_QUERIES * shards.sizes[shard] / shards.rows))


def _measured(records: list[SampleRecall], place: int, lists: int, probes: int) -> Retrieval:
    """The recall that one number of probes has on the sample, with its 95% interval."""
    queries = sum(record.queries[place] for record in records)
    if not queries:
        return Retrieval("lists", lists, probes, sample=0)
    mean = sum(record.shares[place] for record in records) / queries
    variance = max(0.0, sum(record.squares[place] for record in records) / queries - mean**2)
    # Where all of n shares are equal, three in n is what may still be otherwise.
    half = max(1.96 * math.sqrt(variance / queries), 3 / queries if variance == 0 else 0.0)
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    return Retrieval("lists", lists, probes, round(mean, 6), round(low, 6), round(high, 6), queries)


def recall_of_sample(
    batch: pa.Table, *, shards: Shards, cells: Cells, probes: list[int], wanted: Wanted, gpus: float
) -> pa.Table:
    """Records of SampleRecall: the exact neighbours of ranges of instructions, and what lists give of them."""
    records, tiles = [], tiles_here(gpus)
    for rows in records_of(RowRange, batch):
        places = slice(rows.start, rows.stop)
        table, vectors = (
            cached_instructions(shards.index, rows.shard)[places],
            cached_embeddings(shards.index, rows.shard),
        )
        queries = queries_of(table, shards.rows_of(rows.shard)[places], vectors[places])
        exact = search_shards(shards, queries, wanted.k, wanted.rules, tiles).end()["candidates"].to_pylist()
        shares = []
        for number in probes:
            table, _ = search_lists(cells, queries, wanted.k, number, wanted.k, wanted.rules)
            given = table["candidates"].to_pylist()
            shares.append(
                np.array([len({*a} & {*b}) / len(a) for a, b in zip(exact, given, strict=True) if a], dtype=float)
            )
        records.append(
            SampleRecall(
                probes,
                [len(share) for share in shares],
                [float(share.sum()) for share in shares],
                [float((share**2).sum()) for share in shares],
            )
        )
    return record_table(records)


def in_words(retrieval: Retrieval) -> str:
    """How alternatives were looked for, for people."""
    if retrieval.recall is None:
        return "all lists are probed"
    return f"{retrieval.probes:,} of {retrieval.lists:,} lists probed, recall {retrieval.recall:.3f}"
