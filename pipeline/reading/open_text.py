"""A text file as bytes of UTF-8: unpacked and recoded as its first bytes ask, or refused by the name of what it is instead."""

from __future__ import annotations

import codecs
import io
import lzma
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import pyarrow as pa

from pipeline.reading.chunks import Chunk
from pipeline.reading.first_bytes import HEAD_BYTES, encoding_of, packing_of, refuse_stand_in
from pipeline.storage.whole_file import open_whole

BUFFER_BYTES = 1 << 20


def open_text(chunk: Chunk) -> io.BufferedReader:
    """A text file, from its beginning; closes with what is returned.

    Raises OSError where it is not what its name says, and while it is read, where it breaks off.
    """
    file = open_whole(chunk.uri, chunk.size)
    try:
        return _opened(chunk, file)
    except BaseException:
        file.close()
        raise


def _opened(chunk: Chunk, file: pa.NativeFile) -> io.BufferedReader:
    head = bytes(file.read(HEAD_BYTES))
    file.seek(0)
    packing = packing_of(head)
    if packing is None:
        refuse_stand_in(head)
        if chunk.compression is not None:
            raise OSError(
                f"its name says {chunk.compression}, and it does not begin as {chunk.compression} does; is it damaged or not "
                f"packed? accepted: {chunk.compression}, or a name without the suffix"
            )
        text = _buffered(file)
    else:
        text = _buffered(
            _Made(_unpacked_xz(file), file) if packing == "xz" else pa.CompressedInputStream(file, packing)
        )
        head = text.peek(HEAD_BYTES)[:HEAD_BYTES]
        refuse_stand_in(head)
    encoding = encoding_of(head)
    return text if encoding is None else _buffered(_Made(_recoded(text, encoding), text))


def _buffered(raw: Any) -> io.BufferedReader:
    return io.BufferedReader(cast(io.RawIOBase, raw), BUFFER_BYTES)


def not_utf8(data: bytes, at: int) -> str:
    """What is wrong with a line or field whose byte `at` is not UTF-8, with the encoding that it may be in."""
    guess = ""
    for name, codec in (("Latin-1", "latin-1"), ("Windows-1252", "cp1252")):
        text = data.decode(codec, "replace")
        if not re.search("[\x80-\x9f�]", text):
            guess = f"; as {name} it is {text[at]!r}: is the file {name}?"
            break
    return f"byte {at} is 0x{data[at]:02X}, which is not UTF-8{guess}; accepted: UTF-8"


class _Made(io.RawIOBase):
    """A file of the bytes that pieces hold, which are made from another file as they are asked for."""

    def __init__(self, pieces: Iterator[bytes], source: BinaryIO):
        self._pieces, self._source, self._ready = pieces, source, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._ready = memoryview(piece)
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def close(self) -> None:
        self._source.close()
        super().close()


def _recoded(file: BinaryIO, encoding: str) -> Iterator[bytes]:
    """Text that begins with the mark of its encoding, as UTF-8."""
    decoder = codecs.getincrementaldecoder(encoding)()
    data = b"begin"
    try:
        while data:
            data = file.read(BUFFER_BYTES // 8)
            yield decoder.decode(data, final=not data).encode("utf-8")
    except UnicodeError as error:
        raise OSError(f"its {encoding} breaks off or is damaged: {error}") from error


def _unpacked_xz(file: BinaryIO) -> Iterator[bytes]:
    """What an .xz file holds. Arrow cannot unpack it, and Python's own reader ends where what follows a stream is damaged."""
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    packed = file.read(BUFFER_BYTES)
    while packed or not stream.needs_input:
        try:
            yield stream.decompress(packed, BUFFER_BYTES)
        except lzma.LZMAError as error:
            raise OSError(f"xz decompress failed: {error}") from error
        packed = b""
        if stream.eof:
            packed = stream.unused_data or file.read(BUFFER_BYTES)
            if not packed:
                return
            stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
        elif stream.needs_input:
            packed = file.read(BUFFER_BYTES)
    raise OSError("Truncated compressed stream")
