"""Whether a worker runs the code of the driver that sends it work.

Ray looks for a function by its name where the worker finds it: another release on one machine of a cluster, or a folder of the
same name, would compute something else without a word.
"""

from __future__ import annotations

import functools
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.storage import files

_ROOT = Path(__file__).resolve().parents[2]


class OtherCode(RuntimeError):
    """A worker that has another release of this package than the driver."""


@lru_cache(maxsize=1)
def digest() -> str:
    """128-bit hex digest of the sources of this package, as they are on this machine."""
    sources = sorted(path for folder in ("operators", "pipeline") for path in (_ROOT / folder).rglob("*.py"))
    lines = [f"{path.relative_to(_ROOT).as_posix()} {files.digest_of(path.read_bytes())}" for path in sources]
    return files.digest_of("\n".join(lines).encode())


def require(driver_digest: str, driver_root: str) -> None:
    """Raise OtherCode where this worker's sources are not the driver's; `driver_root` says where these are."""
    if driver_digest != digest():
        raise OtherCode(
            f"a worker has other code in {_ROOT} than the driver in {driver_root}; accepted: one release on all machines, "
            "or `tss submit`, which brings its own"
        )


def guarded(function: Any) -> Any:
    """The function, or the class of an actor, that refuses to start where the code is not that of this process.

    It keeps its name, by which Ray's dashboard shows it, and is sent by value, with a check that any release finds here.
    """
    driver = digest(), str(_ROOT)
    if isinstance(function, type):
        return _guarded_class(function, driver)

    @functools.wraps(function)
    def checked(*arguments: Any, **settings: Any) -> Any:
        require(*driver)
        return function(*arguments, **settings)

    return checked


def _guarded_class(actor: type, driver: tuple[str, str]) -> type:
    def start(self: Any, **settings: Any) -> None:
        require(*driver)
        actor.__init__(self, **settings)  # type: ignore[misc]

    return type(actor.__name__, (actor,), {"__init__": start, "__module__": actor.__module__, "__doc__": actor.__doc__})
