"""From placed rows to the pairs that are to be scored: choose alternatives that fit, turn all prompts and targets into ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from operators.hashing import fold_wording
from operators.prompts.tokenise import Encoder, Ids, Problem, Row, TooLong
from operators.retrieval.generated import Offer
from operators.schema import ENCODED, RETRIEVED, WRITTEN_ANEW, from_rows


class Alternative(NamedTuple):
    """An instruction that may stand for a row's own."""

    instruction: str
    origin: str
    similarity: float


@dataclass(frozen=True)
class Candidates:
    """The ranked candidates of one row: of the pool, and what was written for its input; the cluster of its instruction."""

    texts: Sequence[str]
    similarities: Sequence[float]
    paraphrases_skipped: int = 0
    written: Sequence[Offer] = ()  # for the row's input: they come before those of the pool
    cluster: int | None = None

    def __len__(self) -> int:
        return len(self.written) + len(self.texts)

    def at(self, place: int) -> Alternative:
        """The candidate at a place of the ranking."""
        if place < len(self.written):
            offer = self.written[place]
            return Alternative(offer.text, WRITTEN_ANEW, offer.similarity)
        place -= len(self.written)
        return Alternative(self.texts[place], RETRIEVED, self.similarities[place])


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


def encode_rows(rows: pa.Table, candidates: list[Candidates], encoder: Encoder, k: int) -> pa.Table:
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
    choices = _choose_alternatives(inputs, room, candidates, prompts, k)
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
    inputs: list[_Input], room: list[int], candidates: list[Candidates], prompts: _Prompts, k: int
) -> list[_Choice]:
    """The first `k` candidates of each row whose prompt has at most `room` ids, all known to the model; any other is replaced
    by the next. A row for which fewer than `k` of its candidates will do has fewer."""
    choices = [_Choice() for _ in inputs]
    open_rows = list(range(len(inputs)))
    while open_rows:
        offers = {row: offer for row in open_rows if (offer := _offer(choices[row], candidates[row], k))}
        offered = {row: [candidates[row].at(place) for place in offer] for row, offer in offers.items()}
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


def _offer(choice: _Choice, ranked: Candidates, k: int) -> range:
    """Places in the ranking of the candidates to try next."""
    missing = k - len(choice.alternatives)
    return range(choice.next, min(choice.next + missing, len(ranked)))
