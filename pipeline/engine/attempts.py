"""What a process was busy with when it ended without a word, so that the next one does not do just the same for ever.

Ray starts an actor again and gives it the same block as often as its process dies; only the storage remembers. A mark is
written before something is tried and removed after, so the marks that are left count the deaths.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import ray

from operators.halving import halve
from pipeline.storage import files, urls

FOLDER = "attempts"
Result = TypeVar("Result")


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


class Died(RuntimeError):
    """Something that has ended its process too often to be tried again."""

    def __init__(self, times: int):
        super().__init__(f"process ended {times} times")
        self.times = times


def halve_by_deaths(
    stretch: range,
    deaths: Counter[str],
    attempt: Callable[[range, str], Result],
    alone: Callable[[int, Exception], Result],
    excuse: Callable[[Exception], None],
    *,
    tries: tuple[int, int],
) -> list[Result]:
    """As `halve`, of places of which some may end the process: a part that has done so too often is not attempted again, but
    halved like one that raises; `alone` is given Died then.

    `attempt` is given a part and the name, `<start>-<stop>`, under which it is to be marked, and `deaths` counts those marks.
    `tries` are the deaths that end the attempts at the whole stretch and at a single place; a part between them has one.
    """
    whole, single = tries

    def attempt_unless_dead(places: Sequence[int]) -> Result:
        part = range(places[0], places[-1] + 1)
        name = f"{part.start}-{part.stop}"
        limit = max(whole if part == stretch else 1, single if len(part) == 1 else 1)
        if deaths[name] >= limit:
            raise Died(deaths[name])
        return attempt(part, name)

    return halve(stretch, attempt_unless_dead, alone, lambda error: None if isinstance(error, Died) else excuse(error))


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
        raise GivenUp(
            f"{what} ended its process {times} times; is there too little memory? accepted: more of it, less other "
            "work on this machine, or a smaller model"
        )
    with attempts.trying():
        yield
