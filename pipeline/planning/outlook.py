"""What blocks are like that are not worked through, by the lengths of texts alone.

Blocks differ in how many rows of few instructions they hold, and so in what is shared. Of every block the characters of its
pairs are counted, and those of prompts and beginnings of prompts that stand in several pairs: by these, what some blocks cost
is what all cost.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from pipeline.planning.alternatives import Query
from pipeline.planning.model_corpus import ModelCorpus


@dataclass(frozen=True)
class Outlook:
    """Of each block, in characters: its rows, their pairs, and what begins a prompt in another pair too."""

    rows_B: np.ndarray
    pairs_B: np.ndarray
    shared_B: np.ndarray

    def typical(self, count: int) -> list[int]:
        """So many blocks, from those that share least to those that share most."""
        order = np.argsort(self.shared_B / np.maximum(1.0, self.pairs_B), kind="stable")
        count = min(count, len(order))
        places = ((np.arange(count) + 0.5) * len(order) / max(1, count)).astype(np.int64)
        return sorted(order[places].tolist())

    def weights(self, worked: list[int]) -> tuple[float, float]:
        """How much more than these blocks, for the size of their rows, all blocks have of pairs, and of what is shared."""
        of_pairs = _share(self.pairs_B, self.rows_B) / _share(self.pairs_B[worked], self.rows_B[worked])
        some = _share(self.shared_B[worked], self.rows_B[worked])
        return of_pairs, _share(self.shared_B, self.rows_B) / some if some else 1.0


def _share(part: np.ndarray, of: np.ndarray) -> float:
    return float(part.sum() / max(1.0, float(of.sum())))


def outlook_of(corpus: ModelCorpus, candidates: dict[Query, list[int]], blocks: np.ndarray, k: int) -> Outlook:
    """The outlook on all blocks, where `blocks` [R] is that of each row."""
    count = int(blocks.max()) + 1
    rows_B, pairs_B, shared_B = np.zeros(count), np.zeros(count), np.zeros(count)
    sizes = np.array([len(text) for text in corpus.instructions.texts], dtype=np.float64)
    # By block and instruction, the outputs that follow on each input; and how many copies stand beside.
    outputs: dict[tuple[int, int], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    copied: dict[tuple[int, int], float] = defaultdict(float)
    for place, (row, block) in enumerate(zip(corpus.rows, blocks.tolist(), strict=True)):
        own, more, example = int(corpus.of_row[place]), float(corpus.copies[place]) - 1, row.example
        rest = len(example.input) + len(example.output)
        rows_B[block] += (1 + more) * (sizes[own] + rest)
        pairs_B[block] += (1 + more) * len(example.output)
        for other in [own, *candidates[(own, *row.use)][:k]]:
            outputs[block, other][example.input].add(example.output)
            copied[block, other] += more
            pairs_B[block] += more * (sizes[other] + rest)
    for (block, other), by_input in outputs.items():
        shared_B[block] += (len(by_input) - 1 + copied[block, other]) * sizes[other]
        for input, ends in by_input.items():
            prompt = sizes[other] + len(input)
            shared_B[block] += (len(ends) - 1) * prompt
            pairs_B[block] += len(ends) * prompt + sum(map(len, ends))
    return Outlook(rows_B, pairs_B, shared_B)
