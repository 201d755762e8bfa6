"""Alternatives among the instructions that a plan has seen, by the rules of a run, and which rows share a block for it.

The embedder is the lexical one, whatever the run's: which instructions are near hardly changes how much work is shared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from operators.hashing import fold_wording
from operators.retrieval.embedder import LEXICAL, embed_folded, load_embedder
from operators.retrieval.prompt_order import neighbourhood_order, shared_order

Use = tuple[bool, str | None]  # whether rows have an input, and their task
Query = tuple[int, bool, str | None]
AT_ONCE = 512  # queries
SPARE = 2  # candidates kept of a query, as a multiple of k


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
    wordings: dict[str, int] = {}
    wording = np.array([wordings.setdefault(fold_wording(text), len(wordings)) for text in instructions.texts])
    kinds = [{with_input for with_input, _ in uses} for uses in instructions.uses]
    only_with = np.array([kind == {True} for kind in kinds])
    only_without = np.array([kind == {False} for kind in kinds])
    of_task: dict[str, list[int]] = defaultdict(list)
    for row, uses in enumerate(instructions.uses):
        for task in {name for _, name in uses if name is not None}:
            of_task[task].append(row)
    queries = [(row, *use) for row, uses in enumerate(instructions.uses) for use in sorted(uses, key=str)]
    nearest: dict[Query, list[int]] = {}
    for start in range(0, len(queries), AT_ONCE):
        block = queries[start : start + AT_ONCE]
        sims_QP = vectors_PD[[row for row, *_ in block]] @ vectors_PD.T
        for (row, with_input, asked), sims in zip(block, sims_QP, strict=True):
            forbidden = ~instructions.in_pool | (wording == wording[row]) | (sims >= rules.paraphrase_max)
            forbidden |= only_without if with_input else only_with
            if asked is not None and rules.same_task == "exclude":
                forbidden[of_task[asked]] = True
            nearest[row, with_input, asked] = _top(np.where(forbidden, -np.inf, sims), SPARE * rules.k)
    return nearest


def _top(sims: np.ndarray, count: int) -> list[int]:
    """Rows with the highest similarities, highest first."""
    allowed = np.flatnonzero(np.isfinite(sims))
    if len(allowed) > count:
        allowed = np.sort(allowed[np.argpartition(-sims[allowed], count - 1)[:count]])
    ranked: list[int] = allowed[np.lexsort((allowed, -sims[allowed]))].tolist()
    return ranked


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
