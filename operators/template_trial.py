"""The first renderings of a template, where they can be stopped: in a child process with limits of time and memory.

The child is a fork, since it needs the tokenizer that is already loaded; it renders, writes what it found to a pipe and ends.
Where a system cannot fork, the trial runs in this process, without limits.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from operators.template import Template, TemplateProblem

SECONDS = 10.0  # wall time of a trial, all rows together
MEMORY = 2 << 30  # bytes that the child may take beside what this process has
# A short row, and one of several thousand characters with many words and lines.
ROWS = (
    ("Say it again.", "It."),
    ("Sort the words of each line, then count them.\n" * 60, "one two three four five\n" * 250),
)


def try_template(
    load: Callable[[], Template],
    rows: tuple[tuple[str, str], ...] = ROWS,
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> list[str]:
    """The text of each (instruction, input) under the template that `load` gives, which is loaded in the child too.

    Raises TemplateProblem where the template cannot be loaded, fails on a row, does not finish all of them within `seconds`, or
    takes more than `memory` bytes.
    """
    if not hasattr(os, "fork"):
        template = load()
        return [template.render(*row) for row in rows]
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _in_child(load, rows, reader, writer, seconds, memory)
    os.close(writer)
    try:
        return list(_answers(reader, rows, seconds))
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)  # it is not waited for yet, so the number is still its own
        os.waitpid(child, 0)


def _in_child(
    load: Callable[[], Template],
    rows: tuple[tuple[str, str], ...],
    reader: int,
    writer: int,
    seconds: float,
    memory: int,
) -> None:
    """Write a line of JSON for each row, {"text"} or {"problem"}, and end this process."""
    try:
        os.close(reader)
        quiet = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # the last words of native code that runs out of memory
            os.dup2(quiet, stream)
        _limit(seconds, memory)
        with os.fdopen(writer, "w", encoding="utf-8") as out:
            try:
                template = load()
                for row in rows:
                    print(json.dumps({"text": template.render(*row)}), file=out, flush=True)
            except TemplateProblem as problem:
                print(json.dumps({"problem": str(problem)}), file=out, flush=True)
    finally:
        os._exit(0)  # whatever happened: the parent's stack must not go on in the child


def _limit(seconds: float, memory: int) -> None:
    import resource  # not on Windows, which does not fork either

    # CPU time ends a child whose parent was killed before it could end it.
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + 5, int(seconds) + 5))
    # Address space has a limit only beside what is mapped already (torch alone maps gigabytes), which only Linux tells.
    used = Path("/proc/self/statm")
    if sys.platform == "linux" and used.exists():
        mapped = int(used.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = mapped + memory
        resource.setrlimit(resource.RLIMIT_AS, (wanted if most < 0 else min(wanted, most), most))


def _answers(reader: int, rows: tuple[tuple[str, str], ...], seconds: float) -> Iterator[str]:
    end, data = time.monotonic() + seconds, b""
    for instruction, input in rows:
        on = f"on a row of {len(instruction) + len(input)} characters"
        while b"\n" not in data:
            if not select.select([reader], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TemplateProblem(f"the template did not finish within {seconds:g} s {on}")
            more = os.read(reader, 1 << 20)
            if not more:
                raise TemplateProblem(f"the template's process died {on}: it needs too much memory or stack")
            data += more
        line, _, data = data.partition(b"\n")
        answer = json.loads(line)
        if "problem" in answer:
            raise TemplateProblem(answer["problem"])
        yield answer["text"]
