"""Texts that rows must not share words with, as workers look them up: arrays that the processes of a machine share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from operators.normalise import Example
from operators.rejections import Rejection
from operators.word_ngrams import ExcludedTexts, find_shared, index_texts
from pipeline.engine.job import Job, once
from pipeline.reading.exclude_files import ExcludedFile, strings_in
from pipeline.storage import urls
from pipeline.storage.arrays import load_array, save_array

CHARS_AT_ONCE = 1 << 20
SHOWN_CHARS = 1000  # of the words that are shared, which may be long


@dataclass(frozen=True)
class ExcludedIndex:
    """Where the arrays of one file lie, and how rows are compared with it."""

    path: str
    ngram: int
    folder: str


def index_excluded(job: Job, excluded: Sequence[ExcludedFile]) -> list[ExcludedIndex]:
    """Write what workers look up."""
    indexes = []
    for number, file in enumerate(excluded):
        folder = urls.join(job.work, "excluded", str(number))
        once("exclude", write_index, file.texts, file.ngram, folder)
        indexes.append(ExcludedIndex(file.path, file.ngram, folder))
    return indexes


def write_index(texts: list[tuple[int, str]], ngram: int, folder: str) -> None:
    """Write the arrays of one file's texts."""
    for name, values in vars(index_texts(texts, ngram)).items():
        save_array(urls.join(folder, f"{name}.arrow"), values)


@lru_cache(maxsize=64)
def _texts(folder: str) -> ExcludedTexts:
    return ExcludedTexts(*(load_array(urls.join(folder, f"{name}.arrow")) for name in ExcludedTexts.__annotations__))


def contaminations(examples: list[Example], indexes: Sequence[ExcludedIndex]) -> list[Rejection | None]:
    """For each example, why it is contaminated, by the first file that shares words with it."""
    reasons: list[Rejection | None] = [None] * len(examples)
    for index in indexes:
        for places in _slices(examples):
            _compare(examples, [place for place in places if reasons[place] is None], index, reasons)
    return reasons


def _slices(examples: list[Example]) -> Iterator[range]:
    """Places of examples in stretches of so many characters: their words take several times the memory of their text."""
    start = chars = 0
    for place, example in enumerate(examples):
        chars += len(example.instruction) + len(example.input) + len(example.output) + len(example.messages or "")
        if chars >= CHARS_AT_ONCE or place == len(examples) - 1:
            yield range(start, place + 1)
            start, chars = place + 1, 0


def _compare(examples: list[Example], places: list[int], index: ExcludedIndex, reasons: list[Rejection | None]) -> None:
    """Note which of the examples at these places share words with the texts of a file."""
    if places:
        texts = [_texts_of(examples[place]) for place in places]
        wholes = [[examples[place].instruction, examples[place].input] for place in places]
        for place, shared in zip(places, find_shared(texts, wholes, _texts(index.folder), index.ngram), strict=True):
            if shared is not None:
                what = "its instruction or input is the text" if shared.whole else f"it shares {index.ngram} words"
                reasons[place] = Rejection(
                    "contaminated", f"{index.path}:{shared.line}: {what}: {shared.words[:SHOWN_CHARS]}"
                )


def _texts_of(example: Example) -> list[str]:
    """The texts of an example, and all turns of a conversation that is one example: exports hold these too."""
    texts = [example.instruction, example.input, example.output]
    if example.messages is not None and example.turn is None:
        texts += strings_in(json.loads(example.messages))
    return texts
