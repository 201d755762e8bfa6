"""Stretches of words that rows share with texts that they must not hold, such as those of benchmarks.

Words are what stands between white space, punctuation and symbols, after NFKC and without case. Each character of a script that
writes no spaces is a word. N-grams are looked up by 64-bit hashes in a sorted array and then compared word by word, so that no
hash alone ever decides.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SHORTEST = 4  # words of a text that is shorter than an n-gram; labels and single answers stand everywhere
_WORDS_KEPT = 1 << 18  # hashes of words that a process remembers
_UNSPACED = ("CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")
_FACTORS = np.random.default_rng(31).integers(0, 2**64, size=1000, dtype=np.uint64) | np.uint64(1)
_END = ord("\n")


class _Characters(dict[int, str]):
    """What becomes of each character in words, looked up once."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        if unicodedata.category(char)[0] in "PSZC":
            shown = " "
        elif unicodedata.category(char)[0] == "L" and unicodedata.name(char, "").startswith(_UNSPACED):
            shown = f" {char}"
        else:
            shown = char
        self[code] = shown
        return shown


_CHARACTERS = _Characters()


def words_of(text: str) -> list[str]:
    """The words of a text, as they are compared."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_CHARACTERS).split()


class _Hashes(dict[str, int]):
    """A 64-bit hash of each word, looked up once."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _WORDS_KEPT:
            self.clear()
        value = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
        self[word] = value
        return value


_HASHES = _Hashes()


def _word_hashes(words: list[str]) -> np.ndarray:
    return np.fromiter((_HASHES[word] for word in words), dtype=np.uint64, count=len(words))


def _window_hashes(hashes: np.ndarray, length: int) -> np.ndarray:
    """Uint64 [W - length + 1]: a hash of each stretch of so many words."""
    count = max(0, len(hashes) - length + 1)
    windows = np.zeros(count, dtype=np.uint64)
    for place in range(length if count else 0):
        windows += hashes[place : place + count] * _FACTORS[place]
    return windows


@dataclass(frozen=True)
class ExcludedTexts:
    """Texts as workers look n-grams up in them. `text` uint8 holds the words of all texts, a space between two words and a new
    line after each text; `lines` int64 [T] says where in its file each text stood, and `starts` int64 [T] where it begins in
    `text`. `hashes` uint64 [G] of n-grams are sorted, and `places` int64 [G] say where each begins; `whole_hashes` and
    `whole_places` are of texts that are shorter than an n-gram."""

    text: np.ndarray
    lines: np.ndarray
    starts: np.ndarray
    hashes: np.ndarray
    places: np.ndarray
    whole_hashes: np.ndarray
    whole_places: np.ndarray


def index_texts(texts: list[tuple[int, str]], length: int) -> ExcludedTexts:
    """Texts, each with its line, by their n-grams of so many words."""
    pieces, lines, starts = [], [], []
    hashes, places, whole_hashes, whole_places = ([np.zeros(0, dtype=kind)] for kind in (np.uint64, np.int64) * 2)
    begin = 0
    for line, text in texts:
        words = words_of(text)
        if len(words) < SHORTEST:
            continue
        sizes = np.array([len(word.encode("utf-8", "surrogatepass")) for word in words])
        offsets = begin + np.r_[0, np.cumsum(sizes + 1)]
        values = _word_hashes(words)
        whole = len(words) < length
        grams = _window_hashes(values, len(words) if whole else length)
        (whole_hashes if whole else hashes).append(grams)
        (whole_places if whole else places).append(offsets[: len(grams)])
        pieces.append(f"{' '.join(words)}\n".encode("utf-8", "surrogatepass"))
        lines.append(line)
        starts.append(begin)
        begin = int(offsets[-1])
    return ExcludedTexts(
        np.frombuffer(b"".join(pieces), dtype=np.uint8),
        np.array(lines, dtype=np.int64),
        np.array(starts, dtype=np.int64),
        *_sorted(np.concatenate(hashes), np.concatenate(places)),
        *_sorted(np.concatenate(whole_hashes), np.concatenate(whole_places)),
    )


def _sorted(hashes: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((places, hashes))  # of equal n-grams the first in the file is named
    return hashes[order], places[order]


@dataclass(frozen=True)
class Shared:
    """What a row shares with an excluded text: the text's line, the words, and whether these are all of a short text."""

    line: int
    words: str
    whole: bool


def find_shared(
    rows: list[list[str]], wholes: list[list[str]], texts: ExcludedTexts, length: int
) -> list[Shared | None]:
    """For each row, the first n-gram of its texts `rows[i]` that an excluded text holds, or a short excluded text that one of
    `wholes[i]` consists of."""
    shared: list[Shared | None] = [None] * len(rows)
    owners, words = _all_words(rows)
    for row, place, words_at in _hits(owners, words, texts, length):
        if shared[row] is None:
            shared[row] = _verified(texts, place, words_at, whole=False)
    if len(texts.whole_hashes):
        for row, candidates in enumerate(wholes):
            for text in candidates if shared[row] is None else ():
                shared[row] = shared[row] or _whole(texts, words_of(text), length)
    return shared


def _all_words(rows: list[list[str]]) -> tuple[list[tuple[int, int, int]], list[str]]:
    """(row, first word, last word) of each text, and the words of all."""
    owners: list[tuple[int, int, int]] = []
    words: list[str] = []
    for row, texts in enumerate(rows):
        for text in texts:
            start = len(words)
            words += words_of(text)
            owners.append((row, start, len(words)))
    return owners, words


def _hits(
    owners: list[tuple[int, int, int]], words: list[str], texts: ExcludedTexts, length: int
) -> Iterator[tuple[int, int, list[str]]]:
    """(row, place in the excluded texts, words of the row) of n-grams with equal hashes, within one text of a row each."""
    windows = _window_hashes(_word_hashes(words), length)
    low = np.searchsorted(texts.hashes, windows, side="left")
    known = low < len(texts.hashes)
    known[known] = texts.hashes[low[known]] == windows[known]
    ends = np.array([end for _, _, end in owners], dtype=np.int64)
    for window in np.flatnonzero(known).tolist():
        row, _, end = owners[int(np.searchsorted(ends, window, side="right"))]
        if window + length > end:
            continue
        for entry in range(int(low[window]), len(texts.hashes)):
            if texts.hashes[entry] != windows[window]:
                break
            yield row, int(texts.places[entry]), words[window : window + length]


def _verified(texts: ExcludedTexts, place: int, words: list[str], *, whole: bool) -> Shared | None:
    """What stands at a place of the excluded texts, where it is these words."""
    joined = " ".join(words)
    data = joined.encode("utf-8", "surrogatepass")
    after = place + len(data)
    if after >= len(texts.text) or texts.text[place:after].tobytes() != data:
        return None
    if texts.text[after] not in ((_END,) if whole else (_END, ord(" "))):
        return None
    number = int(np.searchsorted(texts.starts, place, side="right")) - 1
    return Shared(int(texts.lines[number]), joined, whole)


def _whole(texts: ExcludedTexts, words: list[str], length: int) -> Shared | None:
    """The short excluded text of just these words."""
    if not SHORTEST <= len(words) < length:
        return None
    value = _window_hashes(_word_hashes(words), len(words))[0]
    low, high = (int(np.searchsorted(texts.whole_hashes, value, side=side)) for side in ("left", "right"))
    matches = (_verified(texts, int(texts.whole_places[entry]), words, whole=True) for entry in range(low, high))
    return next((match for match in matches if match is not None), None)
