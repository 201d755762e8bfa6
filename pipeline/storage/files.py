"""Files of an output, on a disk or in an object store, named by absolute path or URL. A file is written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs

from pipeline.storage.urls import is_url, open_filesystem
from pipeline.storage.whole_file import open_whole

DIGEST_BYTES = 16


class TooLarge(OSError):
    """A file with more bytes than what it is taken for ever has."""


def digest_of(data: bytes | memoryview) -> str:
    """128-bit BLAKE2b in hex, by which a file's content is checked."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def read(uri: str, *, at_most: int | None = None) -> bytes:
    """A file's content; raises FileNotFoundError, OSError; TooLarge where there are more than `at_most` bytes of it."""
    with open_whole(uri) as file:
        if at_most is not None and file.size() > at_most:
            raise TooLarge(f"it has {file.size():,} bytes, and at most {at_most:,} are accepted")
        return bytes(file.read())


def write(uri: str, data: bytes | pa.Buffer) -> None:
    """Write a file so that nobody ever sees a part of it, even if this machine is switched off meanwhile; raises OSError.

    On a disk that is another name first, then a rename; an object store shows an object when its upload is complete.
    """
    if is_url(uri):
        filesystem, inner = open_filesystem(uri)
        with filesystem.open_output_stream(inner, compression=None) as stream:
            stream.write(data)
        return
    target = Path(uri)
    _make_folder(target.parent)
    draft = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _make_folder(folder: Path) -> None:
    """Make a folder with all above it, in a way that outlives this machine being switched off."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(missing):
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    """Make names of a folder durable; some file systems cannot, and then there is nothing more to do."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def version_of(uri: str) -> str:
    """What changes when a file is written again: its size and times, as far as they are known; raises FileNotFoundError."""
    if not is_url(uri):
        state = Path(uri).stat()
        return f"{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}"
    filesystem, inner = open_filesystem(uri)
    info = filesystem.get_file_info(inner)
    if info.type == pafs.FileType.NotFound:
        raise FileNotFoundError(uri)
    return version_in(info)


def version_in(info: pafs.FileInfo) -> str:
    """As `version_of`, of an object that was listed."""
    return f"{info.size}-{info.mtime_ns}"


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    filesystem, inner = open_filesystem(uri)
    return bool(filesystem.get_file_info(inner).type != pafs.FileType.NotFound)


def list_files(folder: str, *, deep: bool = False) -> list[tuple[str, int]]:
    """(URI, bytes) of the files in a folder, sorted by name; drafts of unfinished writes are none. A folder that is not there
    has no files."""
    inner = open_filesystem(folder)[1].rstrip("/")
    return sorted(
        (folder.rstrip("/") + entry.path[len(inner) :], entry.size)
        for entry in _entries(folder, deep)
        if entry.type == pafs.FileType.File and not entry.base_name.startswith(".")
    )


def list_folders(folder: str) -> list[str]:
    """Names of the folders in a folder, sorted."""
    entries = _entries(folder, deep=False)
    return sorted(entry.base_name for entry in entries if entry.type == pafs.FileType.Directory)


def _entries(folder: str, deep: bool) -> list[pafs.FileInfo]:
    filesystem, inner = open_filesystem(folder)
    entries: list[pafs.FileInfo] = filesystem.get_file_info(
        pafs.FileSelector(inner, allow_not_found=True, recursive=deep)
    )
    return entries


def delete(uri: str) -> None:
    """Remove a file; one that is not there is gone already."""
    filesystem, inner = open_filesystem(uri)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_file(inner)


def delete_folder(uri: str) -> None:
    """Remove a folder with all that is in it; what cannot be removed stays."""
    if not is_url(uri):
        shutil.rmtree(uri, ignore_errors=True)
        return
    filesystem, inner = open_filesystem(uri)
    for path, _ in list_files(uri, deep=True):
        delete(path)
    with contextlib.suppress(FileNotFoundError):
        filesystem.delete_dir(inner)


def delete_drafts(folder: str) -> None:
    """Remove what writes to a disk that were cut off have left in a folder and below."""
    if not is_url(folder):
        for draft in Path(folder).rglob(".*"):
            if draft.is_file():
                draft.unlink(missing_ok=True)


def delete_empty_below(folder: str) -> None:
    """Remove the folders of a disk below this one in which nothing is left."""
    if not is_url(folder):
        for inner, _, _ in os.walk(folder, topdown=False):
            if inner != folder:
                delete_empty(inner)


def delete_empty(folder: str) -> None:
    """Remove a folder of a disk if nothing is in it; object stores have no empty folders."""
    if not is_url(folder):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()


def move(source: str, target: str) -> None:
    """Give a file another name: a rename on a disk; a copy, then a removal in an object store."""
    if not is_url(source):
        _make_folder(Path(target).parent)
        Path(source).replace(target)
        _sync_folder(Path(target).parent)
        return
    filesystem, inner = open_filesystem(source)
    filesystem.move(inner, open_filesystem(target)[1])
