"""The file that says which run of an output is current. It only moves forward.

Every move counts its number up, the fence, and a move fails where another one came between the look at the pointer and the
write. The order makes this safe: look, then make sure that the lock is still held, then write on the condition that nothing
has changed. A process that was stopped for any length of time, or whose request hung, so comes too late by its own number.

Object stores check that condition. On a disk each number is a file that one process alone can create, in `.pointer/`; the
rename of the pointer follows. A process that is stopped between these two may put an older pointer over a newer one; it looks
once more when it goes on, and puts the newest back.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import RunFailed
from pipeline.storage import conditional, files, urls

POINTER, NUMBERS = "latest.json", ".pointer"
POINTER_BYTES = 1 << 16  # of a pointer that is one, and far more
_TRIES = 16
_AGAIN = "; let one command at a time write into this output, then `tss use` makes this run current"


def move_pointer(output: str, run: str, still_mine: Callable[[], None]) -> str | None:
    """Point to `run`, a path in the output. Returns why the move could only be checked after the write, None where the write
    itself was conditional. Raises RunFailed, OSError, and what `still_mine` raises where another process has taken over."""
    if not urls.is_url(output):
        _move_on_disk(output, run, still_mine)
        return None
    try:
        _move_in_store(urls.join(output, POINTER), run, still_mine)
        return None
    except conditional.NotConditional as reason:
        _move_checked(urls.join(output, POINTER), run, still_mine)
        return str(reason)


def _move_in_store(pointer: str, run: str, still_mine: Callable[[], None]) -> None:
    for _ in range(_TRIES):
        seen = conditional.look(pointer)
        still_mine()
        if conditional.replace_object(pointer, seen, _text(run, _fence_of(seen.data) + 1)):
            return
    raise RunFailed("publish", f"{pointer} was changed {_TRIES} times by others while it was written{_AGAIN}")


def _move_checked(pointer: str, run: str, still_mine: Callable[[], None]) -> None:
    """Without conditional writes: look after the write whether it stands, and whether it was still this process's to make."""
    still_mine()
    data = _text(run, _fence_of(_read(pointer)) + 1)
    files.write(pointer, data)
    still_mine()
    if _read(pointer) != data:
        raise RunFailed("publish", f"{pointer} was written by another process at the same time{_AGAIN}")


def _move_on_disk(output: str, run: str, still_mine: Callable[[], None]) -> None:
    pointer, folder = urls.join(output, POINTER), urls.join(output, NUMBERS)
    for _ in range(_TRIES):
        number = max(_fence_of(_read(pointer)), *_numbers(folder), 0) + 1
        still_mine()
        data = _text(run, number)
        if conditional.create_file(_numbered(folder, number), data):
            files.write(pointer, data)
            if not _put_newest_back(pointer, folder, number):
                return
    raise RunFailed("publish", f"{pointer} was changed {_TRIES} times by others while it was written{_AGAIN}")


def _put_newest_back(pointer: str, folder: str, mine: int) -> bool:
    """Whether there was a newer pointer than this process's, which stands again."""
    newest, standing = max(_numbers(folder), default=mine), mine
    while newest > standing:
        # Whoever made this number writes the pointer as well, or has done so before this process wrote over it.
        data = _read(_numbered(folder, newest))
        if data is None or not _fence_of(data):
            return True  # its process has not written it yet, or a newer one has removed it: both see to the pointer
        files.write(pointer, data)
        standing, newest = newest, max(_numbers(folder), default=newest)
    for number in _numbers(folder):
        if number < newest:
            files.delete(_numbered(folder, number))
    return standing > mine


def _numbers(folder: str) -> list[int]:
    if not Path(folder).is_dir():
        return []
    return [int(path.stem) for path in Path(folder).iterdir() if path.suffix == ".json" and path.stem.isdecimal()]


def _numbered(folder: str, number: int) -> str:
    return urls.join(folder, f"{number}.json")


def _text(run: str, fence: int) -> bytes:
    return (json.dumps({"run": run, "fence": fence}) + "\n").encode()


def _read(path: str) -> bytes | None:
    with contextlib.suppress(FileNotFoundError, files.TooLarge):
        return files.read(path, at_most=POINTER_BYTES)
    return None


def _fence_of(data: bytes | None) -> int:
    """The number of a pointer; that of a release before had none, and of one that is damaged nothing is known."""
    try:
        fence = json.loads(data or b"")["fence"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
    return fence if type(fence) is int and 0 < fence < 1 << 62 else 0
