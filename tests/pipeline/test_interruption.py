"""Whoever stops a command, or does not read it, changes nothing of what it has done, and its exit status says that."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import cli, interruption
from pipeline.engine.progress import Reporter
from pipeline.runs.summary import Summary

ROOT = Path(__file__).resolve().parents[2]


def started(code, **streams):
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **streams)


class Full(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


def test_characters_that_a_terminal_does_not_know_are_shown_as_escapes(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert interruption.say("naïve …") and raw.getvalue() == b"na\\xefve \\u2026\n"


@pytest.mark.parametrize("stream", [Full(), None])
def test_a_summary_that_cannot_be_printed_is_no_failure_of_a_run(stream, monkeypatch, capsys):
    monkeypatch.setitem(cli._VERBS, "run", lambda arguments: Summary("r", "summary"))
    monkeypatch.setitem(cli._VERBS, "report", lambda arguments: Summary("r", "summary"))
    monkeypatch.setitem(cli._VERBS, "refresh", lambda arguments: Summary("r", "summary", 3))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert cli.main(["run", "config.yaml"]) == 0
        assert cli.main(["refresh", "config.yaml", "--exit-code"]) == 3
        assert cli.main(["report", "out"]) == 1
    assert "the summary could not be printed" in capsys.readouterr().err


def test_progress_that_cannot_be_written_goes_on_in_silence(monkeypatch):
    for stream in (Full(), None, io.TextIOWrapper(io.BytesIO(), encoding="ascii")):
        monkeypatch.setattr(sys, "stderr", stream)
        reporter = Reporter()
        with reporter.stage("read", 1) as stage:
            stage.advance(note="naïve …")
        reporter.say("done ✓")


@pytest.mark.ray  # starts processes
def test_a_full_disk_behind_the_output_leaves_the_exit_status_alone():
    code = "import sys; from pipeline.interruption import say; sys.exit(0 if not say('x' * 100) else 3)"
    with Path("/dev/full").open("w") as full:
        assert started(code, stdout=full).wait(60) == 0


@pytest.mark.ray  # starts processes
def test_a_pipe_that_nobody_reads_leaves_the_exit_status_alone():
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from pipeline.interruption import say; sys.exit(0 if not say('x' * 100) else 3)"
    process = started(code, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert process.communicate(timeout=60) == (None, "") and process.returncode == 0


WAITING = """
import sys, time
from pipeline.interruption import EXIT_STATUS, obey_signals, say
obey_signals()
try:
    say("ready")
    time.sleep(60)
except KeyboardInterrupt:
    say("stopping")
    time.sleep({tidying})
    say("stopped", error=True)
    sys.exit(EXIT_STATUS)
"""


@pytest.mark.ray  # starts processes
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_break_what_tidies_up(ending):
    process = started(WAITING.format(tidying=1), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(ending)
    assert process.stdout.readline() == "stopping\n"
    process.send_signal(ending)
    assert process.communicate(timeout=60)[1] == "stopped\n" and process.returncode == 130


@pytest.mark.ray  # starts processes
def test_three_impatient_signals_end_at_once_without_a_traceback():
    process = started(WAITING.format(tidying=60), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "stopping\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert process.communicate(timeout=20)[1] == "" and process.returncode == 130


STARTING = """
import sys
import ray
from pipeline.cli import main

real = ray.init

def init(**settings):
    print("starting", flush=True)
    return real(**settings)

ray.init = init
sys.exit(main(["demo", "--rows", "20", "--output", sys.argv[1]]))
"""


SWALLOWED = """
import os, signal, sys
import ray
from ray._private import utils
from pipeline.cli import main

def init(**settings):
    utils.set_sigterm_handler(lambda number, frame: sys.exit(number))
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except BaseException:
        print("swallowed", flush=True)  # as a callback does

ray.init = init
sys.exit(main(["demo", "--rows", "20", "--output", sys.argv[1]]))
"""


def test_a_signal_that_ray_swallows_while_it_starts_is_obeyed(own_ray, tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", SWALLOWED, str(tmp_path / "out")],
        cwd=ROOT,
        env=own_ray,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.stdout == "swallowed\n" and ended.returncode == 130, ended.stderr
    assert "interrupted; nothing was published" in ended.stderr


def test_a_signal_while_ray_starts_is_one_as_well(own_ray, tmp_path):
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", STARTING, str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, env=own_ray, **streams)
    assert process.stdout.readline() == "starting\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)  # which Ray takes for itself meanwhile
    shown = process.communicate(timeout=120)[1]
    assert process.returncode == 130, shown
    assert shown.splitlines()[-1].startswith("tss: interrupted; nothing was published") and "Traceback" not in shown
