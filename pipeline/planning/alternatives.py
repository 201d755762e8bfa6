"""Alternatives among the instructions that a plan has seen, by the rules of a run, and which rows share a block for it.

The embedder is the lexical one, whatever the run's: which instructions are near hardly changes how much work is shared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from operators.retrieval.alternatives import SPARE, Search, facts_of, queries_of
from operators.retrieval.embedder import LEXICAL, embed_folded, load_embedder
from operators.retrieval.instruction_table import wording_code
from operators.retrieval.prompt_order import neighbourhood_order, shared_order
from operators.schema import INSTRUCTIONS

Use = tuple[bool, str | None]  # whether rows have an input, and their task
Query = tuple[int, bool, str | None]


@dataclass(frozen=True)
class Instructions:
    """Distinct instructions in the order of their keys: texts, the uses of each by rows, and whether each is offered."""

    texts: Sequence[str]
    uses: Sequence[set[Use]]
    in_pool: np.ndarray

    def embeddings(self) -> np.ndarray:
        """Float32 [P, D]."""
        return embed_folded(load_embedder(LEXICAL, len(self.texts)), list(self.texts))


@dataclass(frozen=True)
class Rules:
    """What `alternatives` of the configuration says of candidates."""

    k: int
    paraphrase_max: float
    same_task: str


def candidates_of(instructions: Instructions, vectors_PD: np.ndarray, rules: Rules) -> dict[Query, list[int]]:
    """For each way in which rows ask, the nearest instructions that the rules allow, best first: SPARE * k, or all."""
    uses = [
        [{"has_input": with_input, "task": task, "room": 0} for with_input, task in sorted(known, key=str)]
        for known in instructions.uses
    ]
    table = pa.table(
        {
            "size": [len(text.encode()) for text in instructions.texts],
            "wording": pa.array(map(wording_code, instructions.texts), pa.int64()),
            "in_pool": pa.array(instructions.in_pool),
            "uses": pa.array(uses, INSTRUCTIONS.field("uses").type),
        }
    )
    rows = np.arange(len(table))
    search = Search(
        queries_of(table, rows, vectors_PD),
        SPARE * rules.k,
        paraphrase_max=rules.paraphrase_max,
        same_task=rules.same_task,
    )
    search.see(vectors_PD, facts_of(table, rows))
    return {
        (row["instruction_row"], row["has_input"], row["task"]): row["candidates"] for row in search.end().to_pylist()
    }


def stretches(
    vectors_PD: np.ndarray, candidates: dict[Query, list[int]], costs_P: np.ndarray, k: int, width: int
) -> np.ndarray:
    """Float64 [P, 2]: where on the axis of costs the rows of each instruction begin and end, where a block is `width` of it."""
    prompts: list[list[int]] = [[row] for row in range(len(costs_P))]
    for (row, *_), ranked in candidates.items():
        prompts[row] += ranked[:k]
    whole = np.ceil(costs_P).astype(np.int64)
    order = shared_order(neighbourhood_order(vectors_PD), [np.unique(rows) for rows in prompts], whole, width)
    edges = np.zeros((len(order), 2))
    edges[order, 1] = np.cumsum(costs_P[order])
    edges[:, 0] = edges[:, 1] - costs_P
    return edges
