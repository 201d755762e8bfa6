"""What a process was busy with when it ended without a word, so that the next one does not do just the same for ever.

Ray starts an actor again and gives it the same block as often as its process dies; only the storage remembers. A mark is
written before something is tried and removed after, so the marks that are left count the deaths.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.storage import files, urls

FOLDER = "attempts"


class Attempts:
    """Marks of one thing that a process may die of, such as a block of rows, in a run's work folder."""

    def __init__(self, work: str, name: str):
        self._folder = urls.join(work, FOLDER, name)

    def deaths(self, part: str = "all") -> int:
        """How many processes ended while they tried this part."""
        names = (urls.name_of(path) for path, _ in files.list_files(self._folder))
        return sum(name.startswith(f"{part}.") for name in names)

    def counts(self) -> Counter[str]:
        """The deaths of each part; those of `part.step` count for `part`."""
        return Counter(urls.name_of(path).partition(".")[0] for path, _ in files.list_files(self._folder))

    @contextmanager
    def trying(self, part: str = "all") -> Iterator[None]:
        """Mark a part while the context lasts; an exception is no death."""
        mark = urls.join(self._folder, f"{part}.{uuid.uuid4().hex}")
        files.write(mark, b"")
        try:
            yield
        finally:
            files.delete(mark)


def pieces(start: int, stop: int, deaths: Counter[str], whole: int, alone: int) -> Iterator[tuple[int, int, bool]]:
    """The stretches in which to try what stands from `start` to `stop`, by the deaths of parts that are named
    `<start>-<stop>`: all of it until it has ended `whole` processes, then halves, and halves of these, down to one, which is
    not to be tried again (False) when it has ended `alone` processes by itself."""
    died = deaths[f"{start}-{stop}"]
    if stop - start == 1:
        yield start, stop, died < max(whole, alone)
    elif died < whole:
        yield start, stop, True
    else:
        middle = (start + stop) // 2
        yield from pieces(start, middle, deaths, 1, alone)
        yield from pieces(middle, stop, deaths, 1, alone)


def this_actor() -> str:
    """A name that an actor keeps when its process is started again; without an actor, that of the process."""
    return str(ray.get_runtime_context().get_actor_id() or f"{platform.node()}-{os.getpid()}")


class GivenUp(RuntimeError):
    """Something that ends its process every time and cannot be done without."""


@contextmanager
def at_most(work: str, name: str, what: str, times: int = 3) -> Iterator[None]:
    """Try something that no row can be blamed for; raises GivenUp once it has ended `times` processes."""
    attempts = Attempts(work, name)
    if attempts.deaths() >= times:
        raise GivenUp(f"{what} ended its process {times} times; is there too little memory?")
    with attempts.trying():
        yield
