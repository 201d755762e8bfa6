"""A holder that is stopped (SIGSTOP) for longer than another machine waits, while that one publishes; then it goes on."""

import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from publishing import publish_once, require_whole

from pipeline.errors import BadRequest
from pipeline.storage import files, lock, urls

pytestmark = pytest.mark.ray  # processes
ROOT = Path(__file__).resolve().parents[3]
LATE = """
import datetime, sys
from types import SimpleNamespace
import publishing
from pipeline.errors import RunFailed
from pipeline.runs import publish, workspace
from pipeline.storage import lock

output, machine, ahead, request, before = sys.argv[1:]
lock.BEAT_SECONDS, lock.DEAD_AFTER_SECONDS, lock._machine = 0.05, 1.0, lambda: machine

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) + datetime.timedelta(days=float(ahead))

workspace.datetime = SimpleNamespace(datetime=Clock, timedelta=datetime.timedelta, UTC=datetime.UTC)
goes_on = getattr(publish, before)

def wait(*given):
    print("waits", flush=True)
    sys.stdin.readline()
    return goes_on(*given)

setattr(publish, before, wait)
try:
    publishing.publish_once(output, request)
    print("published")
except (RunFailed, OSError) as failure:
    print(type(failure).__name__, failure)
"""


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "DEAD_AFTER_SECONDS", 1.0)


@pytest.fixture
def start(tmp_path):
    """Starts a publish that waits before a step; (the process, the output)."""
    started = []

    def begin(machine, ahead, request, before):
        words = [str(tmp_path / "out"), machine, str(ahead), request, before]
        process = subprocess.Popen(
            [sys.executable, "-c", LATE, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        )
        started.append(process)
        assert process.stdout.readline() == "waits\n"
        return process, tmp_path / "out"

    yield begin
    for process in started:
        process.kill()
        process.wait()


def goes_on(process):
    """What a process says at its end, once it may go on."""
    os.kill(process.pid, signal.SIGCONT)
    said, _ = process.communicate("\n", timeout=60)
    return said


@pytest.mark.parametrize(
    ("before", "days_ahead", "request_of_other"),
    [
        ("sealed", 400, "the same"),
        ("_write_manifest", -400, "the same"),
        ("point", -400, "another"),
        ("move_pointer", 400, "the same"),
    ],
)
def test_who_comes_late_publishes_nothing(start, quick, before, days_ahead, request_of_other):
    process, output = start("elsewhere", days_ahead, "the same", before)
    os.kill(process.pid, signal.SIGSTOP)
    publish_once(str(output), request_of_other)
    current, pointer = require_whole(str(output)), (output / "latest.json").read_bytes()
    assert "published" not in (said := goes_on(process)), said
    assert require_whole(str(output)) == current and (output / "latest.json").read_bytes() == pointer
    publish_once(str(output), "a third")  # and what it has left is in nobody's way
    assert require_whole(str(output)) > current and not (output / ".work").exists()


def test_on_one_machine_nobody_takes_over_from_who_is_stopped(start, quick):
    process, output = start(lock._machine(), 0, "the same", "sealed")
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(2 * lock.DEAD_AFTER_SECONDS)
    with pytest.raises(BadRequest, match=rf"in use by `tss run` since .* \(process {process.pid} on "):
        publish_once(str(output), "another")
    assert goes_on(process) == "published\n"
    assert json.loads(files.read(f"{output}/latest.json"))["fence"] == 1
    assert urls.name_of(require_whole(str(output))) > f"{datetime.datetime.now(datetime.UTC):%Y}"
