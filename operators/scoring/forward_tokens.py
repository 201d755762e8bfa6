"""How many tokens go through a model for given sequences, counted without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from operators.scoring.batching import Sequences, length_batches
from operators.scoring.trie import build_trie, packs, runs


def forward_tokens(sequences: Sequences, batch_tokens: Sequence[int], *, packed: bool) -> list[int]:
    """For each of several sizes of batches, the tokens of all batches that `batching.packed_batches` or
    `batching.padded_batches` makes, with padding.

    The last token of a sequence predicts nothing that is asked for, and is not counted.
    """
    if not len(sequences.targets):
        return [0 for _ in batch_tokens]
    lengths = np.diff(sequences.bounds) - 1
    if not packed:
        return [
            sum(len(rows) * int(lengths[rows].max()) for rows in length_batches(lengths, size)) for size in batch_tokens
        ]
    trie = build_trie(sequences.flat[runs(sequences.bounds[:-1], lengths)], np.r_[0, np.cumsum(lengths)])
    sizes = trie.stop - trie.start
    return [sum(int(sizes[pack.segments].sum()) for pack in packs(trie, size)) for size in batch_tokens]
