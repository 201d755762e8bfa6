"""What a command that ended early says: what has failed, what has come of it, and what to do now."""

from __future__ import annotations

import argparse

from pipeline.errors import DamagedInput, RunFailed
from pipeline.interruption import Interruption

_RUNS = ("run", "refresh", "select", "demo")
_AFTER_FAILURE = {
    "report": "nothing was changed. Name another run, or run again: pairs that are stored are not computed again.",
    "use": "the output's pointer is as it was, or names the run that was asked for; `tss runs` says which.",
    "plan": "a run would fail as well. Plan again once the cause is gone.",
    "store": "nothing that was stored is lost. Run the same command again once the cause is gone.",
    "explain": "nothing was changed. Name another run, or run again: pairs that are stored are not computed again.",
    "compare": "nothing was changed. Name another run, or run again: pairs that are stored are not computed again.",
    "export": "nothing was written. Run the same command again once the cause is gone, or name another run.",
    "push": "the run is not there as a revision yet. Run the same command again once the cause is gone.",
}
AFTER_INTERRUPT = {
    "init": "nothing was written but what is printed.",
    "runs": "nothing was written.",
    "use": "the output's pointer is as it was, or names the run that was asked for; `tss runs` says which.",
    "plan": "nothing was written.",
    "explain": "nothing was written.",
    "compare": "nothing was written.",
    "export": "nothing was written.",
    "push": "the run may be there or not. The same command says so, or sends what is missing.",
}


def words_of(error: Exception, arguments: argparse.Namespace) -> str:
    """What has failed, and what to do now."""
    from operators.error_text import first_line
    from pipeline import failures

    what = "the run" if arguments.name in _RUNS else f"`tss {arguments.name}`"
    if isinstance(error, RunFailed):
        return f"{what} failed in {error}\ntss: {_advice(arguments, error)}"
    if isinstance(error, PermissionError):
        return (
            f"{what} failed: {first_line(error)}\n"
            "tss: this user may not do that there. Give it rights to read and write all of the output (chown, chmod), and run "
            "the same command again, or name another output."
        )
    if failures.is_of_storage(error):
        return (
            f"{what} failed: {first_line(error)}\n"
            "tss: is the disk full, or the object store out of reach? Run the same command again once the cause is gone."
        )
    return (
        f"an unexpected error, {type(error).__name__}: {first_line(error)}\n"
        "tss: this is a fault of tss, or of a library that it uses; please report it with the traceback."
    )


def after_interrupt(arguments: argparse.Namespace) -> str:
    """What has come of a command that was interrupted."""
    if arguments.name in AFTER_INTERRUPT:
        return AFTER_INTERRUPT[arguments.name]
    if Interruption.published:
        return f"{Interruption.published} was published before; what is left to tidy up waits for the next run."
    again = f"The same command{_without_fresh(arguments)} uses what is stored"
    if Interruption.stored is None or arguments.name == "select":
        return f"nothing was published. {again}."
    waiting = "" if Interruption.stored else ", as none was finished and written (store.write_every) by then"
    return f"nothing was published. {again}: {Interruption.stored:,} pairs of this run{waiting}."


def _without_fresh(arguments: argparse.Namespace) -> str:
    """With which words a command goes on with what it has begun."""
    return " without --fresh" if arguments.fresh else ""


def _advice(arguments: argparse.Namespace, failure: RunFailed) -> str:
    """What to do now."""
    if arguments.name in _AFTER_FAILURE:
        return _AFTER_FAILURE[arguments.name]
    if isinstance(failure, DamagedInput) and arguments.name == "select":
        return (
            "nothing was published. Name another run of runs/, or make one with `tss run`: "
            "pairs that are stored are not computed again."
        )
    return (
        "nothing was published; an earlier run, if there is one, stays current. Run the same command"
        f"{_without_fresh(arguments)} again once the cause is gone: pairs that were computed are not computed again."
    )
