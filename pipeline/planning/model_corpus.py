"""The corpus that a plan works through in place of the real one: rows that were seen, as often as the corpus has them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np

from operators.hashing import content_hash
from operators.normalise import Example
from operators.retrieval.instruction_table import instruction_key
from pipeline.planning.alternatives import Instructions, Use

MOST_INSTRUCTIONS = 6000  # that are compared with each other
FREQUENT = 5  # seen so often, an instruction is taken to be as frequent in the corpus
MOST_COPIES = 4000  # of a row


@dataclass(frozen=True)
class PlanRow:
    """A row that would be scored, and for how many rows of its instruction it stands; `cost` is its tokens, about."""

    example: Example
    id: bytes
    key: bytes
    pair: bytes
    group: int
    cost: float

    @property
    def use(self) -> Use:
        """How the row asks for alternatives."""
        return bool(self.example.input.strip()), self.example.task


def plan_row(example: Example, group: int, cost: float) -> PlanRow:
    """The row of an example, with the hashes by which a run knows it."""
    id = content_hash(example.instruction, example.input, example.output)
    key = instruction_key(example.instruction)
    return PlanRow(example, id, key, content_hash(example.input, example.output), group, cost)


@dataclass(frozen=True)
class ModelCorpus:
    """Distinct rows, for how many rows of the corpus each stands, and the instructions: `of_row` [R] is that of each row.
    `complete`: these are all rows and all instructions of the corpus."""

    rows: list[PlanRow]
    copies: np.ndarray
    instructions: Instructions
    of_row: np.ndarray
    complete: bool

    @property
    def cost(self) -> float:
        """Tokens of all rows."""
        return float(self.copies @ [row.cost for row in self.rows])


def model_corpus(
    rows: list[PlanRow], *, whole: bool, corpus: float, distinct: float, pool_texts: list[str] | None
) -> ModelCorpus:
    """The model of a corpus of `corpus` rows, without duplicates, and `distinct` instructions, of which `rows` were seen; all
    of them where `whole`."""
    once = _without_duplicates(rows)
    keys = sorted({row.key for row in once})
    # Keys are hashes: of their order, every beginning is a sample.
    kept = set(keys[:MOST_INSTRUCTIONS])
    once = [row for row in once if row.key in kept]
    copies = np.ones(len(once)) if whole else _copies(once, corpus, distinct)
    texts: dict[bytes, str] = {}
    uses: dict[bytes, set[Use]] = defaultdict(set)
    for row in once:
        texts[row.key] = min(texts.get(row.key, row.example.instruction), row.example.instruction)
        uses[row.key].add(row.use)
    offered = {instruction_key(text): text for text in pool_texts or []}
    offered = dict(sorted(offered.items())[:MOST_INSTRUCTIONS])
    names = sorted({*texts, *offered})
    place = {key: row for row, key in enumerate(names)}
    table = Instructions(
        [texts.get(key, offered.get(key, "")) for key in names],
        [uses[key] for key in names],
        np.array([pool_texts is None or key in offered for key in names], dtype=bool),
    )
    of_row = np.array([place[row.key] for row in once], dtype=np.int64)
    complete = whole and len(keys) <= MOST_INSTRUCTIONS and len(offered) == len(set(offered))
    return ModelCorpus(once, copies, table, of_row, complete)


def _without_duplicates(rows: list[PlanRow]) -> list[PlanRow]:
    """The first row of each id, with the cost of all: blocks are cut before it is known which rows are duplicates."""
    costs: dict[bytes, float] = defaultdict(float)
    for row in rows:
        costs[row.id] += row.cost
    return [replace(row, cost=costs[row.id]) for row in {row.id: row for row in reversed(rows)}.values()][::-1]


def _copies(rows: list[PlanRow], corpus: float, distinct: float) -> np.ndarray:
    """Float64 [R]: for how many rows each stands.

    A sample has fewer rows of each instruction than the corpus. The rare ones share the rows that they have together; each that
    was seen also stands for others, so that the model is smaller than the corpus, and frequent ones are made fewer by as much.
    """
    scale = corpus / max(1, len(rows))
    seen = Counter(row.key for row in rows)
    rare = {key for key, count in seen.items() if count < FREQUENT}
    rows_of_rare = sum(seen[key] for key in rare)
    rare_in_corpus = max(len(rare), distinct - (len(seen) - len(rare)), 1.0)
    of_rare = max(1.0, rows_of_rare * scale / rare_in_corpus)
    share = min(1.0, len(rare) / rare_in_corpus) if rare else 1.0
    of_frequent = max(1.0, min(scale * share, MOST_COPIES))
    return np.array(
        [min(MOST_COPIES, max(1.0, of_rare / seen[row.key])) if row.key in rare else of_frequent for row in rows]
    )


def rounded(copies: float, id: bytes) -> int:
    """A whole number of copies, the next lower or higher one by the row's hash, on average as many."""
    draw = int.from_bytes(hashlib.blake2b(id, digest_size=8).digest(), "little") / 2.0**64
    return int(copies) + (draw < copies % 1.0)
