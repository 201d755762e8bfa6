"""The first renderings of a template, where they can be stopped: in a process of their own with limits of time and memory.

That process is a new one, since a fork of this one would have its locks without its threads. It imports Jinja and no torch,
reads the source from its standard input, writes a line of JSON for each row, and ends.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from operators.prompts.template import Source, TemplateProblem, make_template

SECONDS = 10.0  # wall time of a trial, all rows together
START = 60.0  # wall time in which the process has to have started, on a machine that is busy
MEMORY = 2 << 30  # bytes that a trial may take
# A short row, and one of several thousand characters with many words and lines.
ROWS = (
    ("Say it again.", "It."),
    ("Sort the words of each line, then count them.\n" * 60, "one two three four five\n" * 250),
)


_CHILD = (
    "import json, sys; sys.path[:0] = json.loads(sys.argv[1]); "
    "from operators.prompts.template_trial import answer; answer()"
)


def try_template(
    source: Source,
    rows: tuple[tuple[str, str], ...] = ROWS,
    *,
    seconds: float = SECONDS,
    memory: int = MEMORY,
) -> list[str]:
    """The text of each (instruction, input) under a template.

    Raises TemplateProblem where the template cannot be parsed, fails on a row, does not finish all of them within `seconds`, or
    takes more than `memory` bytes.
    """
    paths = [str(Path(__file__).resolve().parents[2]), *sys.path]  # the modules that this process has
    asked = {"source": asdict(source), "rows": rows, "seconds": seconds, "memory": memory}
    try:
        done = subprocess.run(
            # A working folder is no place of modules: it may hold a json.py.
            [sys.executable, "-P", "-c", _CHILD, json.dumps(paths)],
            input=json.dumps(asked).encode(),
            capture_output=True,
            timeout=START + seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        return list(_texts(late.stdout or b"", rows, f"did not finish within {seconds:g} s"))
    if done.returncode == -getattr(signal, "SIGALRM", 0):
        return list(_texts(done.stdout, rows, f"did not finish within {seconds:g} s"))
    last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return list(_texts(done.stdout, rows, "ended its process: it needs too much memory or stack", *last))


def _texts(said: bytes, rows: tuple[tuple[str, str], ...], problem: str, *details: str) -> Iterator[str]:
    """Texts out of the lines of the process; raises TemplateProblem at the first row that has none."""
    began, *answers = said.split(b"\n")[:-1] or [b""]  # what follows the last line's end is no whole line
    if not began:
        raise TemplateProblem(f"the process in which it is tried could not start: {' '.join(details)[:300]}")
    for number, (instruction, input) in enumerate(rows):
        if number == len(answers):
            raise TemplateProblem(f"the template {problem} on a row of {len(instruction) + len(input)} characters")
        answer = json.loads(answers[number])
        if "problem" in answer:
            raise TemplateProblem(answer["problem"])
        yield answer["text"]


def answer() -> None:
    """What the process does: after a line that says that it has started, one for each row, {"text"} or {"problem"}."""
    asked = json.load(sys.stdin)
    _limit(asked["seconds"], asked["memory"])
    print("{}", flush=True)
    try:
        template = make_template(Source(**asked["source"]))
        for row in asked["rows"]:
            print(json.dumps({"text": template.render(*row)}), flush=True)
    except TemplateProblem as problem:
        print(json.dumps({"problem": str(problem)}), flush=True)


def _limit(seconds: float, memory: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    signal.setitimer(signal.ITIMER_REAL, seconds)  # its signal ends the process, whatever that is doing
    # Address space has a limit only beside what is mapped already, which only Linux tells.
    used = Path("/proc/self/statm")
    if used.exists():
        mapped = int(used.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        wanted = mapped + memory
        resource.setrlimit(resource.RLIMIT_AS, (wanted if most < 0 else min(wanted, most), most))
