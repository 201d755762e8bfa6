"""Which sequences share a forward pass: sorted by length, so that little is padding, at most `batch_tokens` a batch."""

from __future__ import annotations

import numpy as np


def length_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Split sequence indices into batches of similar length.

    `lengths`: int array [N], tokens per sequence. A batch of n sequences whose longest has t tokens costs n * t, padding
    included, and that is at most `batch_tokens`, but for a single sequence that is longer by itself. Longest first, so that
    memory runs out at once if it does. Ties keep the order of the input: the result depends on `lengths` alone.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches
