"""Rows of a block of a model corpus as token ids: their targets, and the prompts of the alternatives that fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from operators.prompts.measure import Measured, measure
from operators.prompts.tokenise import Encoder, Ids, Problem, Row, TooLong
from pipeline.planning.alternatives import Query
from pipeline.planning.model_corpus import ModelCorpus, PlanRow, rounded


@dataclass(frozen=True)
class EncodedRow:
    """A row with the ids of its target and of its prompts, its own first; how many first ids of each prompt another input of
    the same instruction has too; for how many rows it stands."""

    row: PlanRow
    target: np.ndarray
    prompts: list[np.ndarray]
    heads: list[int]
    copies: int
    alternatives: list[str]


def encode_rows(
    corpus: ModelCorpus,
    places: list[int],
    candidates: dict[Query, list[int]],
    encoder: Encoder,
    *,
    k: int,
    too_long: str,
    block_tokens: int,
) -> list[EncodedRow]:
    """Rows of a block of about `block_tokens`, encoded; without those that are rejected."""
    measured = measure([corpus.rows[place].example for place in places], encoder, too_long=too_long)
    good = [
        (place, result.input_chars)
        for place, result in zip(places, measured, strict=True)
        if isinstance(result, Measured)
    ]
    prompts = _Prompts(encoder)
    inputs = [_input(corpus.rows[place], chars, encoder) for place, chars in good]
    outputs = [corpus.rows[place].example.output for place, _ in good]
    targets = encoder.targets(outputs)
    prompts.learn(
        (corpus.rows[place].example.instruction, *input) for (place, _), input in zip(good, inputs, strict=True)
    )
    ranked = [candidates[(int(corpus.of_row[place]), *corpus.rows[place].use)] for place, _ in good]
    texts = corpus.instructions.texts
    for start in range(0, 2 * k, k):  # the second k only where some of the first do not fit
        prompts.learn(
            (texts[other], *input)
            for input, others, target in zip(inputs, ranked, targets, strict=True)
            if start == 0 or prompts.fitting(texts, others[:start], input, encoder.max_length - len(target)) < k
            for other in others[start : start + k]
        )
    encoded = []
    for (place, _), input, others, target in zip(good, inputs, ranked, targets, strict=True):
        row = corpus.rows[place]
        room = encoder.max_length - len(target)
        own = (row.example.instruction, *input)
        fitting = [texts[other] for other in others if prompts.fits((texts[other], *input), room)][:k]
        chosen = [own, *((text, *input) for text in fitting)]
        copies = max(1, min(rounded(float(corpus.copies[place]), row.id), round(block_tokens / row.cost)))
        ids = [np.asarray(prompts.ids[key], dtype=np.int64) for key in chosen]
        heads = [prompts.head(key) for key in chosen] if copies > 1 else []
        encoded.append(EncodedRow(row, np.asarray(target, dtype=np.int64), ids, heads, copies, fitting))
    return encoded


def _input(row: PlanRow, chars: int, encoder: Encoder) -> tuple[str, str | None]:
    example = row.example
    return example.input[:chars], encoder.turns(example.instruction, example.messages, example.turn)


class _Prompts:
    """Ids of prompts, each encoded once."""

    def __init__(self, encoder: Encoder):
        self._encoder = encoder
        self.ids: dict[Row, Ids | Problem | TooLong] = {}

    def learn(self, keys: Iterable[Row]) -> None:
        new = [key for key in dict.fromkeys(keys) if key not in self.ids]
        self.ids.update(zip(new, self._encoder.prompts(new), strict=True))

    def fits(self, key: Row, room: int) -> bool:
        ids = self.ids.get(key)
        return isinstance(ids, list) and len(ids) <= room and self._encoder.outside(ids) is None

    def fitting(self, texts: Sequence[str], others: list[int], input: tuple[str, str | None], room: int) -> int:
        return sum(self.fits((texts[other], *input), room) for other in others)

    def head(self, key: Row) -> int:
        """How many first ids a prompt has in common with one of the same instruction and another input."""
        ids = self.ids[key]
        if not isinstance(ids, list):
            raise ids
        if not key[1]:
            return len(ids)
        other: Row = (key[0], "0", None)
        self.learn([other])
        others = self.ids[other]
        return common(ids, others) if isinstance(others, list) else 0


def common(some: Ids, others: Ids) -> int:
    """How many first ids are the same."""
    shorter = min(len(some), len(others))
    return next((place for place in range(shorter) if some[place] != others[place]), shorter)
