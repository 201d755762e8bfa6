"""From placed rows to the pairs that are to be scored: choose alternatives that fit, turn all prompts and targets into ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from operators.prompts.tokenise import Encoder, Ids, Problem, Row, TooLong
from operators.retrieval.alternatives import Pool, Query
from operators.schema import ENCODED, from_rows

# Candidates that may be tried for a row, as a multiple of k: where a row is nearly as long as a sequence may be, most of them
# are too long, and it must not render and tokenise the whole pool.
TRIES = 16


@dataclass(frozen=True)
class Candidates:
    """The ranked candidates of one row, from its NEIGHBOURS row, and the cluster of its instruction."""

    query: Query
    rows: Sequence[int]
    similarities: Sequence[float]
    complete: bool
    paraphrases_skipped: int
    cluster: int | None = None


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

    rows: list[int] = field(default_factory=list)
    similarities: list[float] = field(default_factory=list)
    next: int = 0


def encode_rows(rows: pa.Table, candidates: list[Candidates], pool: Pool, encoder: Encoder, k: int) -> pa.Table:
    """ENCODED of rows (columns of ADMITTED) with their candidates: the ids of every prompt and target that may be scored."""
    records = rows.to_pylist()
    inputs: list[_Input] = [
        (record["input"][: record["input_chars"]], encoder.turns(record["instruction"], record["messages"]))
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
                    {"instruction": text, "similarity": similarity, "prompt": prompts[text, *input]}
                    for text, similarity in zip(
                        map(pool.texts.__getitem__, choice.rows), choice.similarities, strict=True
                    )
                ],
            }
            for record, input, choice, ranked in zip(records, inputs, choices, candidates, strict=True)
        ],
        ENCODED,
    )


_TEXTS = ("instruction", "input", "output", "messages", "extra")
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
        _rank_further(candidates, [row for row in open_rows if choices[row].next >= len(candidates[row].rows)], pool, k)
        offers = {row: offer for row in open_rows if (offer := _offer(choices[row], candidates[row], k))}
        prompts.learn(
            [(pool.texts[candidates[row].rows[i]], *inputs[row]) for row, offer in offers.items() for i in offer]
        )
        for row, offer in offers.items():
            choice, ranked = choices[row], candidates[row]
            for i in offer:
                if prompts.fits((pool.texts[ranked.rows[i]], *inputs[row]), room[row]):
                    choice.rows.append(ranked.rows[i])
                    choice.similarities.append(ranked.similarities[i])
            choice.next = offer[-1] + 1
        open_rows = [row for row in offers if len(choices[row].rows) < k]
    return choices


def _rank_further(candidates: list[Candidates], rows: list[int], pool: Pool, k: int) -> None:
    """Put longer lists in place of those of `rows`, which end too early, unless they hold all that may be tried."""
    ended = [row for row in rows if not candidates[row].complete and len(candidates[row].rows) < TRIES * k]
    queries = list(dict.fromkeys(candidates[row].query for row in ended))
    longer = {
        query: Candidates(query, ranked.tolist(), similar.tolist(), complete, skipped)
        for query, ranked, similar, complete, skipped in pool.search(queries, TRIES * k)
    }
    for row in ended:
        candidates[row] = longer[candidates[row].query]


def _offer(choice: _Choice, ranked: Candidates, k: int) -> range:
    """Places in the ranking of the candidates to try next."""
    missing = k - len(choice.rows)
    return range(choice.next, min(choice.next + missing, len(ranked.rows), TRIES * k))
