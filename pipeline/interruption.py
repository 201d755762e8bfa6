"""Ctrl-C, a scheduler's SIGTERM, a terminal that goes away: a command ends in order, says what came of it, exits with 130."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

EXIT_STATUS = 130
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 3  # signals until a command that is ending in order ends at once


class Interruption:
    """What the command of this process was told, and what it has done by then."""

    signals = 0
    stored: int | None = None  # pairs of the run that this command works on, where it has come so far
    published = ""  # the run that this command has made the current one; what comes after is tidying up

    @classmethod
    def require_going(cls) -> None:
        """Raise KeyboardInterrupt where the command was told to stop: one that arrives within a callback of a library is
        swallowed there, and the next sign of progress ends the command."""
        if cls.signals:
            raise KeyboardInterrupt


def obey_signals() -> None:
    """From now on a signal that asks for an end raises KeyboardInterrupt, once: whoever has no patience must not break what
    tidies up."""
    Interruption.signals, Interruption.published, Interruption.stored = 0, "", None
    for ending in _ENDING:
        if signal.getsignal(ending) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(ending, _stop)


def _stop(number: int, frame: Any) -> None:
    Interruption.signals += 1
    if Interruption.signals == 1:
        raise KeyboardInterrupt
    if Interruption.signals >= _PATIENCE:
        os._exit(EXIT_STATUS)


def keep_handlers() -> dict[int, Any]:
    """The handlers of the signals that end a command, for `restore_handlers`."""
    return {ending: signal.getsignal(ending) for ending in _ENDING}


def restore_handlers(handlers: dict[int, Any]) -> None:
    """Give signals back to their handlers: Ray takes SIGTERM while it starts, and would end the process without a word."""
    for ending, handler in handlers.items():
        if handler is not None:
            signal.signal(ending, handler)


def say(text: str, *, error: bool = False) -> bool:
    """Print text for people, as far as somebody reads it; whether it was printed.

    A stream that is full or closed, or that knows few characters, changes nothing of what a command has done."""
    stream = sys.stderr if error else sys.stdout
    if stream is None:  # closed before Python began
        return False
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except (OSError, ValueError):
        _silence(stream)
        return False
    return True


def _silence(stream: Any) -> None:
    """Let what a stream still holds go nowhere: Python would try again at its end, and exit with a status of its own."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    except (OSError, ValueError):
        return  # it has no file
