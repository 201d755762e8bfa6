"""Files that are read to their end, or not at all.

Arrow's reader of an object store takes a connection that breaks off for the end of the file: it returns less than was asked
for, or nothing, and no error. Rows would be lost without a word. So what it returns is counted against the object's size.
"""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa

from operators.error_text import first_line
from pipeline.storage.urls import is_url, open_filesystem

_TRIES = 4  # of a read that returns nothing before the end


class BrokenOff(OSError):
    """An object that could not be read to its end just now; nothing follows from that for what it holds."""


def open_whole(uri: str, size: int | None = None) -> pa.NativeFile:
    """A file to read from any place of; `size` in bytes, where it is known. Raises FileNotFoundError, OSError, and BrokenOff
    where a store ends before the file does."""
    filesystem, inner = open_filesystem(uri)
    opened = filesystem.open_input_file(inner)
    if size is not None and is_url(uri) and opened.size() != size:
        raise BrokenOff(f"{uri}: has {opened.size():,} bytes, and had {size:,} when it was listed")
    return pa.PythonFile(_Whole(opened, uri), mode="r") if is_url(uri) else opened


class _Whole(io.RawIOBase):
    """An object of a store as a Python file."""

    def __init__(self, opened: pa.NativeFile, uri: str):
        self._opened, self._uri, self._size, self._place = opened, uri, int(opened.size()), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, and fewer only at the end."""
        left = max(0, self._size - self._place)
        wanted = left if size is None or size < 0 else min(size, left)
        pieces: list[bytes] = []
        empty = 0
        while wanted:
            piece = self._read_at(wanted)
            pieces.append(piece)
            self._place += len(piece)
            wanted -= len(piece)
            empty = 0 if piece else empty + 1
            if empty == _TRIES:
                raise BrokenOff(f"{self._uri}: the connection broke off at byte {self._place:,} of {self._size:,}")
        return b"".join(pieces)

    def _read_at(self, wanted: int) -> bytes:
        try:
            return bytes(self._opened.read_at(wanted, self._place))
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise BrokenOff(f"{self._uri}: cannot be read at byte {self._place:,}: {first_line(error)}") from error

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._opened.close()
        super().close()
