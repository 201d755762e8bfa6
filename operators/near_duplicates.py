"""Which rows are near duplicates, and which of them stay.

Two rows are near duplicates where the Jaccard indices of the shingles of their prompts (instruction and input), of their
outputs and, where both have one, of their inputs are all at least a threshold; the lowest is their similarity. Rows that share
a long input or the earlier turns of a conversation and are answered otherwise are none, nor are those that share a long
instruction.

Rows have a rank: the place of their input in the configuration, then the longest text first, then the lowest id. In the order
of ranks a row stays unless it is a near duplicate of one that stays. So every row that goes has one that stays and is similar
enough, no two that stay were seen to be near duplicates, and neither blocks nor the order of rows decide anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from operators.minhash import HASHES, agreement, signatures
from operators.row_ids import firsts, number_ids, sort_ids
from operators.shingles import FoldedRow, jaccard, shingle_hashes

# Rows of a bucket up to which all of them are paired. In a larger one each is paired with the first by rank, and then within
# those that share the next band too; where these are too many again, with their first and the rows just before it.
ROOM, HEADS = 32, 4
_SLACK = 5.0  # standard deviations by which an estimate may fall short before a pair is passed over
_PAIRS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Ranked:
    """Ids uint64 [N, 2] of rows, with what decides their rank: index of the input and characters of text, int64 [N] each."""

    ids: np.ndarray
    inputs: np.ndarray
    chars: np.ndarray

    def take(self, rows: np.ndarray) -> Ranked:
        """Some of the rows."""
        return Ranked(self.ids[rows], self.inputs[rows], self.chars[rows])

    def order(self, *before: np.ndarray) -> np.ndarray:
        """Rows by rank, within groups of equal `before`, of which the last counts most."""
        return sort_ids(self.ids, before=(-self.chars, self.inputs, *before))


def pairs_in_buckets(rows: Ranked, keys: np.ndarray, following: np.ndarray) -> tuple[np.ndarray, int]:
    """(pairs int64 [P, 2] of rows to compare, the earlier by rank first; the rows of the largest bucket in which not all were
    paired). Rows are a bucket where they have one key; `following` is the key of the next band. Copies of a row count once."""
    copies = sort_ids(rows.ids, before=(keys,), after=(rows.inputs,))
    kept = copies[firsts(np.c_[keys, rows.ids][copies])]  # the copy in the first input
    order = kept[rows.take(kept).order(keys[kept])]
    sizes = _sizes(keys[order][:, None])
    pairs = [_within(order[sizes <= ROOM], keys[order][sizes <= ROOM, None], ROOM)]
    large = order[sizes > ROOM]
    pairs.append(_with_heads(large, keys[large][:, None]))
    finer = large[rows.take(large).order(following[large], keys[large])]
    groups = np.c_[keys, following][finer]
    sizes = _sizes(groups)
    crowded = sizes > ROOM
    pairs.append(_within(finer[~crowded], groups[~crowded], ROOM))
    pairs.append(_within(finer[crowded], groups[crowded], HEADS + 1))
    pairs.append(_with_heads(finer[crowded], groups[crowded]))
    return np.concatenate(pairs), int(sizes.max(initial=0)) if crowded.any() else 0


def _sizes(groups: np.ndarray) -> np.ndarray:
    """Int64 [N]: how many rows each row's group has; groups uint64 [N, G] stand together."""
    heads = np.flatnonzero(firsts(groups))
    lengths = np.diff(np.r_[heads, len(groups)])
    return np.repeat(lengths, lengths)


def _within(rows: np.ndarray, groups: np.ndarray, room: int) -> np.ndarray:
    """Pairs of each row with the `room` - 1 before it in its group."""
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    for step in range(1, min(room, len(rows))):
        same = (groups[step:] == groups[:-step]).all(axis=1)
        if not same.any():
            break
        pairs.append(np.c_[rows[:-step][same], rows[step:][same]])
    return np.concatenate(pairs)


def _with_heads(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Pairs of each row with the first HEADS of its group."""
    pairs = [np.zeros((0, 2), dtype=np.int64)]
    heads = np.flatnonzero(firsts(groups))
    lengths = np.diff(np.r_[heads, len(rows)])
    place = np.arange(len(rows)) - np.repeat(heads, lengths)
    for head in range(HEADS):
        later = place > head
        pairs.append(np.c_[rows[np.arange(len(rows)) - place + head][later], rows[later]] if later.any() else pairs[0])
    return np.concatenate(pairs)


def distinct_pairs(ids: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Pairs int64 [P, 2] of rows, each pair of ids once, whichever band has made it."""
    distinct, numbers = number_ids(ids)
    _, kept = np.unique(numbers[pairs[:, 0]] * len(distinct) + numbers[pairs[:, 1]], return_index=True)
    return pairs[kept]


def similarities(texts: list[FoldedRow], pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Float64 [P]: the similarity of pairs int64 [P, 2] of rows where it reaches the threshold, else -1.

    Exact over 64-bit hashes of shingles. A pair whose signatures say that it is far from similar enough is not looked into."""
    result = np.full(len(pairs), -1.0)
    involved, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(pairs.shape)
    values = signatures([texts[row] for row in involved])
    least = threshold - _SLACK * (threshold * (1 - threshold) / HASHES) ** 0.5
    likely = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        some = places[start : start + _PAIRS_AT_ONCE]
        likely[start : start + _PAIRS_AT_ONCE] = agreement(values[some[:, 0]], values[some[:, 1]]) >= least
    sets: dict[int, list[np.ndarray]] = {}
    for place in np.flatnonzero(likely).tolist():
        mine, theirs = (_sets(texts, row, sets) for row in pairs[place].tolist())
        with_input = texts[pairs[place, 0]].input and texts[pairs[place, 1]].input
        similarity = 1.0
        for kind in range(3 if with_input else 2):
            similarity = min(similarity, jaccard(mine[kind], theirs[kind]))
            if similarity < threshold:
                break
        else:
            result[place] = similarity
    return result


def _sets(texts: list[FoldedRow], row: int, sets: dict[int, list[np.ndarray]]) -> list[np.ndarray]:
    """The distinct shingles of a row's output, of its prompt and of its input, kept in `sets`."""
    if row not in sets:
        folded = texts[row]
        hashes, starts = shingle_hashes([folded.output, folded.prompt, folded.input])
        sets[row] = [np.unique(part) for part in np.split(hashes, starts[1:-1])]
    return sets[row]


@dataclass(frozen=True)
class Dropped:
    """Rows that go: their ids in order and those of the rows that stay for them, uint64 [D, 2] each, and how similar they are,
    float64 [D]."""

    ids: np.ndarray
    stayed: np.ndarray
    similarity: np.ndarray


def settle(some: Ranked, others: Ranked, similarity: np.ndarray) -> Dropped:
    """Which rows go, of all pairs of near duplicates: row i of `some` with row i of `others`, in any order. A row that goes
    names the most similar of those that stay, and of these the first by rank."""
    rows = Ranked(*(np.concatenate(sides) for sides in zip(vars(some).values(), vars(others).values(), strict=True)))
    order = rows.order()
    new = firsts(rows.ids[order])
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.cumsum(new) - 1
    ids = rows.ids[order][new]
    sides = ranks.reshape(2, -1)
    earlier, later = sides.min(axis=0), sides.max(axis=0)
    stays = [True] * len(ids)
    gone: dict[int, tuple[float, int]] = {}
    by_later = np.lexsort((earlier, -similarity, later))
    for first, second, similar in zip(
        earlier[by_later].tolist(), later[by_later].tolist(), similarity[by_later].tolist(), strict=True
    ):
        # All pairs of an earlier row were seen before: whether it stays is known.
        if stays[first] and stays[second]:
            stays[second] = False
            gone[second] = (similar, first)
    dropped = np.array(sorted(gone), dtype=np.int64)
    stayed = np.array([gone[row][1] for row in dropped.tolist()], dtype=np.int64)
    similar = np.array([gone[row][0] for row in dropped.tolist()], dtype=np.float64)
    by_id = sort_ids(ids[dropped])
    return Dropped(ids[dropped][by_id], ids[stayed][by_id], similar[by_id])
