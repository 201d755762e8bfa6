"""Arrays of numbers as files: written with a digest, mapped into memory when they are read."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np

from pipeline.storage.files import DIGEST_BYTES, digest_of, write
from pipeline.storage.urls import is_url, open_filesystem


def save_array(uri: str, array: np.ndarray) -> None:
    """Write a NumPy array, and after it a digest of the file, which readers of the format pass over."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    buffer.write(bytes.fromhex(digest_of(buffer.getbuffer())))
    write(uri, buffer.getbuffer())


def load_array(uri: str) -> np.ndarray:
    """A NumPy array, mapped, so that the processes of a machine share it; from an object store, each has a copy on its disk
    which goes when the process ends. Raises OSError where it is not what was written."""
    if not is_url(uri):
        return _map_array(uri, uri)
    filesystem, inner = open_filesystem(uri)
    with tempfile.NamedTemporaryFile() as local, filesystem.open_input_stream(inner) as stream:
        while data := stream.read(1 << 24):
            local.write(data)
        local.flush()
        return _map_array(local.name, uri)


def _map_array(path: str, uri: str) -> np.ndarray:
    # Without a copy in memory; no file that is empty can be mapped.
    content = np.memmap(path, dtype=np.uint8, mode="r") if Path(path).stat().st_size else np.zeros(0, dtype=np.uint8)
    if digest_of(content[:-DIGEST_BYTES].data) != content[-DIGEST_BYTES:].tobytes().hex():
        raise OSError(f"{uri}: is damaged: {len(content):,} bytes, whose digest is not the one that was written")
    return np.load(path, mmap_mode="r", allow_pickle=False)
