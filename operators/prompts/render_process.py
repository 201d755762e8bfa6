"""A process that renders a template under limits of time and memory.

It is a new process, since a fork of this one would have its locks without its threads. It imports Jinja, for a chat template
what transformers renders with, and no torch. A line of JSON goes to its standard input for each row, a line comes back, and it
ends when the process that asks has ended, however that ends. What takes too long ends it, whatever it is doing: the next row
gets another process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from operators.child_process import python_command

SECONDS = 10.0  # of a processor's time for one rendering: another load of the machine rejects no other row
MEMORY = 2 << 30  # bytes that renderings may take

_CHILD = "from operators.prompts import render_process, template; render_process.serve(template.prepare)"


class TemplateProblem(ValueError):
    """A template that cannot be loaded, that fails on a row, or that goes beyond the limits."""


class ProcessEnded(TemplateProblem):
    """A process that has ended while it rendered, and not for the time it took: the machine may have ended it."""


class RenderProcess:
    """A template in a process of its own; several threads may ask it, and wait for each other.

    `source` holds the arguments of `template.prepare`. Raises TemplateProblem where the template cannot be compiled.
    """

    def __init__(self, source: dict[str, Any]):
        self._source = source
        self._lock = threading.Lock()
        self._start()

    def render(self, instruction: str, input: str, *more: str | None) -> str:
        """The text of one row; raises TemplateProblem, and OSError where no process can be started: no row is to blame."""
        row = [instruction, input, *more]
        where = f"on a row of {sum(len(text) for text in row[:3] if text)} characters"
        with self._lock:
            try:
                return self._ask_living(row, where)
            except ProcessEnded:
                return self._ask_living(row, where)

    def _ask_living(self, row: list[str | None], where: str) -> str:
        if self._process.poll() is not None:
            try:
                self._start()
            except TemplateProblem as problem:
                raise OSError(f"no process to render in could be started again: {problem}") from problem
        return self._ask(row, where=where)

    def _start(self) -> None:
        self._process = subprocess.Popen(
            python_command(_CHILD),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._close = weakref.finalize(self, _end, self._process)
        opening = {"source": self._source, "seconds": SECONDS, "memory": MEMORY}
        try:
            self._ask(opening, "cannot be rendered: the process for it could not start")
            self._ask(None, where="when it was compiled")
        except BaseException:
            self._close()  # a process that has not compiled would take the next row for the question to do so
            raise

    def _ask(self, question: Any, ended: str | None = None, *, where: str = "") -> str:
        try:
            line = _answer(self._process, question)
        except BaseException:
            self._close()  # the answer may still come, and would be taken for that of the next row
            raise
        if line.endswith(b"\n"):
            answer = json.loads(line)
            if "problem" in answer:
                raise TemplateProblem(answer["problem"])
            return str(answer["text"])
        _, errors = self._close() or (b"", b"")
        late = self._process.returncode == -signal.SIGPROF
        if late:
            ended = f"did not finish within {SECONDS:g} s {where}; accepted: a template with less to do"
        ended = ended or (
            f"ended its process {where}: it needs too much memory (over {MEMORY >> 30} GiB) or stack; accepted: a "
            "template with less to do"
        )
        last = [f"({line})" for line in errors.decode(errors="replace").strip().splitlines()[-1:]]
        words = " ".join([f"template {self._source['name']!r} {ended}", *last])[:500]
        raise TemplateProblem(words) if late else ProcessEnded(words)


def _answer(process: subprocess.Popen[bytes], question: Any) -> bytes:
    """A line, or less where the process has ended."""
    assert process.stdin and process.stdout  # noqa: S101 - they are pipes
    try:
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    return process.stdout.readline()


def _end(process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """End a process; what it has left in its pipes."""
    process.kill()
    return process.communicate()


def serve(prepare: Callable[..., Callable[[], Callable[..., str]]]) -> None:
    """What the process does: answer each line of standard input by {"text"} or {"problem"}. The first line holds the arguments
    of `prepare`, which imports all that is needed; the second asks for what that gave to compile; each other holds a row."""
    opening = json.loads(sys.stdin.readline())
    compile_template = prepare(**opening["source"])
    _limit_memory(opening["memory"])
    print(json.dumps({"text": ""}), flush=True)
    render: Callable[..., str] | None = None
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, opening["seconds"])  # its signal ends the process
        text = ""
        try:
            if render is None:
                render = compile_template()
            else:
                text = render(*json.loads(line))
            answer = json.dumps({"text": text})
        except Exception as error:  # noqa: BLE001 - whatever a template raises is the answer
            answer = json.dumps({"problem": str(error)})
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(answer, flush=True)


def _limit_memory(memory: int) -> None:
    import resource

    # Address space has a limit only beside what is mapped already, which only Linux tells.
    used = Path("/proc/self/statm")
    if used.exists():
        mapped = int(used.read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = mapped + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit if most < 0 else min(limit, most), most))
