"""The inverted file of a table of instructions as workers read it: lists of instructions, those near each other in one file.

A group is a range of lists. Its file holds what the rules need to know of their instructions, sorted by list and row, and an
array of their embeddings beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from operators.retrieval.alternatives import Facts, Queries, Search, facts_of, replaced
from operators.retrieval.lists import probed_lists
from operators.schema import INSTRUCTIONS
from pipeline.storage import urls
from pipeline.storage.arrays import load_array
from pipeline.storage.parts import read_table

WIDENED = 4  # times as many lists for queries that too few alternatives were found for
# One row per instruction, in the order of lists.
CELLS = pa.schema(
    [
        pa.field("list", pa.int64()),
        pa.field("row", pa.int64()),
        *(field for field in INSTRUCTIONS if field.name not in ("key", "text")),
    ]
)


@dataclass(frozen=True)
class Group:
    """A range of lists in one file, and where on the axis of costs its instructions begin."""

    number: int
    first_list: int
    last_list: int  # the first of the next
    begin: int


@dataclass(frozen=True)
class Cells:
    """An inverted file: the folder of its files, and the first list of each group."""

    index: str
    first_lists: list[int]

    def group_of(self, number: int) -> int:
        """The group of a list."""
        return int(np.searchsorted(self.first_lists, number, side="right")) - 1

    @property
    def centres(self) -> np.ndarray:
        """Float32 [L, D]: the centres of all lists."""
        return cached_centres(self.index)


def centres_path(index: str) -> str:
    """The centres of lists."""
    return urls.join(index, "centres.arrow")


def group_path(index: str, group: int) -> str:
    """The CELLS of a group; its embeddings stand beside it."""
    return urls.join(index, "cells", f"{group:06d}.parquet")


def vectors_path(index: str, group: int) -> str:
    """Float32 [P, D]: the embeddings of a group, in the order of its CELLS."""
    return urls.join(index, "cells", f"{group:06d}.arrow")


@lru_cache(maxsize=1)
def cached_centres(index: str) -> np.ndarray:
    """The centres of all lists, in this worker process."""
    return load_array(centres_path(index))


@dataclass(frozen=True)
class LoadedGroup:
    """A group in memory: what the rules know of its instructions, the list of each, and their embeddings, which are mapped."""

    facts: Facts
    lists: np.ndarray
    vectors: np.ndarray


def read_cells(index: str, group: int) -> pa.Table:
    """The CELLS of a group."""
    return read_table(group_path(index, group))


# The queries of one list may look into hundreds of others: a process that let go of their groups would load each again and
# again. Some 0.3 MB apiece, beside what is mapped.
@lru_cache(maxsize=1024)
def cached_group(index: str, group: int) -> LoadedGroup:
    """A group, in this worker process."""
    table = read_cells(index, group)
    facts = facts_of(table, table["row"].to_numpy())
    return LoadedGroup(facts, table["list"].to_numpy(), load_array(vectors_path(index, group)))


def _list_of(cells: Cells, number: int) -> tuple[np.ndarray, Facts]:
    """The embeddings of a list, and its facts."""
    loaded = cached_group(cells.index, cells.group_of(number))
    start, stop = np.searchsorted(loaded.lists, [number, number + 1]).tolist()
    return loaded.vectors[start:stop], loaded.facts.between(start, stop)


def search_lists(
    cells: Cells, queries: Queries, count: int, probes: int, k: int, rules: dict[str, object]
) -> tuple[pa.Table, np.ndarray]:
    """NEIGHBOURS of queries from the `probes` lists nearest to each, and which of them are cramped (see `Search.cramped`).
    Where a query has fewer than `count` there, more lists are looked into, up to all.

    What a query is given depends on it alone, not on those that are asked with it."""
    lists = len(cells.centres)
    search = Search(queries, count, **rules)  # type: ignore[arg-type]
    nearest = probed_lists(queries.vectors, cells.centres, probes)
    asked, flat = np.divmod(np.argsort(nearest.ravel(), kind="stable"), nearest.shape[1])
    names = nearest[asked, flat]
    heads = np.flatnonzero(np.r_[True, names[1:] != names[:-1]][: len(names)])
    stretches = np.split(asked, heads[1:]) if len(heads) else []
    # The list that most of the queries are near to comes first: it says what is near enough in others. These follow in the
    # order of groups, of which few are in memory.
    home = int(np.argmax([len(stretch) for stretch in stretches])) if stretches else 0
    for place in sorted(range(len(stretches)), key=lambda place: (place != home, place)):
        vectors, facts = _list_of(cells, int(names[heads[place]]))
        search.see(vectors, facts, stretches[place])
    table = search.end()
    cramped = search.cramped(table, k)
    found = table["candidates"].combine_chunks().value_lengths().to_numpy()
    short = np.flatnonzero(found < count)
    if len(short) and probes < lists:
        wider, still = search_lists(cells, queries.take(short), count, min(lists, WIDENED * probes), k, rules)
        table, cramped = replaced(table, short, wider), np.union1d(np.setdiff1d(cramped, short), short[still])
    return table, cramped
