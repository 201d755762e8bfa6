"""From placed rows to their likelihoods: choose alternatives that fit, compute every distinct pair once, put them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from operators.alternatives import Pool, Query
from operators.encode import Encoder, Ids, empty_context
from operators.logprob import TargetScorer
from operators.schema import LIKELIHOODS, from_rows
from operators.template import TemplateProblem


@dataclass
class Work:
    """What a block of rows cost: pairs asked for, pairs that went through the model, their tokens with and without padding."""

    pairs: int = 0
    computed: int = 0
    tokens: int = 0
    forwarded_tokens: int = 0


@dataclass(frozen=True)
class Candidates:
    """The ranked candidates of one row, from its NEIGHBOURS row."""

    query: Query
    rows: Sequence[int]
    similarities: Sequence[float]
    complete: bool
    paraphrases_skipped: int


class _Pairs:
    """Distinct (prompt, target) pairs in the order in which they were first asked for."""

    def __init__(self) -> None:
        self._index: dict[tuple, int] = {}
        self.prompts: list[Ids] = []
        self.targets: list[Ids] = []
        self.asked = 0

    def add(self, prompt_key: tuple, prompt: Ids, output: str, target: Ids) -> int:
        self.asked += 1
        place = self._index.setdefault((prompt_key, output), len(self.prompts))
        if place == len(self.prompts):
            self.prompts.append(prompt)
            self.targets.append(target)
        return place


class _Prompts:
    """Prompt ids by (instruction, input), each encoded once and in batches."""

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._known: dict[tuple[str, str], Ids | TemplateProblem] = {}

    def learn(self, keys: list[tuple[str, str]]) -> None:
        new = [key for key in dict.fromkeys(keys) if key not in self._known]
        self._known.update(zip(new, self._encoder.prompts(new), strict=True))

    def fits(self, key: tuple[str, str], room: int) -> bool:
        """Whether the template works on it and its ids are at most `room`."""
        ids = self._known[key]
        return not isinstance(ids, TemplateProblem) and len(ids) <= room

    def __getitem__(self, key: tuple[str, str]) -> Ids:
        ids = self._known[key]
        if isinstance(ids, TemplateProblem):
            raise ids
        return ids


@dataclass
class _Choice:
    """Alternatives of one row while they are being chosen."""

    rows: list[int] = field(default_factory=list)
    similarities: list[float] = field(default_factory=list)
    next: int = 0


def choose_alternatives(
    inputs: list[str], room: list[int], candidates: list[Candidates], pool: Pool, prompts: _Prompts, k: int
) -> list[_Choice]:
    """The first `k` candidates of each row whose prompt has at most `room` ids; one that is too long is replaced by the next.

    Where a stored candidate list ends too early, the row's whole ranking is computed.
    """
    choices = [_Choice() for _ in inputs]
    candidates = list(candidates)
    open_rows = list(range(len(inputs)))
    while open_rows:
        offers: dict[int, list[int]] = {}
        for row in open_rows:
            offer = _offer(choices[row], candidates, row, pool, k)
            if offer:
                offers[row] = offer
        prompts.learn(
            [(pool.texts[candidates[row].rows[i]], inputs[row]) for row, offer in offers.items() for i in offer]
        )
        for row, offer in offers.items():
            choice, ranked = choices[row], candidates[row]
            for i in offer:
                if prompts.fits((pool.texts[ranked.rows[i]], inputs[row]), room[row]):
                    choice.rows.append(ranked.rows[i])
                    choice.similarities.append(ranked.similarities[i])
            choice.next = offer[-1] + 1
        open_rows = [row for row in offers if len(choices[row].rows) < k]
    return choices


def _offer(choice: _Choice, candidates: list[Candidates], row: int, pool: Pool, k: int) -> list[int]:
    ranked = candidates[row]
    if choice.next >= len(ranked.rows) and not ranked.complete:
        ((_, rows, similar, complete, skipped),) = pool.search([ranked.query], len(pool))
        ranked = candidates[row] = Candidates(ranked.query, rows.tolist(), similar.tolist(), complete, skipped)
    return list(range(choice.next, min(choice.next + k - len(choice.rows), len(ranked.rows))))


def score_rows(
    rows: pa.Table, candidates: list[Candidates], pool: Pool, encoder: Encoder, scorer: TargetScorer, k: int
) -> tuple[pa.Table, Work]:
    """LIKELIHOODS of rows (columns of ADMITTED) with their candidates, and what it cost.

    For each row: l(I), l(0) and l of each alternative, the mean over target ids of the log-likelihood in nats.
    """
    records = rows.to_pylist()
    inputs = [record["input"][: record["input_chars"]] for record in records]
    outputs = {record["output"]: None for record in records}
    targets = dict(zip(outputs, encoder.targets(list(outputs)), strict=True))
    prompts = _Prompts(encoder)
    prompts.learn([(record["instruction"], input) for record, input in zip(records, inputs, strict=True)])
    room = [encoder.max_length - len(targets[record["output"]]) for record in records]
    choices = choose_alternatives(inputs, room, candidates, pool, prompts, k)

    pairs, places = _Pairs(), []
    for record, input, choice in zip(records, inputs, choices, strict=True):
        keys = [(record["instruction"], input), *((pool.texts[row], input) for row in choice.rows)]
        output, target = record["output"], targets[record["output"]]
        places.append(
            [
                pairs.add((), empty_context(encoder.tokenizer), output, target),
                *(pairs.add(key, prompts[key], output, target) for key in keys),
            ]
        )
    forwarded_before = scorer.forwarded_tokens
    sums = scorer.sums(pairs.prompts, pairs.targets)
    work = Work(
        pairs=pairs.asked,
        computed=len(pairs.prompts),
        forwarded_tokens=scorer.forwarded_tokens - forwarded_before,
        tokens=sum(map(len, pairs.prompts)) + sum(map(len, pairs.targets)),
    )
    return from_rows(
        [
            _record(record, input, choice, ranked, sums[place], len(targets[record["output"]]), pool)
            for record, input, choice, ranked, place in zip(records, inputs, choices, candidates, places, strict=True)
        ],
        LIKELIHOODS,
    ), work


def _record(
    record: dict, input: str, choice: _Choice, ranked: Candidates, sums: np.ndarray, n_target: int, pool: Pool
) -> dict:
    means = (sums / n_target).astype(np.float32)  # [l(0), l(I), l(I_1) .. l(I_K)]
    return {
        **{
            name: record[name]
            for name in ("id", "source", "instruction", "input", "output", "extra", "n_prompt_tokens")
        },
        "n_target_tokens": n_target,
        "loglik_sum": np.float32(sums[1]),
        "loglik_mean": means[1],
        "loglik_empty_mean": means[0],
        "n_alternatives": len(choice.rows),
        "paraphrases_skipped": ranked.paraphrases_skipped,
        "input_truncated": len(input) < len(record["input"]),
        "alternatives": [
            {"instruction": pool.texts[row], "similarity": similarity, "loglik_mean": mean}
            for row, similarity, mean in zip(choice.rows, choice.similarities, means[2:], strict=True)
        ],
    }
