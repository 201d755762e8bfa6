"""What `init`, `run`, `plan`, `refresh` and `select` take beside `--set`: a configuration or data, and flags that are short
names for keys of the configuration."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from pipeline.examples import add_examples

MOST_OF_LABEL = 120  # characters
SHELLS = ("bash", "zsh", "tcsh")  # which `tss completion` writes a script for
KEYS = {
    "--output": ("output", "DIR", "where the run goes (output)"),
    "--model": ("scorer.model", "NAME", "hub name or folder of the scorer (scorer.model)"),
    "--template": ("scorer.template", "NAME", "alpaca, plain, chat, or a Jinja file (scorer.template)"),
    "--embedder": ("embedder.model", "NAME", "hub name, folder, or lexical (embedder.model)"),
    "--budget": ("select.budget", "BUDGET", "10%%, 20k (tokens), '500 rows' (select.budget)"),
}


class OfFlag(str):
    """An override in the form of `--set`, that was given by a flag of its own."""

    flag = "--set"


def override_of(flag: str, value: str) -> OfFlag:
    """What `--set` would be given to do what a flag with this value does."""
    text = OfFlag(f"{KEYS[flag][0]}={json.dumps(value, ensure_ascii=False)}")
    text.flag = flag
    return text


def flag_of(text: str) -> str:
    """The flag that an override was given by."""
    return text.flag if isinstance(text, OfFlag) else "--set"


def add_init(verbs: Any) -> None:
    """`tss init`, the first of the verbs."""
    verbs.add_parser("init", help="look at data, say what it is, and write a configuration of it to standard output")


def add_runs(verbs: Any) -> None:
    """`tss runs` and `tss use`."""
    verbs.add_parser("runs", help="the runs of an output: when, what made each, rows, label, which is current")
    verbs.add_parser("use", help="make another published run of an output the current one")


def add_completion(verbs: Any) -> None:
    """`tss completion`."""
    completion = verbs.add_parser("completion", help="a script for your shell that completes commands and flags")
    completion.add_argument("shell", choices=SHELLS, help="the shell")


def add_flags(verbs: Mapping[str, argparse.ArgumentParser]) -> None:
    """What a verb works on, flags for keys, and an example at the end of each help."""
    verbs["init"].add_argument("config", nargs="+", metavar="DATA", help="files, folders, globs, URLs")
    for name in ("run", "plan", "refresh"):
        words = "a .yaml file; or data in its place: files, folders, globs, URLs"
        verbs[name].add_argument("config", nargs="+", metavar="CONFIG|DATA", help=words)
    for name in ("run", "refresh"):
        words = "check everything, say what it would take, and end"
        how = verbs[name].add_mutually_exclusive_group()
        how.add_argument("--dry-run", action="store_true", help=words)
        if name == "refresh":
            words = "end with status 3, not 0, where no row entered or left"
            how.add_argument("--exit-code", action="store_true", help=words)
    verbs["select"].add_argument("--dry-run", action="store_true", help="say what it would select, and publish nothing")
    for name in ("run", "refresh", "select"):
        verbs[name].add_argument("--label", type=_label, metavar="TEXT", help="a name for people: `tss runs` shows it")
        verbs[name].add_argument("--allow-empty", action="store_true", help="publish also where nothing is selected")
    verbs["runs"].add_argument("output", help="an output folder")
    verbs["use"].add_argument("output", help="an output folder")
    verbs["use"].add_argument("run", help="the id of a run in it, the id's unique beginning, or a label")
    for name in ("init", "run", "plan", "refresh", "select"):
        for flag in KEYS if name != "select" else ["--budget"]:
            _, value, words = KEYS[flag]
            override = partial(override_of, flag)
            verbs[name].add_argument(flag, dest="overrides", action="append", type=override, metavar=value, help=words)
    add_examples(verbs)


def _label(text: str) -> str:
    text = text.strip()
    if not text or len(text) > MOST_OF_LABEL or not text.isprintable():
        raise argparse.ArgumentTypeError(
            f"found {text[:80]!r}; accepted: 1 to {MOST_OF_LABEL} characters that can be printed"
        )
    return text
