"""The table of distinct instructions in shards, which are ranges of keys, and what retrieval leaves of each for later stages.

A row of the table is known by its number in the order of keys; a shard holds a range of rows. The folder `index` has a file of
each shard: its INSTRUCTIONS, their embeddings, and their QUERIES. A small table is one shard, which each process loads once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from ray.data import Dataset

from operators.retrieval.generated import Generated
from pipeline.storage import urls
from pipeline.storage.arrays import load_array
from pipeline.storage.parts import read_table

# Of so many a process keeps embeddings, which are mapped, and what the rules know of them: some 6 MB apiece.
SHARDS_KEPT = 64
SHARD_ROWS = 1 << 17  # instructions of a shard, about: 200 MB of embeddings of 384 numbers


@dataclass(frozen=True)
class Shards:
    """A table of instructions: the folder of its files, and the rows of each shard, some of which may have none."""

    index: str
    sizes: list[int]

    @property
    def rows(self) -> int:
        """Of all shards."""
        return sum(self.sizes)

    def first_row(self, shard: int) -> int:
        """The number of a shard's first row."""
        return sum(self.sizes[:shard])

    def rows_of(self, shard: int) -> np.ndarray:
        """Int64 [P]: the numbers of a shard's rows."""
        return np.arange(self.sizes[shard]) + self.first_row(shard)

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """Int64 [N]: the shard of each row."""
        return np.searchsorted(np.cumsum(self.sizes), rows, side="right")

    def used(self) -> list[int]:
        """The shards that have rows."""
        return [shard for shard, size in enumerate(self.sizes) if size]

    def embeddings(self) -> Iterator[tuple[int, np.ndarray]]:
        """Each shard with its embeddings."""
        for shard in self.used():
            yield shard, cached_embeddings(self.index, shard)


@dataclass(frozen=True)
class RowRange:
    """Rows of one shard, or of a table that has no shards."""

    start: int
    stop: int
    shard: int = 0


def ranges_of(count: int, size: int, shard: int = 0) -> list[RowRange]:
    """Ranges of `size` rows of a shard."""
    return [RowRange(start, min(start + size, count), shard) for start in range(0, count, size)]


def shards_of_keys(keys: pa.ChunkedArray | pa.Array, count: int) -> np.ndarray:
    """Int64 [N]: the shard of each key among `count`. Keys are hashes, so shards are about equal; they follow each other in the
    order of keys."""
    first_bytes = np.frombuffer(b"".join(keys.to_pylist()), dtype=">u4")[::4].astype(np.uint64)
    return (first_bytes * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def in_shards(dataset: Dataset, column: str, count: int) -> Dataset:
    """A dataset with a block for each value of a column, 0 to `count` - 1; one that has no rows is empty."""
    return dataset.sort(column, boundaries=list(range(1, count))) if count > 1 else dataset.repartition(1)


def instructions_path(index: str, shard: int) -> str:
    """The INSTRUCTIONS of a shard, sorted by key."""
    return urls.join(index, "instructions", f"{shard:05d}.parquet")


def embeddings_path(index: str, shard: int) -> str:
    """Float32 [P, D]: the embeddings of a shard."""
    return urls.join(index, "embeddings", f"{shard:05d}.arrow")


def queries_path(index: str, shard: int) -> str:
    """The QUERIES of the instructions of a shard, in the order of their rows."""
    return urls.join(index, "queries", f"{shard:05d}.parquet")


@lru_cache(maxsize=1)
def cached_instructions(index: str, shard: int) -> pa.Table:
    """The INSTRUCTIONS of a shard, in this worker process."""
    return read_table(instructions_path(index, shard))


@lru_cache(maxsize=SHARDS_KEPT)
def cached_embeddings(index: str, shard: int) -> np.ndarray:
    """The embeddings of a shard, in this worker process."""
    return load_array(embeddings_path(index, shard))


@lru_cache(maxsize=1)
def cached_queries(index: str, shard: int) -> pa.Table:
    """The QUERIES of a shard, in this worker process."""
    return read_table(queries_path(index, shard))


def generated_index(index: str) -> str:
    """The folder of what was written for inputs: the instructions, their embeddings, and which are of which input."""
    return urls.join(index, "generated")


@lru_cache(maxsize=1)
def cached_generated(index: str, paraphrase_max: float) -> Generated:
    """What was written for inputs, as this worker process has it."""
    folder = generated_index(index)
    texts = read_table(instructions_path(folder, 0), ["text"])["text"].to_pylist()
    vectors = load_array(embeddings_path(folder, 0)) if texts else np.zeros((0, 0), dtype=np.float32)
    return Generated(read_table(f"{folder}/written.parquet"), texts, vectors, paraphrase_max=paraphrase_max)
