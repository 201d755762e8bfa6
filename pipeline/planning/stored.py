"""What the likelihood store of an output has for a scorer, as far as a plan reads it; nothing is changed there."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.storage import computed
from pipeline.storage.parts import DamagedPart

READ_BYTES = 64 << 20  # of parts; of a larger store some parts stand for all


@dataclass(frozen=True)
class StoredPairs:
    """Pairs that were read, by digest; how many of them each group has; the `share` of the store that was read; the pairs of
    all parts by their names."""

    digests: set[bytes] = field(default_factory=set)
    groups: Counter[bytes] = field(default_factory=Counter)
    share: float = 1.0
    pairs: int = 0


def stored_pairs(output: str, fingerprint: str, seed: int, most: int = READ_BYTES) -> StoredPairs:
    """What the store of an output has for a scorer: all of it up to `most` bytes of parts, else parts drawn by the seed."""
    parts = computed.parts(computed.scorer_folder(output, fingerprint))
    size = sum(size for _, size in parts)
    order = random.Random(seed).sample(sorted(parts), len(parts)) if size > most else parts
    digests: set[bytes] = set()
    groups: Counter[bytes] = Counter()
    read = 0
    for path, part in order:
        if read and read + part > most:
            continue
        read += part
        try:
            table = computed.read(path)
        except (DamagedPart, computed.OtherVersion, OSError, pa.ArrowException):
            continue  # its pairs will be computed again
        pairs = table["pair"].to_pylist()
        new = {
            pair: group for pair, group in zip(pairs, table["group"].to_pylist(), strict=True) if pair not in digests
        }
        digests.update(new)
        groups.update(new.values())
    return StoredPairs(digests, groups, read / size if size else 1.0, computed.pairs_of(path for path, _ in parts))
