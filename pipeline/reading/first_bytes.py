"""What a file is, told by its first bytes, whatever its name."""

from __future__ import annotations

import os
import re
from typing import BinaryIO

HEAD_BYTES = 4096
UTF8_MARK = b"\xef\xbb\xbf"
# What a packed file begins with. One of zstd may begin with a frame that is to be skipped.
_PACKED = {
    "gzip": re.compile(rb"\x1f\x8b"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "bz2": re.compile(rb"BZh[1-9](\x31\x41\x59\x26\x53\x59|\x17\x72\x45\x38\x50\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
}
# Byte order marks; that of UTF-32 begins like one of UTF-16.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_TEXT = "accepted: JSON lines, JSON or CSV in UTF-8"
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
# What stands in place of files of rows, and what to do about it.
_STAND_INS = (
    (
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "a Git LFS pointer, which names a file and is not it; accepted: the file itself, which `git lfs pull` brings",
    ),
    (
        re.compile(rb"\s*(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL),
        f"an HTML page: did a download give a page for people? {_TEXT}",
    ),
    (
        re.compile(rb"\s*<\?xml\b", re.IGNORECASE),
        f"an XML document: did a download give a message of the server? {_TEXT}",
    ),
    (
        re.compile(rb"ARROW1|\xff\xff\xff\xff..\0\0", re.DOTALL),
        "an Arrow file; accepted under a name that ends in .arrow",
    ),
    (re.compile(rb"PAR1"), "a Parquet file; accepted under a name that ends in .parquet"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive; accepted: the files in it, or .gz, .zst, .bz2 and .xz of one file"),
)


def require_stream_end(file: BinaryIO) -> None:
    """Raise OSError where an Arrow stream does not end with the mark of its end: what is there can be read without."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(_STREAM_END)))
    if file.read() != _STREAM_END:
        raise OSError("it breaks off: the Arrow stream has no end; is the file whole?")


def packing_of(head: bytes) -> str | None:
    """How a file is packed, told by its first bytes."""
    return next((name for name, begins in _PACKED.items() if begins.match(head)), None)


def is_plain(head: bytes) -> bool:
    """Whether a file's bytes are those of its lines: it is not packed, and not in UTF-16 or UTF-32."""
    return packing_of(head) is None and not head.startswith(tuple(_MARKS))


def refuse_stand_in(head: bytes, magic: bytes | tuple[bytes, ...] = ()) -> None:
    """Raise OSError where the first bytes are of something that stands in place of a file of rows; `magic` is what the kind of
    file that is wanted begins with, where it has such a thing."""
    what = next((says for begins, says in _STAND_INS if begins.match(head)), None)
    if what is not None and not head.startswith(magic):
        raise OSError(f"it is {what}")


def encoding_of(head: bytes) -> str | None:
    """UTF-16 or UTF-32 where a byte order mark says so, None for UTF-8; raises OSError for UTF-16 without a mark."""
    marked = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
    if marked is None and len(head) >= 4 and [byte == 0 for byte in head[:4]] in ([True, False] * 2, [False, True] * 2):
        raise OSError("it is UTF-16 without a byte order mark; accepted: UTF-8, or UTF-16 with the mark")
    return marked
