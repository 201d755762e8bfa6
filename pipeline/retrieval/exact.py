"""Exact neighbours, from all shards of a table: on GPUs where enough of them are free."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from operators.retrieval.alternatives import Facts, Queries, Search, facts_of
from operators.retrieval.tiles import HOST, Tiles
from pipeline.engine.job import Job
from pipeline.retrieval.shards import SHARDS_KEPT, Shards, cached_instructions

# Fewer instructions are searched on a few cores before torch has begun to use a GPU.
_GPU_FROM = 50_000
# Half of the work stays with the CPU, at 384 dimensions: beside many more cores the places on a few GPUs would be too few.
_CORES_A_PLACE = 3


def gpus_of_search(job: Job, instructions: int) -> float:
    """What a search for the neighbours of so many instructions gets of a GPU for each actor, of those that are free now; 0 for
    none. GPUs that are taken are not waited for."""
    share = job.pools.gpus_per_search
    if not share or instructions < _GPU_FROM:
        return 0.0
    free = ray.available_resources()
    places = int(free.get("GPU", 0.0) / share)
    return share if places and _CORES_A_PLACE * places >= free.get("CPU", 0.0) else 0.0


def tiles_here(gpus: float) -> Tiles:
    """How this worker, which was given so much of a GPU, computes similarities. A GPU that is full, or does not compute them
    closely enough (TF32), is left aside: the CPU gives the same. Raises NoGpu where torch cannot use it."""
    return _tiles_on_gpu() if gpus else HOST


@lru_cache(maxsize=1)
def _tiles_on_gpu() -> Tiles:
    from operators.retrieval.gpu_tiles import exact_enough, on_device  # torch: only where there is a GPU
    from operators.scoring.models import device_of

    tiles = on_device(device_of(gpu=True))
    return tiles if exact_enough(tiles) else HOST


@lru_cache(maxsize=SHARDS_KEPT)
def _cached_facts(index: str, shard: int, first_row: int) -> Facts:
    table = cached_instructions(index, shard)
    return facts_of(table, np.arange(len(table)) + first_row)


def search_shards(shards: Shards, queries: Queries, count: int, rules: dict[str, Any], tiles: Tiles) -> Search:
    """A search among all instructions that has seen them."""
    search = Search(queries, count, **rules, tiles=tiles)
    for shard, vectors in shards.embeddings():
        search.see(vectors, _cached_facts(shards.index, shard, shards.first_row(shard)))
        search.settle()  # no more than one shard is held
    return search


def neighbours_in_shards(
    shards: Shards, queries: Queries, count: int, k: int, rules: dict[str, Any], tiles: Tiles
) -> tuple[pa.Table, np.ndarray]:
    """NEIGHBOURS of queries among all instructions, and which of them are cramped (see `Search.cramped`)."""
    search = search_shards(shards, queries, count, rules, tiles)
    table = search.end()
    return table, search.cramped(table, k)
