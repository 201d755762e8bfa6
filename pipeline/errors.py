"""The two ways in which a command ends badly; both are shown as words, without a traceback."""

from __future__ import annotations


class BadRequest(Exception):
    """The request is wrong: found before any work starts. Exit status 2."""


class RunFailed(Exception):
    """Work had begun and cannot end well: `stage` and cause. Exit status 1."""

    def __init__(self, stage: str, cause: str):
        super().__init__(f"stage {stage}: {cause}")
        self.stage, self.cause = stage, cause


class DamagedInput(RunFailed):
    """A part that an earlier run or stage has written is not what was written; `cause` names it."""
