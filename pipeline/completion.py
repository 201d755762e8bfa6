"""Completion of `tss` in a shell: verbs, flags, choices, and files where a file is meant."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import shtab

_FILES = {"config": shtab.FILE, "html": shtab.FILE} | dict.fromkeys(("run", "other", "output"), shtab.DIRECTORY)


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """A script for a shell of `flags.SHELLS`."""
    for action in _actions(parser):
        if action.dest in _FILES and action.choices is None:
            action.complete = _FILES[action.dest]  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _actions(verb)
