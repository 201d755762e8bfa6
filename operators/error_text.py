"""What an exception says, as text for a message."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
