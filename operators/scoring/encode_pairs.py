"""From placed rows to the pairs that are to be scored: choose alternatives that fit, turn all prompts and targets into ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import pyarrow as pa

from operators.hashing import fold_wording
from operators.prompts.tokenise import Encoder, Ids, Problem, Row, TooLong
from operators.retrieval.alternatives import Pool, Query
from operators.retrieval.generated import Offer
from operators.schema import ENCODED, RETRIEVED, WRITTEN_ANEW, from_rows

# Candidates that may be tried for a row, as a multiple of k: where a row is nearly as long as a sequence may be, most of them
# are too long, and it must not render and tokenise the whole pool.
TRIES = 16


class Alternative(NamedTuple):
    """An instruction that may stand for a row's own."""

    instruction: str
    origin: str
    similarity: float


@dataclass(frozen=True)
class Candidates:
    """The ranked candidates of one row, from its NEIGHBOURS row, and from what was written for its input; the cluster of its
    instruction."""

    query: Query
    rows: Sequence[int]
    similarities: Sequence[float]
    complete: bool
    paraphrases_skipped: int
    written: Sequence[Offer] = ()  # for the row's input: they come before those of the pool
    cluster: int | None = None

    def __len__(self) -> int:
        return len(self.written) + len(self.rows)

    def at(self, place: int, pool: Pool) -> Alternative:
        """The candidate at a place of the ranking."""
        if place < len(self.written):
            offer = self.written[place]
            return Alternative(offer.text, WRITTEN_ANEW, offer.similarity)
        place -= len(self.written)
        return Alternative(pool.texts[self.rows[place]], RETRIEVED, self.similarities[place])


class _Prompts:
    """Prompt ids by (instruction, input, turns), each encoded once and in batches."""

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self._ids: dict[Row, Ids | Problem | TooLong] = {}

    def learn(self, keys: list[Row]) -> None:
        new = [key for key in dict.fromkeys(keys) if key not in self._ids]
        self._ids.update(zip(new, self._encoder.prompts(new), strict=True))

    def fits(self, key: Row, room: int) -> bool:
        """Whether the template works on it and its ids are at most `room`, all of which the model knows."""
        ids = self._ids[key]
        return isinstance(ids, list) and len(ids) <= room and self._encoder.outside(ids) is None

    def __getitem__(self, key: Row) -> Ids:
        ids = self._ids[key]
        if not isinstance(ids, list):
            raise ids
        return ids


@dataclass
class _Choice:
    """Alternatives of one row while they are being chosen."""

    alternatives: list[Alternative] = field(default_factory=list)
    next: int = 0

    def offers_anew(self, text: str) -> bool:
        """Whether no written alternative has this wording."""
        written = [known.instruction for known in self.alternatives if known.origin == WRITTEN_ANEW]
        return not written or fold_wording(text) not in map(fold_wording, written)


def encode_rows(rows: pa.Table, candidates: list[Candidates], pool: Pool, encoder: Encoder, k: int) -> pa.Table:
    """ENCODED of rows (columns of ADMITTED) with their candidates: the ids of every prompt and target that may be scored."""
    records = rows.to_pylist()
    inputs: list[_Input] = [
        (
            record["input"][: record["input_chars"]],
            encoder.turns(record["instruction"], record["messages"], record["turn"]),
        )
        for record in records
    ]
    outputs = list({record["output"]: None for record in records})
    targets = dict(zip(outputs, encoder.targets(outputs), strict=True))
    prompts = _Prompts(encoder)
    prompts.learn([(record["instruction"], *input) for record, input in zip(records, inputs, strict=True)])
    room = [encoder.max_length - len(targets[record["output"]]) for record in records]
    choices = _choose_alternatives(inputs, room, candidates, pool, prompts, k)
    return from_rows(
        [
            {
                **{name: record[name] for name in _KEPT},
                "input_truncated": len(input[0]) < len(record["input"]),
                "paraphrases_skipped": ranked.paraphrases_skipped,
                "cluster": ranked.cluster,
                "prompt": prompts[record["instruction"], *input],
                "target": targets[record["output"]],
                "alternatives": [
                    {**alternative._asdict(), "prompt": prompts[alternative.instruction, *input]}
                    for alternative in choice.alternatives
                ],
            }
            for record, input, choice, ranked in zip(records, inputs, choices, candidates, strict=True)
        ],
        ENCODED,
    )


_TEXTS = ("instruction", "input", "output", "messages", "conversation", "turn", "extra")
_KEPT = ("id", "source", "file", "line", *_TEXTS, "n_prompt_tokens", "pair_key")
_Input = tuple[str, str | None]  # the input of a row as far as it is scored, and the turns up to its question


def _choose_alternatives(
    inputs: list[_Input], room: list[int], candidates: list[Candidates], pool: Pool, prompts: _Prompts, k: int
) -> list[_Choice]:
    """The first `k` candidates of each row whose prompt has at most `room` ids, all known to the model; any other is replaced
    by the next, up to candidate TRIES * k of the row's ranking. A row for which fewer than `k` of these will do has fewer."""
    choices = [_Choice() for _ in inputs]
    candidates = list(candidates)  # longer ones take the place of some
    open_rows = list(range(len(inputs)))
    while open_rows:
        _rank_further(candidates, [row for row in open_rows if choices[row].next >= len(candidates[row])], pool, k)
        offers = {row: offer for row in open_rows if (offer := _offer(choices[row], candidates[row], k))}
        offered = {row: [candidates[row].at(i, pool) for i in offer] for row, offer in offers.items()}
        prompts.learn([(offer.instruction, *inputs[row]) for row, tried in offered.items() for offer in tried])
        for row, offer in offers.items():
            choice = choices[row]
            for alternative in offered[row]:
                text = alternative.instruction
                if prompts.fits((text, *inputs[row]), room[row]) and choice.offers_anew(text):
                    choice.alternatives.append(alternative)
            choice.next = offer[-1] + 1
        open_rows = [row for row in offers if len(choices[row].alternatives) < k]
    return choices


def _rank_further(candidates: list[Candidates], rows: list[int], pool: Pool, k: int) -> None:
    """Put longer lists in place of those of `rows`, which end too early, unless they hold all that may be tried."""
    ended = [row for row in rows if not candidates[row].complete and len(candidates[row].rows) < TRIES * k]
    queries = list(dict.fromkeys(candidates[row].query for row in ended))
    longer = {
        query: (ranked.tolist(), similar.tolist(), complete)
        for query, ranked, similar, complete, _ in pool.search(queries, TRIES * k)
    }
    for row in ended:
        rows_of_pool, similarities, complete = longer[candidates[row].query]
        candidates[row] = replace(candidates[row], rows=rows_of_pool, similarities=similarities, complete=complete)


def _offer(choice: _Choice, ranked: Candidates, k: int) -> range:
    """Places in the ranking of the candidates to try next."""
    missing = k - len(choice.alternatives)
    return range(choice.next, min(choice.next + missing, len(ranked), TRIES * k + len(ranked.written)))
