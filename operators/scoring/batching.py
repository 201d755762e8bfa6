"""Which sequences go through the model together: packs of a shared trie, or padded batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from operators.scoring.trie import build_trie, packs, runs

Ids = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Sequences:
    """N token sequences one after the other; the targets of each are its last tokens."""

    flat: np.ndarray  # int64 [all tokens]
    bounds: np.ndarray  # int64 [N + 1]
    targets: np.ndarray  # int64 [N] how many of the last tokens of each are targets

    @classmethod
    def of(cls, prompts: Sequence[Ids], targets: Sequence[Ids]) -> Sequences:
        """From prompts and targets, each of at least one id."""
        parts = [np.asarray(ids, dtype=np.int64) for pair in zip(prompts, targets, strict=True) for ids in pair]
        lengths = np.array([len(part) for part in parts], dtype=np.int64)
        flat = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return cls(flat, np.r_[0, np.cumsum(lengths[::2] + lengths[1::2])], lengths[1::2])

    def take(self, which: np.ndarray) -> Sequences:
        """Some of the sequences, in the order of `which`."""
        lengths = np.diff(self.bounds)[which]
        return Sequences(
            self.flat[runs(self.bounds[which], lengths)], np.r_[0, np.cumsum(lengths)], self.targets[which]
        )

    def targets_of(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All targets of some sequences: for each target its position in its sequence, its id, and which of `which` has it."""
        counts, lengths = self.targets[which], np.diff(self.bounds)[which]
        positions = runs(lengths - counts, counts)
        owners = np.repeat(np.arange(len(which)), counts)
        return positions, self.flat[self.bounds[which][owners] + positions], owners


@dataclass(frozen=True)
class Segments:
    """How the tokens of a pack hang together: S segments side by side, parents first, siblings together."""

    start: np.ndarray  # [S] position of the first token in its sequences
    stop: np.ndarray  # [S]
    parent: np.ndarray  # [S] place among the segments, or -1


@dataclass(frozen=True)
class Batch:
    """What goes through the model at once: token ids, and where in them the predictors of targets stand.

    The last token of a sequence predicts nothing that is asked for, so it is not in `ids`.
    """

    sequences: np.ndarray  # [B] indices of those scored here
    ids: np.ndarray  # packed: [T]; padded: [B, T]
    segments: Segments | None  # None: padded
    places: np.ndarray  # [M] of each target's predictor in the flattened ids
    wanted: np.ndarray  # [M] the target's id
    owners: np.ndarray  # [M] which of `sequences` it belongs to
    padding: int = 0  # how many of the ids are padding


def packed_batches(sequences: Sequences, batch_tokens: int) -> Iterator[Batch]:
    """Batches in which no token stands twice for one prefix and nothing is padding; `batch_tokens` as in `packs`."""
    lengths = np.diff(sequences.bounds) - 1
    inner = Sequences(sequences.flat[runs(sequences.bounds[:-1], lengths)], np.r_[0, np.cumsum(lengths)], lengths)
    trie = build_trie(inner.flat, inner.bounds)
    for pack in packs(trie, batch_tokens):
        start, stop = trie.start[pack.segments], trie.stop[pack.segments]
        width = stop - start
        first = np.cumsum(width) - width
        ids = inner.flat[runs(inner.bounds[trie.order[trie.sample[pack.segments]]] + start, width)]
        chosen = trie.order[pack.sequences]
        positions, wanted, owners = sequences.targets_of(chosen)
        places = _places(positions - 1, pack.leaf[owners], start, first, pack.parent)
        yield Batch(chosen, ids, Segments(start, stop, pack.parent), places, wanted, owners)


def _places(
    positions: np.ndarray, leaf: np.ndarray, start: np.ndarray, first: np.ndarray, parent: np.ndarray
) -> np.ndarray:
    """Where each position of the path that ends in segment `leaf` stands in the pack."""
    segment = leaf.copy()
    while (above := positions < start[segment]).any():
        segment[above] = parent[segment[above]]
    return np.asarray(first[segment] + positions - start[segment])


@dataclass(frozen=True)
class RotationChange:
    """What a model whose rotations depend on the longest sequence of a batch does: of sequences of more than `above` tokens all
    positions are rotated otherwise, by other angles for each length where `each`."""

    above: int
    each: bool


def padded_batches(sequences: Sequences, batch_tokens: int, changes: Sequence[RotationChange] = ()) -> Iterator[Batch]:
    """Batches of sequences of similar length, padded on the right: no position that counts ever sees padding. With `changes`,
    sequences of one batch have the rotations that each of them would have alone."""
    whole = np.diff(sequences.bounds)
    lengths = whole - 1
    for rows in length_batches(lengths, batch_tokens, [_rotated_alike(whole, change) for change in changes]):
        # The last token is not needed, but where it counts for the rotations there is a place for it.
        width = int(lengths[rows].max()) + bool(changes)
        ids = np.zeros((len(rows), width), dtype=np.int64)  # any id pads: it stands after all that counts
        inside = np.arange(width) < lengths[rows][:, None]
        ids[inside] = sequences.flat[runs(sequences.bounds[rows], lengths[rows])]
        positions, wanted, owners = sequences.targets_of(rows)
        padding = ids.size - int(lengths[rows].sum())
        yield Batch(rows, ids, None, owners * width + positions - 1, wanted, owners, padding)


def _rotated_alike(lengths: np.ndarray, change: RotationChange) -> np.ndarray:
    """Int64 [N]: sequences with equal numbers have the same rotations."""
    return np.where(lengths > change.above, lengths if change.each else change.above + 1, 0)


def length_batches(lengths: np.ndarray, batch_tokens: int, alike: Sequence[np.ndarray] = ()) -> list[np.ndarray]:
    """Split sequence indices into batches of similar length, of which each has equal numbers in every array [N] of `alike`;
    these grow with the lengths.

    `lengths`: int array [N], tokens per sequence. A batch of n sequences whose longest has t tokens costs n * t, padding
    included, and that is at most `batch_tokens`, but for a single sequence that is longer by itself. Longest first, so that
    memory runs out at once if it does. Ties keep the order of the input: the result depends on `lengths` alone.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        batch = order[start : start + size]
        for numbers in alike:
            batch = batch[numbers[batch] == numbers[batch[0]]]
        batches.append(batch)
        start += len(batch)
    return batches
