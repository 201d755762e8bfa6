"""Exact neighbours, from all shards of a table: on a GPU where the cluster has one that is idle until scoring begins."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from operators.retrieval.alternatives import Facts, Queries, Search, facts_of
from operators.retrieval.tiles import HOST, Tiles
from pipeline.engine.job import Job
from pipeline.retrieval.shards import Shards, cached_instructions

# Fewer instructions are searched on a few cores before torch has begun to use a GPU.
_GPU_FROM = 50_000


def gpus_of_search(job: Job, instructions: int) -> float:
    """What a task that compares all of so many instructions gets of a GPU; 0 for none."""
    return job.pools.gpus_per_search if instructions >= _GPU_FROM else 0.0


def tiles_here(gpus: float) -> Tiles:
    """How this worker, which was given so much of a GPU, computes similarities. A GPU that does not compute them closely enough
    is left aside, with a warning. Raises NoGpu where torch cannot use it."""
    return _tiles_on_gpu() if gpus else HOST


@lru_cache(maxsize=1)
def _tiles_on_gpu() -> Tiles:
    from operators.retrieval.gpu_tiles import exact_enough, on_device  # torch: only where there is a GPU
    from operators.scoring.models import device_of

    tiles = on_device(device_of(gpu=True))
    if exact_enough(tiles):
        return tiles
    logging.getLogger(__name__).warning(
        "this GPU computes similarities less closely than float32 (is TF32 forced?): neighbours are searched on the CPU"
    )
    return HOST


@lru_cache(maxsize=1)
def _cached_facts(index: str, shard: int, first_row: int) -> Facts:
    table = cached_instructions(index, shard)
    return facts_of(table, np.arange(len(table)) + first_row)


def search_shards(
    shards: Shards, queries: Queries, count: int, k: int, rules: dict[str, Any], tiles: Tiles
) -> tuple[pa.Table, np.ndarray]:
    """NEIGHBOURS of queries among all instructions, and which of them are cramped (see `Search.cramped`)."""
    search = Search(queries, count, **rules, tiles=tiles)
    for shard, vectors in shards.embeddings():
        search.see(vectors, _cached_facts(shards.index, shard, shards.first_row(shard)))
        search.settle()  # no more than one shard is held
    table = search.end()
    return table, search.cramped(table, k)
