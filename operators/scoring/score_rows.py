"""From encoded rows to their likelihoods: every distinct pair once, all of them or only as many as a threshold asks for."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from operators.hashing import DIGEST_BYTES, content_hash
from operators.schema import LIKELIHOODS, STORED, from_rows
from operators.scoring.draw import Threshold
from operators.scoring.scores import ScoreSettings, upper_bound

if TYPE_CHECKING:
    from operators.scoring.batching import Ids
    from operators.scoring.load_scorer import Scorer

# Columns of likelihoods: without a prompt, under the own instruction, under the first alternative and all after it.
_EMPTY, _OWN, _FIRST = 0, 1, 2


@dataclass
class Work:
    """What a block of rows cost: pairs asked for; distinct ones that this run computed, `resumed` of them before it was
    interrupted; ones that earlier runs had stored; and, of pairs computed now, their tokens, the tokens that went through
    the model, with padding and without prefixes that were shared, those that were padding, the seconds
    that took, and the processes that loaded the model."""

    pairs: int = 0
    computed: int = 0
    resumed: int = 0
    recalled: int = 0
    tokens: int = 0
    forwarded_tokens: int = 0
    padding_tokens: int = 0
    seconds: float = 0.0
    loaded: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(*(value + more for value, more in zip(astuple(self), astuple(other), strict=True)))


def pair_digest(prompt: np.ndarray, target: np.ndarray) -> bytes:
    """128-bit BLAKE2b of the ids of a prompt and a target: all that a scorer sees of a pair."""
    digest = hashlib.blake2b(len(prompt).to_bytes(8, "little"), digest_size=DIGEST_BYTES)
    digest.update(prompt.astype("<i4").tobytes())
    digest.update(target.astype("<i4").tobytes())
    return digest.digest()


@dataclass(frozen=True)
class Memory:
    """Sums of pairs that need no model, by `pair_digest`, and what becomes of new ones.

    `stored` by earlier runs; `finished` by this run before it, or the process that scored this block, was interrupted. `keep`
    is given STORED rows of finished pairs, about every `every` seconds.
    """

    stored: Mapping[bytes, float]
    finished: Mapping[bytes, float]
    keep: Callable[[pa.Table], None]
    every: float


class Scoring:
    """ENCODED rows while their pairs are scored; `context` is that of l(0), `likelihoods` those of the same rows so far
    (LIKELIHOODS), `work` the account that grows meanwhile.

    A likelihood is the mean over target ids of their log-probability, in nats.
    """

    def __init__(
        self,
        encoded: pa.Table,
        context: Ids,
        scorer: Callable[[], Scorer],
        likelihoods: pa.Table | None = None,
        memory: Memory | None = None,
        work: Work | None = None,
    ):
        self._encoded, self._scorer, self.work = encoded, scorer, work or Work()
        self._ids = encoded["id"].to_pylist()
        self._memory = memory or Memory({}, {}, lambda finished: None, float("inf"))
        self._targets = _ragged(encoded["target"])
        prompts = _ragged(encoded["prompt"])
        self._offers = encoded["alternatives"].to_pylist()
        others = iter(_ragged_of_structs(encoded["alternatives"], "prompt"))
        self.counts = np.array([len(offers) for offers in self._offers], dtype=np.int64)
        self._prompts = [
            [np.asarray(context, dtype=np.int64), prompt, *(next(others) for _ in range(count))]
            for prompt, count in zip(prompts, self.counts.tolist(), strict=True)
        ]
        width = _FIRST + int(self.counts.max(initial=0))
        self._sums = np.full((len(encoded), width), np.nan)
        self.done = np.zeros((len(encoded), width), dtype=bool)
        self._means = np.full((len(encoded), width), np.nan)
        self._digests = [
            [pair_digest(prompt, target) for prompt in row]
            for row, target in zip(self._prompts, self._targets, strict=True)
        ]
        self._groups = self._asking_groups()
        self._by_digest: dict[bytes, float] = {}
        self.asked_tokens = 0  # of the pairs that were computed, or are, since this process began
        if likelihoods is not None:
            self._recall(likelihoods)

    def _asking_groups(self) -> dict[bytes, set[bytes]]:
        """Under which groups each pair is to be stored: whichever asks for it later must find it."""
        groups: dict[bytes, set[bytes]] = {}
        outputs = map(content_hash, self._encoded["output"].to_pylist())
        keys = self._encoded["pair_key"].to_pylist()
        for digests, output, key in zip(self._digests, outputs, keys, strict=True):
            groups.setdefault(digests[_EMPTY], set()).add(output)
            for digest in digests[_OWN:]:
                groups.setdefault(digest, set()).add(key)
        return groups

    def _recall(self, likelihoods: pa.Table) -> None:
        for row, record in enumerate(likelihoods.to_pylist()):
            means = [record["loglik_empty_mean"], record["loglik_mean"]]
            means += [alternative["loglik_mean"] for alternative in record["alternatives"]]
            for column, mean in enumerate(means):
                if mean is not None:
                    self._means[row, column], self.done[row, column] = mean, True
            self._sums[row, _OWN] = record["loglik_sum"]

    def score(self, wanted: np.ndarray) -> None:
        """Score the cells [R, 2 + K] that are wanted and not done; pairs of equal ids are scored once, stored ones never."""
        cells = np.argwhere(wanted & ~self.done & self._exists()).tolist()
        new: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}
        for row, column in cells:
            digest = self._digests[row][column]
            if digest in self._by_digest or digest in new:
                continue
            if digest in self._memory.stored:
                self._by_digest[digest] = self._memory.stored[digest]
                self.work.recalled += 1
            else:
                new[digest] = self._prompts[row][column], self._targets[row]
        if new:
            self._by_digest.update(zip(new, self._compute(list(new), list(new.values())).tolist(), strict=True))
        self.work.pairs += len(cells)
        for row, column in cells:
            total = self._by_digest[self._digests[row][column]]
            self._sums[row, column] = total
            self._means[row, column] = total / len(self._targets[row])
            self.done[row, column] = True

    def _compute(self, digests: list[bytes], pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Float64 [N] sums of new pairs. Batches are cut as if none were finished: what an interrupted run computes after it
        goes on is then what it would have computed, to the last bit."""
        finished = np.array([self._memory.finished.get(digest, np.nan) for digest in digests])
        self.work.computed += len(digests)
        if not np.isnan(finished).any():
            self.work.resumed += len(digests)
            return finished

        self.asked_tokens += sum(
            len(prompt) + len(target)
            for (prompt, target), unknown in zip(pairs, np.isnan(finished), strict=True)
            if unknown
        )
        scorer = self._scorer()
        before = self.work.forwarded_tokens - scorer.forwarded_tokens, self.work.padding_tokens - scorer.padding_tokens
        began = time.monotonic() - self.work.seconds

        def account() -> None:
            self.work.forwarded_tokens = before[0] + scorer.forwarded_tokens
            self.work.padding_tokens = before[1] + scorer.padding_tokens
            self.work.seconds = time.monotonic() - began

        def keep(rows: np.ndarray, sums: np.ndarray) -> None:
            self.work.resumed -= len(rows)
            self.work.tokens += sum(len(ids) for row in rows.tolist() for ids in pairs[row])
            account()
            done = zip(rows.tolist(), sums.tolist(), strict=True)
            self._memory.keep(self._stored([(digests[row], len(pairs[row][1]), total) for row, total in done]))

        self.work.resumed += len(digests)
        prompts, targets = [prompt for prompt, _ in pairs], [target for _, target in pairs]
        sums = scorer.sums(prompts, targets, finished=finished, keep=keep, every=self._memory.every)
        account()
        return sums

    def _stored(self, finished: list[tuple[bytes, int, float]]) -> pa.Table:
        """STORED rows of (digest, tokens, sum); what is no finite number is computed again another time."""
        return from_rows(
            [
                {"group": group, "pair": digest, "tokens": tokens, "sum": total}
                for digest, tokens, total in finished
                if np.isfinite(total)
                for group in sorted(self._groups[digest])
            ],
            STORED,
        )

    def score_all(self) -> None:
        """Score every pair."""
        self.score(np.ones_like(self.done))

    def score_down_to(self, threshold: Threshold, settings: ScoreSettings) -> None:
        """Score every row until its tss_pp is known or cannot reach the threshold.

        Alternatives come in the order of their rank, one more for each row that is still open at each step: the hardest are
        mostly among the nearest, and the order that would be best saves little more (tests/benchmarks/RESULTS.md).
        """
        first = np.zeros_like(self.done)
        first[:, :_FIRST] = True
        self.score(first)
        while len(rows := self._reaching(threshold, settings)):
            wanted = np.zeros_like(self.done)
            wanted[rows, self.done[rows].sum(axis=1)] = True
            self.score(wanted)

    def _reaching(self, threshold: Threshold, settings: ScoreSettings) -> np.ndarray:
        """Rows that have alternatives left to score and an upper bound that reaches the threshold."""
        rows = np.flatnonzero(self.done.sum(axis=1) < self.counts + _FIRST)
        bounds = upper_bound(self._means[rows, _OWN], self._means[rows, _FIRST:], settings)
        return np.asarray(rows[threshold.reached(bounds, [self._ids[row] for row in rows])])

    def _exists(self) -> np.ndarray:
        return np.asarray(np.arange(self.done.shape[1]) < self.counts[:, None] + _FIRST)

    def finite(self) -> np.ndarray:
        """Bool [R]: whether every likelihood that was computed is a finite number."""
        return np.asarray(np.all(np.isfinite(self._means) | ~self.done, axis=1))

    def table(self) -> pa.Table:
        """LIKELIHOODS; an alternative that was not scored has a null mean."""
        records = self._encoded.drop_columns(["prompt", "target", "alternatives", "pair_key"]).to_pylist()
        return from_rows(
            [
                {
                    **record,
                    "n_target_tokens": len(self._targets[row]),
                    "loglik_sum": self._sums[row, _OWN],
                    "loglik_mean": self._means[row, _OWN],
                    "loglik_empty_mean": self._means[row, _EMPTY],
                    "n_alternatives": len(self._offers[row]),
                    "alternatives": [
                        {
                            "instruction": offer["instruction"],
                            "origin": offer["origin"],
                            "similarity": offer["similarity"],
                            "loglik_mean": self._means[row, _FIRST + place] if self.done[row, _FIRST + place] else None,
                        }
                        for place, offer in enumerate(self._offers[row])
                    ],
                }
                for row, record in enumerate(records)
            ],
            LIKELIHOODS,
        )


def _ragged(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The lists of a list column as int64 arrays."""
    arrays: list[np.ndarray] = []
    for chunk in column.chunks:
        values, edges = chunk.values.to_numpy().astype(np.int64), chunk.offsets.to_numpy()
        arrays += [values[start:stop] for start, stop in itertools.pairwise(edges)]
    return arrays


def _ragged_of_structs(column: pa.ChunkedArray, name: str) -> list[np.ndarray]:
    """The lists in field `name` of the structs of a list column, one after the other."""
    return [ids for chunk in column.chunks for ids in _ragged(pa.chunked_array([chunk.flatten().field(name)]))]
