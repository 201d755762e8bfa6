"""A small publish in a process of its own that is killed before any one of its system calls.

    python tests/publishing.py FOLDER

waits on standard input: each line is an output folder; a child stops itself, says its number, and publishes once it goes on.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from operators.schema import REJECTED, SCORED, SELECTED
from pipeline.runs import open_run
from pipeline.runs.maintenance import after_run
from pipeline.runs.manifest import AllCounts, Manifest, Pairs, ScorerName
from pipeline.runs.open_run import current_run
from pipeline.runs.publish import point, publish
from pipeline.runs.workspace import Workspace, open_workspace
from pipeline.storage.lock import hold
from pipeline.storage.parts import checked_bytes, write_table

ROOT = Path(__file__).resolve().parents[1]
REQUEST = "the request of the run that is killed"
CALLS = "%file,write,pwrite64,fsync,fdatasync,close"
SCHEMAS: dict[str, pa.Schema] = {"scored": SCORED, "selected": SELECTED, "rejected": REJECTED}


class Quiet:
    """A reporter without words."""

    def say(self, words: str) -> None:
        """Nothing."""


def publish_once(output: str, request: str, keep: int = 2) -> None:
    """What every run does at its end, from gathered parts to the removal of old runs; goes on with what was begun."""
    with hold(output, "tss run") as lock, open_workspace(output, lock, request) as workspace:
        former = current_run(output)
        if workspace.whole:
            point(workspace, print)
            return
        run = publish(workspace, _gathered(workspace), "<p>page</p>", print)
        after_run(Quiet(), workspace, former, keep)
        if current_run(output) != run:
            raise AssertionError("published, and not current")


def _gathered(workspace: Workspace) -> Manifest:
    parts = {
        kind: [
            replace(
                write_table(f"{workspace.staged}/{kind}/part-00000.parquet", schema.empty_table()),
                path=f"{kind}/part-00000.parquet",
            )
        ]
        for kind, schema in SCHEMAS.items()
    }
    return Manifest(
        run=workspace.run_id,
        config={"select": {"score": "tss_pp"}},
        versions={},
        scorer=ScorerName("m", "f", "float32", "", ""),
        counts=AllCounts(),
        pairs=Pairs(0, 0),
        files=parts,
        columns=[],
        instructions=0,
        pool=0,
        base={},
    )


def require_whole(output: str) -> str:
    """The current run, every byte of it checked; raises where a reader would not get what was published."""
    run = open_run.latest_run(output)
    assert run is not None
    known = open_run.read_manifest(run)
    for kind in SCHEMAS:
        for record in open_run.parts_of(run, known.files[kind]):
            checked_bytes(record.part)
    return run


class Publisher:
    """Publishes in children of one process that has everything imported."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        )

    def close(self) -> None:
        """End the process."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)

    def publish(self, output: Path, killed_before: int | None = None) -> bool:
        """Whether a publish ended by itself; with a number, it is killed before its system call of that number."""
        assert self._server.stdin is not None and self._server.stdout is not None
        print(output, file=self._server.stdin, flush=True)
        child = int(self._server.stdout.readline())
        tracer = None
        if killed_before is not None:
            inject = f"inject={CALLS}:signal=SIGKILL:when={killed_before}"
            log = output.parent / "trace"
            command = ["strace", "-p", str(child), "-o", str(log), "-e", f"trace={CALLS}", "-e", inject]
            tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert tracer.stderr is not None
            said = tracer.stderr.readline()
            assert "attached" in said, said
        os.kill(child, signal.SIGCONT)
        status = int(self._server.stdout.readline())
        if tracer is not None:
            tracer.communicate(timeout=60)
        return status == 0


def serve() -> None:
    """Fork a child for each line; say its number, then its exit status (negative: the signal that has killed it)."""
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.close(0)
            os.kill(os.getpid(), signal.SIGSTOP)
            publish_once(line.rstrip("\n"), REQUEST)
            os._exit(0)
        os.waitpid(child, os.WUNTRACED)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def try_kills(folder: Path, numbers: list[int] | None = None) -> list[tuple[int, str, str]]:
    """Kill a publish before its system calls of these numbers, or of each in turn: what readers then saw ("former" or "new"),
    and what they see when the same command has gone on. Ends with the first that is not reached."""
    publisher = Publisher()
    outcomes = []
    try:
        former = _prepare(folder / "template")
        for number in numbers or range(1, 1000):
            output = folder / "out"
            shutil.rmtree(output, ignore_errors=True)
            shutil.copytree(folder / "template", output)
            if publisher.publish(output, number):
                break
            seen = [Path(require_whole(str(output))).name]
            assert publisher.publish(output)
            seen.append(Path(require_whole(str(output))).name)
            left = [path.name for path in output.iterdir() if re.match(r"\.(lock|work)", path.name)]
            assert not left, left
            outcomes.append((number, *("former" if run == former else "new" for run in seen)))
    finally:
        publisher.close()
    return outcomes


def _prepare(template: Path) -> str:
    """An output with a published run; its name."""
    publish_once(str(template), "another request")
    return Path(require_whole(str(template))).name


if __name__ == "__main__":
    serve()
