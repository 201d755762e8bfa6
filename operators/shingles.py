"""Shingles of texts: hashes of all stretches of a few characters, by which the wording of rows is compared.

Characters and not words: a reworded ending costs a few shingles instead of one of a handful, scripts that write no spaces have
them too, and a batch of texts is one array of code points whose hashes are a few operations of numpy.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

import numpy as np

WIDTH = 5  # characters of a shingle
_SEED = 20_26
_FACTORS = np.random.default_rng(_SEED).integers(0, 2**64, size=WIDTH, dtype=np.uint64) | np.uint64(1)
_PAD = "\0"


def fold_characters(text: str) -> str:
    """A text without case, in NFC, every run of white space one space: what is compared. Punctuation stays: in code and in sums
    it is what matters."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())


class FoldedRow(NamedTuple):
    """The texts of a row as they are compared; the prompt is instruction and input."""

    prompt: str
    input: str
    output: str


def fold_row(instruction: str, input: str, output: str) -> FoldedRow:
    """The texts of a row, folded."""
    return FoldedRow(fold_characters(f"{instruction}\n{input}"), fold_characters(input), fold_characters(output))


def mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of MurmurHash3 on uint64: every bit of a value moves every bit of the result."""
    shift = np.uint64(33)
    values = (values ^ (values >> shift)) * np.uint64(0xFF51AFD7ED558CCD)
    values = (values ^ (values >> shift)) * np.uint64(0xC4CEB9FE1A85EC53)
    mixed: np.ndarray = values ^ (values >> shift)
    return mixed


def shingle_hashes(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes uint64 [S], starts int64 [N + 1]): text i has the shingles hashes[starts[i] : starts[i + 1]], repeats among them.

    A text that is shorter than a shingle is one shingle; an empty one has none."""
    padded = [text.ljust(WIDTH, _PAD) if text else "" for text in texts]
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    counts = np.maximum(lengths - (WIDTH - 1), 0)
    starts = np.r_[0, np.cumsum(counts)]
    if not len(codes):
        return np.zeros(0, dtype=np.uint64), starts
    windows = len(codes) - WIDTH + 1
    hashes = np.zeros(windows, dtype=np.uint64)
    for place, factor in enumerate(_FACTORS):
        hashes += codes[place : place + windows] * factor
    # Of the windows that begin at each character, those that reach into the next text are none of its shingles.
    ends = np.cumsum(lengths)
    inside = np.ones(len(codes), dtype=bool)
    for back in range(1, WIDTH):
        inside[np.maximum(ends[lengths > 0] - back, 0)] = False
    return mix(hashes[inside[:windows]]), starts


def jaccard(some: np.ndarray, others: np.ndarray) -> float:
    """The Jaccard index of two sets of distinct hashes; of two empty ones it is 1."""
    if not len(some) and not len(others):
        return 1.0
    shared = len(np.intersect1d(some, others, assume_unique=True))
    return shared / (len(some) + len(others) - shared)
