"""One run at a time writes into an output: who does says so in a claim, and a claim whose process is gone does not count.

A claim is a small file of its own under `.lock/`. A process writes its claim, then looks at all others: if another one
lives, it takes its own back and gives way. Two that begin at the same moment may both give way, but never both go on, and that
needs nothing of the storage but that a file which has been written is listed afterwards, so it holds on disks, network file
systems and object stores alike.

Whether a claim lives: on this machine its process is looked up; elsewhere a thread of the holder rewrites the claim every few
seconds, and one that stays the same for longer is dead. Clocks of machines are never compared.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import pyarrow as pa

from operators.error_text import first_line
from pipeline.errors import BadRequest, RunFailed
from pipeline.storage import files, urls
from pipeline.storage.records import from_json

FOLDER = ".lock"
BEAT_SECONDS = 5.0
DEAD_AFTER_SECONDS = 30.0  # a claim of another machine that has not moved for so long
_CLAIM_BYTES = 1 << 16
_TRIES = 4  # of two that begin together, both may give way: then each looks again after a moment


@dataclass(frozen=True)
class Claim:
    """Who writes into an output; `beat` counts up while its process lives."""

    command: str
    host: str
    machine: str  # boot and process namespace: only within them does a process number mean anything
    pid: int
    started: str
    since: str
    beat: int = 0

    def in_words(self) -> str:
        """Who writes, for people."""
        return f"`{self.command}` since {self.since} (process {self.pid} on {self.host})"

    def gone(self) -> bool:
        """Whether its process was on this machine and has ended."""
        if self.machine != _machine():
            return False
        try:
            return _started(self.pid) != self.started or psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except (OSError, psutil.Error):
            return not _answers(self.pid)  # a machine may hide processes of other users


def _started(pid: int) -> str:
    """When a process began, in a form that setting the clock does not change: ticks since the machine started, where the kernel
    tells them."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        return stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
    return str(psutil.Process(pid).create_time())


def _answers(pid: int) -> bool:
    """Whether there is a process of this number, whoever may look at it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _machine() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 (a link to no file)
    return str(psutil.boot_time())


class Lock:
    """A claim that this process holds."""

    def __init__(self, output: str, claim: Claim, path: str):
        self._output, self._claim, self._path = output, claim, path
        self._lost, self._ended = False, threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True, name="lock")

    @property
    def path(self) -> str:
        """Of the claim, which every machine that works on this output must see."""
        return self._path

    def held(self) -> bool:
        """Whether nobody has taken this process for dead."""
        return not self._lost and files.exists(self._path)

    def require(self) -> None:
        """Raise RunFailed where another process has taken this run for dead: what it writes must not be disturbed."""
        if not self.held():
            raise RunFailed(
                "publish",
                f"this process was held up, and another run has taken over {self._output!r} meanwhile; wait for that "
                "one to end, or set another output",
            )

    def _beat(self) -> None:
        # Not more than a sign of life beside Ray's work: without it, other machines could not tell a long run from a dead one.
        seen = time.monotonic()
        while not self._ended.wait(BEAT_SECONDS):
            # Whatever a beat fails of, the next one tries again: where the beats end, another machine takes the output.
            with contextlib.suppress(Exception):
                now = time.monotonic()
                if not files.exists(self._path):
                    self._lost = True
                    return
                self._claim = replace(self._claim, beat=self._claim.beat + 1)
                files.write(self._path, json.dumps(asdict(self._claim)).encode())
                if time.monotonic() - seen > DEAD_AFTER_SECONDS and self._others():
                    # Storage that hung has put back a claim which another process may have removed as that of a dead one.
                    self._lost = True
                    files.delete(self._path)
                    return
                seen = now

    def _others(self) -> bool:
        return any(path != self._path for path, _ in files.list_files(urls.parent_of(self._path)))

    def _start(self) -> None:
        self._beating.start()

    def _end(self) -> None:
        self._ended.set()
        self._beating.join()
        # Where storage is gone the claim stays, and is that of a dead process soon; how the command has ended matters more.
        with contextlib.suppress(OSError, pa.ArrowException):
            files.delete(self._path)


@contextmanager
def hold(output: str, command: str) -> Iterator[Lock]:
    """Hold the output while the context lasts; raises BadRequest that names who else does."""
    created = not urls.is_url(output) and not files.exists(output)
    folder = urls.join(output, FOLDER)
    try:
        lock = _acquire(output, folder, command)
        try:
            yield lock
        finally:
            lock._end()
    finally:
        # A process that was killed while it wrote its claim has left a draft. Whoever is writing one now writes it again.
        files.delete_drafts(folder)
        files.delete_empty(folder)
        if created:
            files.delete_empty(output)


def _acquire(output: str, folder: str, command: str) -> Lock:
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    claim = Claim(command, socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()), now)
    path = urls.join(folder, f"{uuid.uuid4().hex}.json")
    other, refused = None, ""
    for left in reversed(range(_TRIES)):
        try:
            files.write(path, json.dumps(asdict(claim)).encode())
        except FileNotFoundError as error:
            refused = first_line(error)
            continue  # another process has just removed the folder, as it was empty
        except (OSError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise BadRequest(
                f"output: {output!r} cannot be written: {reason}; accepted: a folder or bucket in which this user can "
                "make files"
            ) from error
        refused = ""
        # It beats while others are looked at, which takes half a minute for each dead one: a third process must not take this
        # one for dead meanwhile, and where one has all the same, this one gives way.
        lock = Lock(output, claim, path)
        lock._start()
        try:
            other = _living(folder, path)
            if other is None and lock.held():
                return lock
        except BaseException:
            lock._end()
            raise
        lock._end()
        if left:
            time.sleep(random.uniform(0.1, 0.5))
    if other is None:
        why = f"no folder can be made there ({refused})" if refused else "a file there is gone at once"
        raise BadRequest(
            f"output: {output!r} cannot be written: {why}; is its file system read-only, or does it take no files, as /proc "
            "does not? Accepted: a folder in which this user can make files"
        )
    raise BadRequest(
        f"output: {output!r} is in use by {other.in_words()}; one run at a time writes into an output. "
        "Wait for it, or set another output"
    )


def _living(folder: str, claim_path: str) -> Claim | None:
    """A claim of another process than that of `claim_path`, if one lives; those of dead ones are removed on the way."""
    for path, _ in files.list_files(folder):
        if path == claim_path:
            continue
        claim = _read(path)
        # A process of this machine that is not gone lives; of one elsewhere only the beat tells.
        if claim is not None and not claim.gone() and (claim.machine == _machine() or _moves(path, claim)):
            return claim
        files.delete(path)
    return None


def _moves(path: str, seen: Claim) -> bool:
    """Whether a claim is written anew within the time after which it counts as dead. What counts is the sum of the pauses, with
    a look after each: time in which this process was stopped, or waited for storage, says nothing about the other."""
    pause = min(1.0, DEAD_AFTER_SECONDS / 10)
    paused = 0.0
    while paused < DEAD_AFTER_SECONDS:
        time.sleep(pause)
        paused += pause
        now = _read(path)
        if now is None:
            return False
        if now.beat != seen.beat:
            return True
    return False


def _read(path: str) -> Claim | None:
    try:
        return from_json(Claim, files.read(path, at_most=_CLAIM_BYTES))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise BadRequest(
            f"{path}: is no claim of a run ({first_line(error)[:200]}); remove it if no run writes into this output"
        ) from error
