"""Task specificity from Python: `from pipeline import load_config, run, open_run` (see `api.py`).

Names are looked up when they are asked for: importing this package imports nothing else, so that the command line can look for
modules that hide others first, and starts at once.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import Run, compare, load_config, open_run, refresh, run, select

__all__ = ["Run", "compare", "load_config", "open_run", "refresh", "run", "select"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from pipeline import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
