"""Arrays of numbers as Arrow IPC files: written with a digest, mapped into memory when they are read."""

from __future__ import annotations

import json
import tempfile

import numpy as np
import pyarrow as pa

from pipeline.storage.files import digest_of, write
from pipeline.storage.urls import is_url
from pipeline.storage.whole_file import open_whole


def save_array(uri: str, array: np.ndarray) -> None:
    """Write an array of any shape as one column; its shape and a digest of its bytes stand in the schema."""
    flat = np.ascontiguousarray(array).reshape(-1)
    notes = {"shape": json.dumps(array.shape), "digest": _digest(flat, array.shape)}
    batch = pa.record_batch([pa.array(flat)], schema=pa.schema([("values", pa.from_numpy_dtype(flat.dtype))], notes))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    write(uri, sink.getvalue())


def load_array(uri: str) -> np.ndarray:
    """The array of a file, mapped, so that the processes of a machine share it; from an object store, each has a copy on its
    disk which goes when the process ends. Raises OSError where it is not what was written."""
    if not is_url(uri):
        return _map(uri, uri)
    with tempfile.NamedTemporaryFile() as local, open_whole(uri) as stream:
        while data := stream.read(1 << 24):
            local.write(data)
        local.flush()
        return _map(local.name, uri)


def _map(path: str, uri: str) -> np.ndarray:
    try:
        batch = pa.ipc.open_file(pa.memory_map(path)).read_all()
        notes = {key.decode(): value.decode() for key, value in (batch.schema.metadata or {}).items()}
        values = batch["values"]
        # One chunk, as it was written, stays where it is mapped; to combine chunks would copy it.
        flat = (values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()).to_numpy()
        array: np.ndarray = flat.reshape(json.loads(notes["shape"]))
        same = _digest(flat, array.shape) == notes["digest"]
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, LookupError, ValueError, TypeError) as error:
        raise OSError(f"{uri}: is damaged or cut off: {error}") from error
    if not same:
        raise OSError(f"{uri}: is damaged: {len(flat):,} numbers, whose digest is not the one that was written")
    return array


def _digest(flat: np.ndarray, shape: tuple[int, ...]) -> str:
    """Of the numbers, what they are, and how they stand."""
    return digest_of(f"{flat.dtype.str} {list(shape)} {digest_of(flat.view(np.uint8).data)}".encode())
