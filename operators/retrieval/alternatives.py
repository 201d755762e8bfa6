"""Which instructions are plausible alternatives for an example: the rules over a pool of instructions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from operators.hashing import content_hash, fold_space, fold_wording
from operators.retrieval import neighbours
from operators.schema import INSTRUCTIONS, NEIGHBOURS, from_rows


def instruction_key(instruction: str) -> bytes:
    """Identity of an instruction in the pool: hash of its text after NFC and white-space folding."""
    return content_hash(fold_space(instruction))


def has_input(text: str) -> bool:
    """Whether an input counts as one: white space alone does not."""
    return bool(text.strip())


def distinct_instructions(rows: pa.Table) -> pa.Table:
    """The INSTRUCTIONS of one table of ADMITTED rows (columns instruction_key, instruction, input, task, token counts)."""
    uses = [
        {
            "key": row["instruction_key"],
            "text": row["instruction"],
            "in_pool": True,
            "tokens": row["n_prompt_tokens"] + row["n_target_tokens"],
            "uses": [{"has_input": has_input(row["input"]), "task": row["task"]}],
        }
        for row in rows.to_pylist()
    ]
    return merge_instructions([from_rows(uses, INSTRUCTIONS)])


def merge_instructions(tables: Iterable[pa.Table]) -> pa.Table:
    """Union by key, sorted by key. Of several raw texts of one key the smallest stands for it, whatever the order of rows."""
    merged: dict[bytes, dict[str, Any]] = {}
    uses: dict[bytes, set[tuple[bool, str | None]]] = defaultdict(set)
    for table in tables:
        for row in table.to_pylist():
            uses[row["key"]].update((use["has_input"], use["task"]) for use in row["uses"])
            first = merged.setdefault(row["key"], row)
            if first is not row:
                first["text"] = min(first["text"], row["text"])
                first["tokens"] += row["tokens"]
                first["in_pool"] |= row["in_pool"]
    for key, row in merged.items():
        row["uses"] = [
            {"has_input": with_input, "task": task}
            for with_input, task in sorted(uses[key], key=lambda use: (use[0], use[1] is not None, use[1] or ""))
        ]
    return from_rows([merged[key] for key in sorted(merged)], INSTRUCTIONS)


@dataclass(frozen=True)
class Query:
    """A distinct way in which rows ask for alternatives."""

    row: int  # of the instruction in the table
    has_input: bool
    task: str | None


class Pool:
    """The instructions of a run with their embeddings and what the rules need to know of them.

    `table`: INSTRUCTIONS sorted by key; `embeddings`: float32 [P, D], a row each; `same_task`: "exclude" or "allow".
    """

    def __init__(self, table: pa.Table, embeddings: np.ndarray, *, paraphrase_max: float, same_task: str = "exclude"):
        self.texts: list[str] = table["text"].to_pylist()
        self.embeddings, self.paraphrase_max, self.same_task = embeddings, paraphrase_max, same_task
        self._outside = ~np.array(table["in_pool"].to_pylist(), dtype=bool)
        self._uses = table["uses"].to_pylist()
        wordings: dict[str, int] = {}
        self._wording = np.array(
            [wordings.setdefault(fold_wording(text), len(wordings)) for text in self.texts], dtype=np.int64
        )
        seen = [{use["has_input"] for use in uses} for uses in self._uses]
        self._only_with = np.array([kinds == {True} for kinds in seen], dtype=bool)
        self._only_without = np.array([kinds == {False} for kinds in seen], dtype=bool)
        by_task: dict[str, list[int]] = defaultdict(list)
        for row, uses in enumerate(self._uses):
            for task in {use["task"] for use in uses} - {None}:
                by_task[task].append(row)
        self._rows_of_task = {task: np.array(rows) for task, rows in by_task.items()}

    def __len__(self) -> int:
        return len(self.texts)

    def queries(self, start: int, stop: int) -> list[Query]:
        """The queries of instructions `start` to `stop`."""
        return [
            Query(row, use["has_input"], use["task"])
            for row in range(start, min(stop, len(self)))
            for use in self._uses[row]
        ]

    def search(self, queries: list[Query], count: int) -> Iterator[tuple[Query, np.ndarray, np.ndarray, bool, int]]:
        """For each query: up to `count` allowed rows best first, their similarities, whether no others are allowed, and
        how many paraphrases were passed over."""
        size = max(1, neighbours.BLOCK_CELLS // max(1, len(self)))
        for start in range(0, len(queries), size):
            block = queries[start : start + size]
            vectors = self.embeddings[[query.row for query in block]]
            sims = neighbours.similarities(vectors, self.embeddings)
            paraphrases = neighbours.settle(sims, vectors, self.embeddings, self.paraphrase_max)
            for place, query in enumerate(block):
                forbidden = self._outside | (self._wording == self._wording[query.row])  # rule 1
                skipped = int((paraphrases[place] & ~forbidden).sum())
                forbidden |= paraphrases[place]  # rule 2
                forbidden |= self._only_without if query.has_input else self._only_with  # rule 3
                if self.same_task == "exclude" and query.task is not None:
                    forbidden[self._rows_of_task[query.task]] = True  # rule 4
                row = np.where(forbidden, -np.inf, sims[place])
                rows, similar = neighbours.top(row, vectors[place], self.embeddings, count)
                yield query, rows, similar, len(rows) == len(self) - int(forbidden.sum()), skipped

    def neighbours(self, start: int, stop: int, count: int) -> pa.Table:
        """NEIGHBOURS of all queries of instructions `start` to `stop`."""
        return from_rows(
            [
                {
                    "instruction_row": query.row,
                    "has_input": query.has_input,
                    "task": query.task,
                    "candidates": rows.tolist(),
                    "similarities": similar.tolist(),
                    "complete": complete,
                    "paraphrases_skipped": skipped,
                }
                for query, rows, similar, complete, skipped in self.search(self.queries(start, stop), count)
            ],
            NEIGHBOURS,
        )
