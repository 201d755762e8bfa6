"""Workers refuse work of a driver that has other code than they."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from pipeline.engine import same_code
from pipeline.engine.same_code import OtherCode, digest, guarded
from pipeline.storage import urls

ROOT = Path(__file__).resolve().parents[3]


class Doubler:
    """An actor."""

    def __init__(self, *, by):
        self.by = by

    def __call__(self, number):
        return number * self.by


@pytest.fixture
def other_release(monkeypatch):
    """What makes this process one that has other code from then on."""
    return lambda: monkeypatch.setattr(same_code, "digest", lambda: "of another release")


def test_a_function_runs_where_the_code_is_the_drivers_alone(other_release):
    doubled = guarded(lambda number: number * 2)
    assert doubled(3) == 6
    other_release()
    with pytest.raises(OtherCode, match="accepted: one release on all machines"):
        doubled(3)


def test_an_actor_starts_where_the_code_is_the_drivers_alone(other_release):
    actor = guarded(Doubler)
    assert actor(by=2)(3) == 6 and actor.__name__ == "Doubler"
    other_release()
    with pytest.raises(OtherCode):
        actor(by=2)


def test_any_source_counts_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(same_code, "_ROOT", tmp_path)
    (tmp_path / "operators").mkdir()
    (tmp_path / "pipeline" / "engine").mkdir(parents=True)
    source = tmp_path / "pipeline" / "engine" / "job.py"
    digests = []
    for text in ("a = 1", "a = 2"):
        source.write_text(text)
        digests.append(digest.__wrapped__())
    (tmp_path / "pipeline" / "job.pyc").write_text("of no matter")
    (tmp_path / "runs.py").write_text("of no matter")
    assert digests[0] != digests[1] == digest.__wrapped__()
    source.rename(source.with_name("jobs.py"))
    assert digest.__wrapped__() != digests[1]


@pytest.mark.ray
def test_what_is_sent_finds_the_check_in_another_release(tmp_path):
    for package in ("operators", "pipeline"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "model"))
    sent = tmp_path / "sent"
    sent.write_bytes(cloudpickle.dumps(guarded(urls.name_of)))
    code = f"from ray import cloudpickle; cloudpickle.loads(open({str(sent)!r}, 'rb').read())('a/b')"

    def worker():
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            cwd=tmp_path,
        )

    assert worker().returncode == 0
    with (tmp_path / "operators" / "schema.py").open("a") as file:
        file.write("# of another release\n")
    assert f"OtherCode: a worker has other code in {tmp_path}" in worker().stderr
