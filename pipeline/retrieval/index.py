"""What retrieval leaves for the stages after it, as each worker process loads it: the pool and the ranked candidates.

The folder `index` holds the distinct instructions, their embeddings, clusters, neighbours and order in blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from operators.retrieval.alternatives import Pool
from operators.retrieval.generated import Generated
from pipeline.engine.job import Job
from pipeline.storage import urls
from pipeline.storage.arrays import load_array
from pipeline.storage.parts import read_table


@dataclass(frozen=True)
class RowRange:
    """Rows of the instruction table."""

    start: int
    stop: int


def ranges_of(count: int, size: int) -> list[RowRange]:
    """Ranges of `size` rows of the instruction table."""
    return [RowRange(start, min(start + size, count)) for start in range(0, count, size)]


def pool_settings(job: Job) -> dict[str, Any]:
    """What a worker needs to load the pool."""
    wanted = job.config.alternatives
    return {"index": job.index, "paraphrase_max": wanted.paraphrase_max, "same_task": wanted.same_task}


@lru_cache(maxsize=1)
def cached_pool(index: str, paraphrase_max: float, same_task: str) -> Pool:
    """The pool of this worker process."""
    return Pool(
        read_table(f"{index}/instructions.parquet"),
        load_array(f"{index}/embeddings.arrow"),
        paraphrase_max=paraphrase_max,
        same_task=same_task,
    )


@lru_cache(maxsize=1)
def cached_neighbours(index: str) -> pa.Table:
    """The NEIGHBOURS of this worker process; a row's `query_row` is its row here."""
    return read_table(f"{index}/neighbours.parquet")


@lru_cache(maxsize=1)
def cached_clusters(index: str) -> np.ndarray:
    """Int32 [N]: the cluster of each instruction of the table, in this worker process."""
    return load_array(f"{index}/clusters.arrow")


def generated_index(index: str) -> str:
    """The folder of what was written for inputs: the instructions, their embeddings, and which are of which input."""
    return urls.join(index, "generated")


@lru_cache(maxsize=1)
def cached_generated(index: str, paraphrase_max: float) -> Generated:
    """What was written for inputs, as this worker process has it."""
    folder = generated_index(index)
    return Generated(
        read_table(f"{folder}/written.parquet"),
        read_table(f"{folder}/instructions.parquet", ["text"])["text"].to_pylist(),
        load_array(f"{folder}/embeddings.arrow"),
        paraphrase_max=paraphrase_max,
    )
