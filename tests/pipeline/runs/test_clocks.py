"""Clocks that are set forwards and back, or differ between machines: runs keep the order in which they were made."""

import datetime
from types import SimpleNamespace

import pytest
from publishing import publish_once, require_whole

from pipeline.runs import workspace
from pipeline.storage import files, urls

DAY = 86_400


@pytest.fixture
def set_clock(monkeypatch):
    """Sets the clock that runs are named by so many seconds ahead of the real one."""

    def ahead(seconds):
        class Clock(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.datetime.now(tz) + datetime.timedelta(seconds=seconds)

        known = {"datetime": Clock, "timedelta": datetime.timedelta, "UTC": datetime.UTC}
        monkeypatch.setattr(workspace, "datetime", SimpleNamespace(**known))

    return ahead


def test_old_runs_go_in_the_order_in_which_they_were_made(tmp_path, set_clock):
    output, made = str(tmp_path), []
    for number, ahead in enumerate([0, 0, 400 * DAY, -3 * DAY, 3600, -3600, 0]):
        set_clock(ahead)
        publish_once(output, f"request {number}", keep=4)
        made.append(urls.name_of(require_whole(output)))
        assert sorted(made) == made
        assert workspace.run_ids(f"{output}/runs") == made[-4:]
    assert not list(tmp_path.glob(".*/*"))[1:]  # the newest number of the pointer, and nothing of what was removed


def test_a_run_is_newer_than_all_that_is_stored_of_others(tmp_path, set_clock):
    """Of a pair that two runs have stored, the newer run's is taken, whoever has published."""
    for place in ("likelihoods/a/20400101T000000-000000", "embeddings/b/20410101T000000-000000-compacted"):
        files.write(str(tmp_path / place / "part"), b"")
    names = set(workspace._names_of_runs(str(tmp_path)))
    assert workspace.new_run_id(names) > "20410101T000001"
    set_clock(100 * 365 * DAY)
    assert workspace.new_run_id(names) > "2100"


@pytest.mark.parametrize("name", ["99991231T235959-000000", "20261399T000000-000000", "notes", ".work", "20269901"])
def test_what_names_no_time_that_can_be_passed_is_passed_over(name):
    today = f"{datetime.datetime.now(datetime.UTC):%Y}"
    assert workspace.new_run_id([name]).startswith(today)
    assert workspace._RUN_ID.fullmatch(workspace.new_run_id([name]))
