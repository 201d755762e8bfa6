"""Whether a worker runs the code of the driver that sends it work.

Ray looks for a function by its name where the worker finds it: another release on one machine of a cluster, or a folder of the
same name, would compute something else without a word.
"""

from __future__ import annotations

import functools
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]


class OtherCode(RuntimeError):
    """A worker that has another release of this package than the driver."""


@lru_cache(maxsize=1)
def digest() -> str:
    """128-bit hex digest of the sources of this package, as they are on this machine."""
    found = hashlib.blake2b(digest_size=16)
    for folder in ("operators", "pipeline"):
        for path in sorted((_ROOT / folder).rglob("*.py")):
            found.update(path.relative_to(_ROOT).as_posix().encode() + b"\0")
            found.update(hashlib.blake2b(path.read_bytes(), digest_size=16).digest())
    return found.hexdigest()


def require(driver: tuple[str, str]) -> None:
    """Raise OtherCode where the driver's digest and folder are not this worker's."""
    theirs, folder = driver
    if theirs != digest():
        raise OtherCode(
            f"a worker has other code in {_ROOT} than the driver in {folder}; accepted: one release on all machines, "
            "or `tss submit`, which brings its own"
        )


def guarded(function: Any) -> Any:
    """The function, or the class of an actor, that refuses to start where the code is not that of this process.

    It keeps its name, by which Ray's dashboard shows it, and is sent by value, with a check that any release finds here.
    """
    driver = (digest(), str(_ROOT))
    if isinstance(function, type):
        return _guarded_class(function, driver)

    @functools.wraps(function)
    def checked(*arguments: Any, **settings: Any) -> Any:
        require(driver)
        return function(*arguments, **settings)

    return checked


def _guarded_class(actor: type, driver: tuple[str, str]) -> type:
    def start(self: Any, **settings: Any) -> None:
        require(driver)
        actor.__init__(self, **settings)  # type: ignore[misc]

    return type(actor.__name__, (actor,), {"__init__": start, "__module__": actor.__module__, "__doc__": actor.__doc__})
