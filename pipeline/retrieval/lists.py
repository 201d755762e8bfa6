"""Neighbours in a table of many instructions: an inverted file, whose lists are looked into as far as the recall asks for.

Centres come from a sample, in one task; each shard's rows go to their lists in one shuffle; groups of lists, near each other in
meaning, are searched as tasks, each of which reads the lists that its own instructions are nearest to. How many lists these are
is decided on a sample of queries, of which the exact neighbours are found as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pyarrow as pa

from operators.retrieval.alternatives import Queries, queries_of, ranked
from operators.retrieval.clusters import SAMPLE, cluster_centres, clusters_of
from operators.retrieval.instruction_table import use_order
from operators.retrieval.lists import SAMPLE_PER_LIST, find_centres, list_count, nearest_lists
from operators.retrieval.query_table import place_queries
from operators.schema import QUERIES
from pipeline.engine.job import Job, execute, items, mapped, mapped_on_gpus, once
from pipeline.retrieval.blocks import block_width
from pipeline.retrieval.cells import (
    CELLS,
    Cells,
    Group,
    cached_centres,
    cached_group,
    centres_path,
    group_path,
    read_cells,
    search_lists,
    vectors_path,
)
from pipeline.retrieval.exact import gpus_of_search, neighbours_in_shards, tiles_here
from pipeline.retrieval.instructions import InstructionTable
from pipeline.retrieval.probes import Wanted, choose_probes, in_words
from pipeline.retrieval.shards import (
    Shards,
    cached_embeddings,
    cached_instructions,
    in_shards,
    queries_path,
)
from pipeline.storage import urls
from pipeline.storage.arrays import load_array, save_array
from pipeline.storage.parts import read_table, write_part, write_table
from pipeline.storage.records import Part, Retrieval, record_table, records_of

GROUP_ROWS = 8192  # instructions of a group of lists, about
_CELLS_TOGETHER = 16_384  # instructions on their way to their groups in one table


@dataclass(frozen=True)
class ShardLists:
    """Of a shard: instructions of each list, and the tokens of their rows."""

    shard: int
    rows: list[int]
    tokens: list[int]


def find_in_lists(job: Job, table: InstructionTable, clusters: int) -> Retrieval:
    """Write the QUERIES of every shard from an inverted file; how they were found."""
    asked, shards = job.config.alternatives, table.shards
    exact = shards.rows <= asked.exact_below
    wanted = Wanted(asked.k, {"paraphrase_max": asked.paraphrase_max, "same_task": asked.same_task})
    with job.reporter.stage("lists", None, "shards") as stage:
        gpus = gpus_of_search(job, shards.rows)
        lists = once("lists", write_centres, shards, list_count(shards.rows), clusters, gpus, gpus=gpus)
        stage.advance(note=f"{lists:,} lists")
        groups = _write_cells(shards, lists, gpus)
        cells = Cells(shards.index, [group.first_list for group in groups])
        retrieval = Retrieval("exact") if exact else choose_probes(job, shards, cells, wanted, lists, gpus)
        stage.advance(note=in_words(retrieval))
    with job.reporter.stage("neighbours", len(groups), "groups of lists") as stage:
        kwargs = {
            "work": job.work,
            "shards": shards,
            "cells": cells,
            "probes": retrieval.probes,
            "wanted": wanted,
            "width": block_width(table.tokens, asked.k),
        }
        # Products within lists are too small for a GPU.
        dataset = mapped_on_gpus(items(groups), queries_of_group, kwargs, gpus if exact else 0.0)
        parts = execute("neighbours", Part, dataset, lambda part: stage.advance())
        divided = in_shards(
            mapped(items(parts), divide_queries, fn_kwargs={"shards": shards}), "shard", len(shards.sizes)
        )
        execute("neighbours", Part, mapped(divided, write_queries, fn_kwargs={"index": shards.index}))
    return retrieval


def write_centres(shards: Shards, lists: int, clusters: int, gpus: float) -> int:
    """Write the centres of lists and of clusters, found on a sample; how many lists there are."""
    # Keys are hashes: the first rows of shards are a sample of all.
    sample = _sample_of(shards, max(SAMPLE_PER_LIST * lists, SAMPLE))
    centres = find_centres(sample[: SAMPLE_PER_LIST * lists], lists, tiles_here(gpus))
    save_array(centres_path(shards.index), centres)
    save_array(_cluster_centres_path(shards.index), cluster_centres(sample[:SAMPLE], clusters))
    return len(centres)


def _sample_of(shards: Shards, count: int) -> np.ndarray:
    """Float32 [N, D]: embeddings of about `count` instructions, in no order of meaning."""
    share = min(1.0, count / shards.rows)
    sample = np.concatenate([vectors[: math.ceil(len(vectors) * share)] for _, vectors in shards.embeddings()])
    # Mixed, so that a part of it has rows of all shards as well.
    return np.ascontiguousarray(sample[np.random.default_rng(0).permutation(len(sample))])


def _cluster_centres_path(index: str) -> str:
    return urls.join(index, "cluster_centres.arrow")


def _write_cells(shards: Shards, lists: int, gpus: float) -> list[Group]:
    """Write the files of an inverted file; its groups."""
    used = shards.used()
    asked = {"shards": shards, "lists": lists}
    sizes = execute("lists", ShardLists, mapped_on_gpus(items(used), assign_lists, asked, gpus))
    rows, tokens = (np.sum([getattr(record, name) for record in sizes], axis=0) for name in ("rows", "tokens"))
    groups = _grouped(rows, tokens)
    first_lists = [group.first_list for group in groups]
    kwargs = {"shards": shards, "first_lists": first_lists}
    divided = in_shards(mapped(items(used), cells_of_shard, fn_kwargs=kwargs), "group", len(groups))
    written = mapped(divided, write_group, fn_kwargs={"index": shards.index})
    execute("lists", int, written)
    return groups


def _grouped(rows: np.ndarray, tokens: np.ndarray) -> list[Group]:
    """Groups of about GROUP_ROWS instructions, given those of each list and the tokens of their rows; none is empty."""
    groups: list[Group] = []
    first, begin, held = 0, 0, 0
    for number in range(len(rows)):
        held += int(rows[number])
        if held >= GROUP_ROWS or number == len(rows) - 1:
            if held or not groups:
                groups.append(Group(len(groups), first, number + 1, begin))
            else:
                groups[-1] = replace(groups[-1], last_list=number + 1)
            begin += int(tokens[first : number + 1].sum())
            first, held = number + 1, 0
    return groups


def _lists_path(index: str, shard: int) -> str:
    return urls.join(index, "lists", f"{shard:05d}.arrow")


def assign_lists(batch: pa.Table, *, shards: Shards, lists: int, gpus: float) -> pa.Table:
    """Write the list of each instruction of shards."""
    records, tiles = [], tiles_here(gpus)
    for shard in records_of(int, batch):
        numbers = nearest_lists(cached_embeddings(shards.index, shard), cached_centres(shards.index), tiles)
        save_array(_lists_path(shards.index, shard), numbers)
        tokens = cached_instructions(shards.index, shard)["tokens"].to_numpy()
        sums = np.bincount(numbers, weights=tokens, minlength=lists).astype(np.int64)
        records.append(ShardLists(shard, np.bincount(numbers, minlength=lists).tolist(), sums.tolist()))
    return record_table(records)


def cells_of_shard(batch: pa.Table, *, shards: Shards, first_lists: list[int]) -> Iterable[pa.Table]:
    """The CELLS of shards with the bytes of their embeddings and the group that each belongs to."""
    for shard in records_of(int, batch):
        lists = load_array(_lists_path(shards.index, shard))
        table = cached_instructions(shards.index, shard).drop_columns(["key", "text"])
        groups = np.searchsorted(first_lists, lists, side="right") - 1
        rows, vectors = shards.rows_of(shard), cached_embeddings(shards.index, shard)
        width = vectors.shape[1] * vectors.itemsize
        for start in range(0, len(table), _CELLS_TOGETHER):
            part = slice(start, start + _CELLS_TOGETHER)
            data = pa.py_buffer(vectors[part].tobytes())
            cells = table[part]
            columns = {
                "list": pa.array(lists[part]),
                "row": pa.array(rows[part]),
                "vector": pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(cells), [None, data]),
                "group": pa.array(groups[part]),
            }
            for name, column in columns.items():
                cells = cells.append_column(name, column)
            yield cells


def write_group(batch: pa.Table, *, index: str) -> pa.Table:
    """Write the files of one group of lists; its number."""
    if not len(batch):
        return record_table([])
    group = batch["group"][0].as_py()
    table = batch.sort_by([("list", "ascending"), ("row", "ascending")]).combine_chunks()
    flat: np.ndarray = np.frombuffer(b"".join(table["vector"].to_pylist()), dtype=np.float32)
    save_array(vectors_path(index, group), flat.reshape(len(table), -1))
    write_table(group_path(index, group), table.select(CELLS.names))
    return record_table([group])


def queries_of_group(
    batch: pa.Table,
    *,
    work: str,
    shards: Shards,
    cells: Cells,
    probes: int | None,
    wanted: Wanted,
    width: int,
    gpus: float,
) -> pa.Table:
    """Write the QUERIES of the instructions of groups, from so many lists a query, or from all instructions."""
    parts, tiles = [], tiles_here(gpus)

    def search(queries: Queries, count: int) -> tuple[pa.Table, np.ndarray]:
        if probes is None:
            return neighbours_in_shards(shards, queries, count, wanted.k, wanted.rules, tiles)
        return search_lists(cells, queries, count, probes, wanted.k, wanted.rules)

    for group in records_of(Group, batch):
        loaded, table = cached_group(cells.index, group.number), read_cells(cells.index, group.number)
        # Queries of one list look into the same lists, those of a group into the same shards.
        begins = [0] if probes is None else np.unique(loaded.lists, return_index=True)[1].tolist()
        neighbours = []
        for start, stop in pairwise([*begins, len(table)]):
            own = table[start:stop].combine_chunks()
            queries = queries_of(own, loaded.facts.rows[start:stop], loaded.vectors[start:stop])
            neighbours.append(ranked(queries, wanted.k, search))
        placed = place_queries(
            pa.concat_tables(neighbours).combine_chunks(),
            loaded.facts.rows,
            loaded.vectors,
            table["tokens"].to_numpy(),
            clusters_of(loaded.vectors, load_array(_cluster_centres_path(cells.index))),
            k=wanted.k,
            width=width,
            begin=group.begin,
        )
        parts.append(write_part(f"{work}/queries", placed, QUERIES))
    return record_table(parts)


def divide_queries(batch: pa.Table, *, shards: Shards) -> Iterable[pa.Table]:
    """QUERIES of recorded parts with the shard that each belongs to."""
    for part in records_of(Part, batch):
        table = read_table(part.path)
        yield table.append_column("shard", pa.array(shards.of_rows(table["instruction_row"].to_numpy())))


def write_queries(batch: pa.Table, *, index: str) -> pa.Table:
    """Write the QUERIES of one shard."""
    if not len(batch):
        return record_table([])
    table = batch.drop_columns(["shard"]).take(use_order(batch, "instruction_row"))
    return record_table([write_table(queries_path(index, batch["shard"][0].as_py()), table)])
