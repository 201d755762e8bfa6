"""Which instructions are plausible alternatives for an example: the rules over a pool of instructions.

Rules and queries are arrays of codes, so that nothing is decided query by query. The pool is shown in stretches; a process
never needs to hold all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.hashing import content_hash
from operators.retrieval.nearest import Nearest, exact_similarities
from operators.retrieval.tiles import HOST, MARGIN, Tiles
from operators.schema import NEIGHBOURS

# Candidates kept of a query, as a multiple of k: an alternative may prove too long for a row. Where most of them may, because a
# row is nearly as long as a sequence may be, TRIES: so many may be tried, and no row walks the whole pool.
SPARE, TRIES = 2, 16
# Tokens by which a prompt may grow beyond the bytes of another instruction in it, where tokens join across its ends.
_SEAM = 16


@dataclass(frozen=True)
class Facts:
    """What the rules need to know of a stretch of instructions.

    `rows`: int64 [P], their rows in the table of all; `wording`: int64 [P], equal for instructions that are one under rule 1;
    `in_pool`, `only_with`, `only_without`: bool [P], whether they are offered, and used with an input alone or without one
    alone; `size`: int64 [P], UTF-8 bytes; `tasks`: int64 [N, 2], each (place, code of a task that uses it), sorted.
    """

    rows: np.ndarray
    wording: np.ndarray
    in_pool: np.ndarray
    only_with: np.ndarray
    only_without: np.ndarray
    size: np.ndarray
    tasks: np.ndarray

    def between(self, start: int, stop: int) -> Facts:
        """Those of a part of the stretch."""
        first, last = np.searchsorted(self.tasks[:, 0], [start, stop])
        part = slice(start, stop)
        return Facts(
            rows=self.rows[part],
            wording=self.wording[part],
            in_pool=self.in_pool[part],
            only_with=self.only_with[part],
            only_without=self.only_without[part],
            size=self.size[part],
            tasks=self.tasks[first:last] - [start, 0],
        )

    def used_by(self, places: np.ndarray, tasks: np.ndarray) -> np.ndarray:
        """Bool [N]: whether the instruction at each place is used by the task of each code."""
        if not len(self.tasks):
            return np.zeros(len(places), dtype=bool)
        codes = np.unique(self.tasks[:, 1])
        known = codes[np.minimum(np.searchsorted(codes, tasks), len(codes) - 1)] == tasks
        pairs = self.tasks[:, 0] * len(codes) + np.searchsorted(codes, self.tasks[:, 1])
        asked = places * len(codes) + np.searchsorted(codes, tasks)
        nearest = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
        return np.asarray(known & (pairs[nearest] == asked))


@dataclass(frozen=True)
class Queries:
    """Distinct ways in which rows ask for alternatives: an instruction, with an input or without, in a task.

    `rows`: int64 [Q], of the instructions in the table of all; `vectors`: float32 [Q, D]; `wording`: int64 [Q]; `has_input`:
    bool [Q]; `tasks`: strings, null where there is none; `codes`: int64 [Q] of tasks, 0 for none; `room`: int64 [Q], tokens
    that the longest of their rows leaves free in a sequence."""

    rows: np.ndarray
    vectors: np.ndarray
    wording: np.ndarray
    has_input: np.ndarray
    tasks: pa.Array
    codes: np.ndarray
    room: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: np.ndarray) -> Queries:
        """Some of them."""
        return Queries(
            rows=self.rows[places],
            vectors=self.vectors[places],
            wording=self.wording[places],
            has_input=self.has_input[places],
            tasks=self.tasks.take(pa.array(places)),
            codes=self.codes[places],
            room=self.room[places],
        )


def facts_of(table: pa.Table, rows: np.ndarray) -> Facts:
    """The Facts of INSTRUCTIONS, which are these rows of the table of all."""
    parents, with_input, tasks, _ = _uses(table)
    with_inputs = np.bincount(parents[with_input], minlength=len(table)) > 0
    without = np.bincount(parents[~with_input], minlength=len(table)) > 0
    codes = _codes(tasks)
    pairs = np.stack([parents, codes], axis=1)[codes != 0]
    return Facts(
        rows,
        table["wording"].to_numpy(),
        table["in_pool"].combine_chunks().to_numpy(zero_copy_only=False),
        with_inputs & ~without,
        without & ~with_inputs,
        table["size"].to_numpy(),
        np.unique(pairs, axis=0) if len(pairs) else pairs,
    )


def queries_of(table: pa.Table, rows: np.ndarray, vectors: np.ndarray) -> Queries:
    """The Queries of INSTRUCTIONS, which are these rows of the table of all and have these embeddings, in their order."""
    parents, with_input, tasks, room = _uses(table)
    return Queries(
        rows[parents],
        np.ascontiguousarray(vectors[parents], dtype=np.float32),
        table["wording"].to_numpy()[parents],
        with_input,
        tasks,
        _codes(tasks),
        room,
    )


class Search:
    """The alternatives of queries, over a pool that is shown in stretches: the `count` nearest that the rules allow.

    `same_task`: "exclude" or "allow".
    """

    def __init__(self, queries: Queries, count: int, *, paraphrase_max: float, same_task: str, tiles: Tiles = HOST):
        self._queries, self._paraphrase_max, self._same_task = queries, paraphrase_max, same_task
        self._nearest = Nearest(queries.vectors, count, tiles)
        self._skipped = np.zeros(len(queries), dtype=np.int64)
        self._seen: list[tuple[np.ndarray, np.ndarray]] = []  # rows and sizes

    def see(self, vectors_PD: np.ndarray, facts: Facts, queries: np.ndarray | None = None) -> None:
        """Take what is near in a stretch of the pool, for all queries or for some."""
        asked = self._queries
        self._seen.append((facts.rows, facts.size))

        def allow(query: np.ndarray, place: np.ndarray, similarity: np.ndarray) -> np.ndarray:
            other = facts.in_pool[place] & (facts.wording[place] != asked.wording[query])  # rule 1
            paraphrase = similarity >= self._paraphrase_max
            unsure = np.flatnonzero(np.abs(similarity - self._paraphrase_max) < MARGIN)
            exact = exact_similarities(asked.vectors[query[unsure]], vectors_PD[place[unsure]])
            paraphrase[unsure] = exact >= self._paraphrase_max
            self._skipped[:] += np.bincount(query[other & paraphrase], minlength=len(asked))
            implausible = np.where(asked.has_input[query], facts.only_without[place], facts.only_with[place])
            allowed = other & ~paraphrase & ~implausible  # rules 2 and 3
            if self._same_task == "exclude":
                left = np.flatnonzero(allowed & (asked.codes[query] != 0))
                allowed[left] = ~facts.used_by(place[left], asked.codes[query[left]])  # rule 4
            return np.asarray(allowed)

        self._nearest.see(vectors_PD, facts.rows, allow, queries)

    def settle(self) -> None:
        """Let go of the stretches that were seen so far."""
        self._nearest.settle()

    def end(self) -> pa.Table:
        """NEIGHBOURS of the queries, in their order."""
        begins, rows, similarities, complete = self._nearest.end()
        offsets = pa.array(begins, pa.int32())
        columns = {
            "instruction_row": pa.array(self._queries.rows),
            "has_input": pa.array(self._queries.has_input),
            "task": self._queries.tasks,
            "candidates": pa.ListArray.from_arrays(offsets, pa.array(rows)),
            "similarities": pa.ListArray.from_arrays(offsets, pa.array(similarities, pa.float32())),
            "complete": pa.array(complete),
            "paraphrases_skipped": pa.array(self._skipped, pa.int32()),
        }
        return pa.table(columns, schema=NEIGHBOURS)

    def cramped(self, neighbours: pa.Table, k: int) -> np.ndarray:
        """Places of the queries for which it is not certain that `k` of their NEIGHBOURS fit into the longest of their rows,
        while there are further ones: they need longer lists. A token is taken to be at least a byte."""
        candidates = neighbours["candidates"].combine_chunks()
        parents, rows = pc.list_parent_indices(candidates).to_numpy(), candidates.flatten().to_numpy()
        fits = self._sizes(rows) + _SEAM <= self._queries.room[parents]
        fitting = np.bincount(parents[fits], minlength=len(neighbours))
        complete = neighbours["complete"].combine_chunks().to_numpy(zero_copy_only=False)
        return np.flatnonzero((fitting < k) & ~complete)

    def _sizes(self, rows: np.ndarray) -> np.ndarray:
        """Int64 [N]: bytes of instructions that were seen."""
        names = np.concatenate([rows[:0], *(seen for seen, _ in self._seen)])
        order = np.argsort(names)
        sizes = np.concatenate([rows[:0], *(sizes for _, sizes in self._seen)])[order]
        return np.asarray(sizes[np.searchsorted(names[order], rows)])


def ranked(queries: Queries, k: int, search: Callable[[Queries, int], tuple[pa.Table, np.ndarray]]) -> pa.Table:
    """NEIGHBOURS of queries, in their order: SPARE * k candidates each, and TRIES * k where these may be too long.

    `search` gives the NEIGHBOURS of some queries, with so many candidates, and which of these queries are cramped."""
    table, cramped = search(queries, SPARE * k)
    if not len(cramped):
        return table
    longer, _ = search(queries.take(cramped), TRIES * k)
    return replaced(table, cramped, longer)


def replaced(table: pa.Table, places: np.ndarray, rows: pa.Table) -> pa.Table:
    """A table with other rows at some places."""
    order = np.arange(len(table))
    order[places] = len(table) + np.arange(len(rows))
    return pa.concat_tables([table, rows]).take(pa.array(order)).combine_chunks()


def _uses(table: pa.Table) -> tuple[np.ndarray, np.ndarray, pa.Array, np.ndarray]:
    """Of each use in INSTRUCTIONS: int64, the place of the instruction; bool, whether there is an input; the task; the room."""
    uses = table["uses"].combine_chunks()
    with_input, task, room = uses.flatten().flatten()
    parents = pc.list_parent_indices(uses).to_numpy().astype(np.int64)
    return parents, with_input.to_numpy(zero_copy_only=False).astype(bool), task, room.to_numpy()


def _codes(tasks: pa.Array) -> np.ndarray:
    """Int64 [N]: 64 bits of the hash of each task; 0 for null."""
    encoded = tasks.dictionary_encode()
    names = [
        int.from_bytes(content_hash(name)[:8], "little", signed=True) or 1 for name in encoded.dictionary.to_pylist()
    ]
    codes = np.array([*names, 0], dtype=np.int64)
    return np.asarray(codes[encoded.indices.fill_null(len(names)).to_numpy().astype(np.int64)])
