"""The ways in which a command ends badly, and text for a terminal."""

from __future__ import annotations

import difflib
from itertools import islice
from pathlib import Path

_MOST_NAMES = 10_000  # of a folder that are compared


class BadRequest(Exception):
    """The request is wrong: found before any work starts. Exit status 2."""


class RunFailed(Exception):
    """Work had begun and cannot end well: `stage` and cause. Exit status 1."""

    def __init__(self, stage: str, cause: str):
        super().__init__(f"stage {stage}: {cause}")
        self.stage, self.cause = stage, cause


class DamagedInput(RunFailed):
    """A part that an earlier run or stage has written is not what was written; `cause` names it."""


def near_name(path: str) -> str:
    """For the message of a file that is missing: the name in its folder that is nearest to its own, if one is near."""
    try:
        names = [each.name for each in islice(Path(path).expanduser().parent.iterdir(), _MOST_NAMES)]
    except (OSError, ValueError, RuntimeError):
        return ""
    close = difflib.get_close_matches(Path(path).name, names, n=1)
    return f" (did you mean {str(Path(path).with_name(close[0]))!r}?)" if close else ""


def printable(text: str) -> str:
    """The text with control characters, marks of direction and the like as escapes: names of files, keys and columns are a
    stranger's, and a terminal obeys them."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape", "backslashreplace").decode()
        for char in text
    )
