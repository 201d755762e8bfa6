"""What some blocks of a model corpus cost: their pairs, tokens, and tokens that go through the model for them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, fields
from functools import reduce

import numpy as np

from operators.prompts.tokenise import Encoder, Ids
from operators.scoring.batching import Sequences
from operators.scoring.forward_tokens import forward_tokens
from operators.scoring.score_rows import pair_digest
from pipeline.planning.alternatives import Rules, candidates_of, stretches
from pipeline.planning.encoded import EncodedRow, encode_rows
from pipeline.planning.model_corpus import ModelCorpus
from pipeline.planning.outlook import outlook_of
from pipeline.planning.stored import StoredPairs

BLOCKS = 4  # that are worked through
GROUP_ROWS = 1000  # rows with one input and one output that stay together, at most
Pair = tuple[np.ndarray, np.ndarray]
_COPY = 1 << 18  # added to ids of a copy: more than a vocabulary has


@dataclass(frozen=True)
class Cost:
    """Of some rows: their tokens, pairs that they ask for, distinct ones in a block, and of these what the store does not have;
    tokens of both; tokens that go through the model, on a CPU and on a GPU."""

    rows: float = 0.0
    row_tokens: float = 0.0
    asked: float = 0.0
    pairs: float = 0.0
    tokens: float = 0.0
    cpu: float = 0.0
    gpu: float = 0.0
    left: float = 0.0
    left_tokens: float = 0.0
    left_cpu: float = 0.0
    left_gpu: float = 0.0
    alone: float = 0.0  # rows without any alternative

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(Cost)))


@dataclass(frozen=True)
class How:
    """How pairs are scored: tokens of a batch on a CPU and a GPU, whether shared prefixes are computed once, what becomes of
    long rows."""

    cpu: int
    gpu: int
    packed: bool
    too_long: str


@dataclass(frozen=True)
class Worked:
    """What the blocks that were worked through cost, each, out of how many; their pairs, without copies, and rows;
    embeddings of the instructions; by how much more or less all blocks have of tokens in pairs, and of shared ones."""

    costs: list[Cost]
    of: int
    pairs: list[Pair]
    rows: list[EncodedRow]
    vectors: np.ndarray
    of_pairs: float
    of_shared: float

    @property
    def cost(self) -> Cost:
        """All of them together."""
        return reduce(lambda some, other: some + other, self.costs, Cost())


def work_through(
    corpus: ModelCorpus, encoder: Encoder, rules: Rules, how: How, stored: StoredPairs, width: int
) -> Worked:
    """Encode and count some blocks of about `width` tokens of rows; all where there are no more."""
    vectors = corpus.instructions.embeddings()
    candidates = candidates_of(corpus.instructions, vectors, rules)
    costs = np.bincount(
        corpus.of_row,
        weights=corpus.copies * [row.cost for row in corpus.rows],
        minlength=len(corpus.instructions.texts),
    )
    places = _places(corpus, stretches(vectors, candidates, costs, rules.k, width))
    count = max(1, round(float(costs.sum()) / width))
    filled, blocks = np.unique(np.minimum(places // width, count - 1).astype(np.int64), return_inverse=True)
    outlook = outlook_of(corpus, candidates, blocks, rules.k)
    chosen = outlook.typical(BLOCKS)
    worked, pairs, rows = [], list[Pair](), list[EncodedRow]()
    outputs = Counter(row.example.output for row in corpus.rows)
    labels = {output for output, times in outputs.items() if times > 1}
    for block in chosen:
        some = np.flatnonzero(blocks == block).tolist()
        encoded = encode_rows(corpus, some, candidates, encoder, k=rules.k, too_long=how.too_long, block_tokens=width)
        cost, some_pairs = _cost(encoded, encoder.context, how, stored, labels, exact=corpus.complete)
        worked.append(cost)
        pairs, rows = pairs + some_pairs, rows + encoded
    return Worked(worked, len(filled), pairs, rows, vectors, *outlook.weights(chosen))


def _places(corpus: ModelCorpus, edges: np.ndarray) -> np.ndarray:
    """Float64 [R]: where each row stands on the axis of costs, as `pipeline/retrieval/place.py` has it."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for place, plan_row in enumerate(corpus.rows):
        groups[plan_row.pair].append(place)
    places = np.zeros(len(corpus.rows))
    for pair, rows in groups.items():
        head = min(rows, key=lambda row: corpus.rows[row].id)
        for row in rows:
            first, last = edges[corpus.of_row[row if len(rows) > GROUP_ROWS else head]]
            places[row] = first + int.from_bytes(pair[:8], "big") / 2.0**64 * (last - first)
    return places


@dataclass
class _Distinct:
    """The distinct pairs of a block, by digest: all, those of rows that were seen, whose ids the model knows, and those that
    the store lacks."""

    pairs: dict[bytes, Pair] = field(default_factory=dict)
    seen: dict[bytes, Pair] = field(default_factory=dict)
    left: dict[bytes, Pair] = field(default_factory=dict)

    def add(self, row: EncodedRow, context: np.ndarray, stored: StoredPairs, label: bool, exact: bool) -> None:
        prompts = [context, *row.prompts]
        lacks = _lacks(row, prompts, stored, exact)
        for copy in range(row.copies):
            for column, prompt in enumerate(prompts):
                pair = _copied(row, prompt, column, copy, label) if copy else (prompt, row.target)
                digest = pair_digest(*pair)
                self.pairs[digest] = pair
                if not copy:
                    self.seen[digest] = pair
                if lacks[column]:
                    self.left[digest] = pair


def _cost(
    encoded: list[EncodedRow], context: Ids, how: How, stored: StoredPairs, labels: set[str], *, exact: bool
) -> tuple[Cost, list[Pair]]:
    """What a block costs, and its distinct pairs without copies. With `exact`, alternatives are those of the run, and the store
    is asked for each pair; else for how many it has of the row's input and output."""
    distinct = _Distinct()
    for row in encoded:
        label = row.row.example.output in labels
        distinct.add(row, np.asarray(context, dtype=np.int64), stored, label, exact)
    tokens, cpu, gpu = _tokens(list(distinct.pairs.values()), how)
    some_left = len(distinct.left) < len(distinct.pairs)
    left_tokens, left_cpu, left_gpu = _tokens(list(distinct.left.values()), how) if some_left else (tokens, cpu, gpu)
    cost = Cost(
        rows=sum(row.copies for row in encoded),
        row_tokens=sum(row.copies * (len(row.prompts[0]) + len(row.target)) for row in encoded),
        asked=sum(row.copies * (1 + len(row.prompts)) for row in encoded),
        pairs=len(distinct.pairs),
        tokens=tokens,
        cpu=cpu,
        gpu=gpu,
        left=len(distinct.left),
        left_tokens=left_tokens,
        left_cpu=left_cpu,
        left_gpu=left_gpu,
        alone=sum(row.copies for row in encoded if len(row.prompts) == 1),
    )
    return cost, list(distinct.seen.values())


def _lacks(row: EncodedRow, prompts: list[np.ndarray], stored: StoredPairs, exact: bool) -> list[bool]:
    """Of each pair of a row, whether the store lacks it; where a part of the store was read, that part stands for all."""
    if not stored.pairs:
        return [True] * len(prompts)
    lacks = [pair_digest(prompt, row.target) not in stored.digests for prompt in prompts]
    if not exact:
        has = stored.groups[row.row.pair] - (not lacks[1])
        lacks[2:] = [column >= has for column in range(len(prompts) - 2)]
    return lacks


def _copied(row: EncodedRow, prompt: np.ndarray, column: int, copy: int, label: bool) -> Pair:
    """A pair of another row of the same instruction: other ids where its own input and output begin. An output that several
    rows have is that of the copy too."""
    target = row.target if label and row.row.use[0] else row.target + copy * _COPY
    if not column or not row.row.use[0]:
        return prompt, target
    head = row.heads[column - 1]
    return np.r_[prompt[:head], prompt[head:] + copy * _COPY], target


def _tokens(pairs: list[Pair], how: How) -> tuple[int, int, int]:
    """Tokens of pairs, and those that go through the model on a CPU and on a GPU."""
    sequences = Sequences.of([prompt for prompt, _ in pairs], [target for _, target in pairs])
    cpu, gpu = forward_tokens(sequences, [how.cpu, how.gpu], packed=how.packed)
    return int(sequences.bounds[-1]), cpu, gpu
