"""What a process was busy with when it ended without a word, so that the next one does not do just the same for ever.

Ray starts an actor again and gives it the same block as often as its process dies; only the storage remembers. A mark is
written before something is tried and removed after, so the marks that are left count the deaths.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline import storage

FOLDER = "attempts"


class Attempts:
    """Marks of one thing that a process may die of, such as a block of rows, in a run's work folder."""

    def __init__(self, work: str, name: str):
        self._folder = storage.join(work, FOLDER, name)

    def deaths(self, part: str = "all") -> int:
        """How many processes ended while they tried this part."""
        names = (storage.name_of(path) for path, _ in storage.list_files(self._folder))
        return sum(name.startswith(f"{part}.") for name in names)

    @contextmanager
    def trying(self, part: str = "all") -> Iterator[None]:
        """Mark a part while the context lasts; an exception is no death."""
        mark = storage.join(self._folder, f"{part}.{uuid.uuid4().hex}")
        storage.write(mark, b"")
        try:
            yield
        finally:
            storage.delete(mark)


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
