"""Names and shapes of the tensors of safetensors files, from headers and sizes of files alone: no weight is read.

A file is 8 bytes with the length of its header, the header in JSON, and the tensors
(https://huggingface.co/docs/safetensors/index#format). Nothing of it is trusted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Shapes = dict[str, tuple[int, ...]]  # by the tensor's name

MOST_BYTES = (
    25_000_000  # of a header or an index, as the hub's client takes it; those of the largest models have a fifth
)
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


def read_shapes(path: Path) -> Shapes:
    """The tensors of a file; raises OSError where it is none, or where it has not the bytes that its header promises."""
    size = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > MOST_BYTES:
            hint = ": it is a pointer of Git LFS, fetch the file with git lfs pull" if first == b"version " else ""
            raise OSError(f"{path.name} is no safetensors file{hint}")
        if 8 + length > size:
            raise OSError(f"{path.name} is cut off: it has {size:,} bytes, and its header alone {8 + length:,}")
        header = file.read(length)
    try:
        shapes, end = _tensors(json.loads(header))
    except _MALFORMED as error:
        raise OSError(f"{path.name} is no safetensors file: its header is not in order") from error
    if size != 8 + length + end:
        what = "is cut off" if size < 8 + length + end else "is damaged"
        raise OSError(f"{path.name} {what}: it has {size:,} bytes, and {8 + length + end:,} by its header")
    return shapes


def _tensors(header: dict[str, Any]) -> tuple[Shapes, int]:
    """Shapes by name, and where the last tensor ends."""
    shapes: Shapes = {}
    last = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        shape, (begin, end) = tensor["shape"], tensor["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
            raise ValueError(name)
        shapes[name], last = tuple(shape), max(last, end)
    return shapes, last


def read_index(path: Path) -> list[str]:
    """The names of the files that an index lists; raises OSError where it is none."""
    if path.stat().st_size > MOST_BYTES:
        raise OSError(f"{path.name} has over {MOST_BYTES:,} bytes: it is no index of safetensors files")
    try:
        shards = set(json.loads(path.read_bytes())["weight_map"].values())
        if not shards or any(Path(shard).name != shard for shard in shards):
            raise ValueError("a name of a file")
    except _MALFORMED as error:
        raise OSError(f"{path.name} is no index of safetensors files: it names none in weight_map") from error
    return sorted(shards)
