"""Tasks whose process ends every time: they are tried again, and then the run fails in words that name memory."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine import deaths, job
from pipeline.errors import RunFailed
from pipeline.runs import accounts
from pipeline.runs.manifest import Counts

ROOT = Path(__file__).resolve().parents[3]
SHORT_OF_MEMORY = """
from pipeline.engine import job, session
from pipeline.errors import RunFailed

session._MEMORY_TRIES_AT_MOST = 1  # a pause of one second

def never(batch):
    import time
    time.sleep(600)

with session.session(None):
    try:
        job.execute("read", int, job.over_parts([1], never))
    except RunFailed as failure:
        print(failure)
"""


def ended(batch):
    """Tasks that are ended by the kernel."""
    os.kill(os.getpid(), signal.SIGKILL)


def ended_between(batch):
    """As `ended`, of tasks that yield what they make piece by piece."""
    yield from ()
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_ends_well_or_raises_leaves_no_mark(ray_session, monkeypatch, tmp_path):
    monkeypatch.setattr(deaths, "_folder", lambda node: tmp_path)
    assert deaths.counted(lambda: 7)() == 7
    with pytest.raises(ZeroDivisionError):
        deaths.counted(lambda: 1 // 0)()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", [ended, ended_between])
def test_a_task_that_ends_its_process_every_time_ends_the_run(ray_session, monkeypatch, function):
    monkeypatch.setattr(deaths, "AT_MOST", 2)
    with pytest.raises(
        RunFailed, match=rf"^stage weigh: .*{function.__name__} ended its process 2 times; is there too li"
    ):
        job.execute("weigh", int, job.over_parts([1], function))


class NeverUp:
    """Actors that are ended before they have done anything."""

    def __init__(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, batch):
        return batch


def test_an_actor_that_never_comes_up_ends_the_run(ray_session, monkeypatch):
    monkeypatch.setattr(job, "STARTS_AFTER_DEATH", 1)
    with pytest.raises(RunFailed, match=r"^stage embed: its processes ended again and again .*more memory"):
        job.execute("embed", int, job.in_actors(job.items([1]), NeverUp, {}, (1, 1)))


@pytest.mark.ray
def test_ray_s_memory_monitor_ends_the_run_after_some_tries(own_ray):
    """Each process that works is ended at once, since far more than this share of the memory is in use."""
    before = {
        name: value for name, value in own_ray.items() if name != "RAY_task_oom_retries"
    }  # as the session here has it
    short = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "50", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, timeout=200, env={**before, **short}
    )
    assert "stage read: Ray has ended its processes again and again, as memory was short" in done.stdout


@pytest.mark.parametrize("reason", ["scorer_died", "reader_died"])
def test_many_rows_that_end_their_process_are_told_as_a_want_of_memory(reason):
    """Where memory is short on the machine, rows are found guilty one by one."""
    with pytest.raises(RunFailed, match=rf"3 of 10 rows rejected \({reason} 3\).* too little memory"):
        accounts.require_few_rejected({"source": Counts(read=10, rejected={reason: 3})}, 0.1, "score")
