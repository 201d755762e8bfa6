"""One run at a time in an output: who holds it is named, and the dead hold nothing."""

import contextlib
import json
import subprocess
import sys
import threading
import time

import pyarrow as pa
import pytest
from conftest import write_jsonl
from small_runs import corpus, run

from pipeline.errors import BadRequest, RunFailed
from pipeline.storage import files, lock
from pipeline.storage.lock import hold

pytestmark = pytest.mark.ray  # processes that wait for each other

CHILD = """
import sys, time
from pipeline.errors import BadRequest
from pipeline.storage.lock import hold
try:
    with hold(sys.argv[1], "tss run"):
        print("held", flush=True)
        time.sleep(float(sys.argv[2]))
except BadRequest as problem:
    print(problem, flush=True)
"""


def child(output, seconds):
    return subprocess.Popen([sys.executable, "-c", CHILD, str(output), str(seconds)], stdout=subprocess.PIPE, text=True)


def claims(output):
    return list((output / ".lock").iterdir()) if (output / ".lock").exists() else []


def test_the_second_is_told_who_holds_it(tmp_path):
    holder = child(tmp_path / "out", 60)
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(BadRequest, match=rf"in use by `tss run` since .* \(process {holder.pid} on "):
            hold(str(tmp_path / "out"), "tss refresh").__enter__()
        assert len(claims(tmp_path / "out")) == 1
    finally:
        holder.kill()
        holder.wait()
    with hold(str(tmp_path / "out"), "tss refresh"):  # the holder was killed, and its claim is still there
        assert len(claims(tmp_path / "out")) == 1
    assert not (tmp_path / "out" / ".lock").exists()


def test_a_process_that_this_user_may_not_look_at_lives(tmp_path, monkeypatch):
    holder = child(tmp_path / "out", 60)
    assert holder.stdout.readline() == "held\n"
    claim = lock._read(str(claims(tmp_path / "out")[0]))

    def hidden(pid):
        raise FileNotFoundError(pid)

    monkeypatch.setattr(lock, "_started", hidden)
    try:
        assert not claim.gone()
    finally:
        holder.kill()
        holder.wait()
    assert claim.gone()


def test_of_several_that_begin_together_at_most_one_goes_on(tmp_path):
    children = [child(tmp_path / "out", 4) for _ in range(4)]
    first = [process.stdout.readline() for process in children]
    [process.wait() for process in children]
    assert first.count("held\n") == 1 and sum("in use by" in line for line in first) == 3


def elsewhere(output, beat=0):
    """The claim of a process of another machine."""
    claim = {
        "command": "tss run",
        "host": "h",
        "machine": "other",
        "pid": 1,
        "started": "0",
        "since": "then",
        "beat": beat,
    }
    files.write(str(output / ".lock" / "0.json"), json.dumps(claim).encode())  # whole, as a process would


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lock, "DEAD_AFTER_SECONDS", 1.0)


def test_a_process_of_another_machine_is_told_by_its_beat(tmp_path, quick):
    elsewhere(tmp_path)
    ended = threading.Event()

    def live():
        beat = 0
        while not ended.wait(0.05):
            beat += 1
            elsewhere(tmp_path, beat)

    beating = threading.Thread(target=live)
    beating.start()
    try:
        with pytest.raises(BadRequest, match="process 1 on h"):
            hold(str(tmp_path), "tss run").__enter__()
    finally:
        ended.set()
        beating.join()
    with hold(str(tmp_path), "tss run"):
        assert [path.name for path in claims(tmp_path)] != ["0.json"]


def test_a_claim_beats_while_dead_ones_are_waited_for(tmp_path, quick, monkeypatch):
    here = threading.local()
    monkeypatch.setattr(lock, "_machine", lambda: getattr(here, "name", "other"))
    for name in ("x", "y"):  # after any claim of ours
        elsewhere(tmp_path)
        (tmp_path / ".lock" / "0.json").rename(tmp_path / ".lock" / f"{name}.json")
    inside, both = [], []

    def acquire(name, after):
        here.name = name
        time.sleep(after)
        try:
            with hold(str(tmp_path), name):
                inside.append(name)
                time.sleep(1.5)
                both.append(list(inside))
                inside.remove(name)
        except BadRequest as problem:
            both.append([str(problem)])

    threads = [threading.Thread(target=acquire, args=started) for started in (("first", 0.0), ("second", 0.2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(both) == 2 and all(len(holders) == 1 for holders in both)
    assert ["first"] in both or ["second"] in both


def test_who_was_held_up_and_taken_for_dead_does_not_publish(tmp_path, quick):
    with hold(str(tmp_path), "tss run") as held:
        held.require()
        (claim,) = claims(tmp_path)
        began = claim.read_text()
        deadline = time.monotonic() + 20
        while claim.read_text() == began:
            assert time.monotonic() < deadline, "the claim never moves"
            time.sleep(0.02)
        claim.unlink()  # by another run
        with pytest.raises(RunFailed, match="another run has taken over"):
            held.require()
        time.sleep(0.3)
        assert not claims(tmp_path)  # and its claim does not come back


@pytest.mark.parametrize("error", [OSError("out of reach"), pa.ArrowException("unknown error"), pa.ArrowInvalid("no")])
def test_a_claim_beats_on_after_storage_failed(tmp_path, quick, monkeypatch, error):
    write, written = files.write, threading.Semaphore(0)
    failures = [error]

    def fail_at_first(path, data):
        if failures:
            raise failures.pop()
        write(path, data)
        written.release()

    with hold(str(tmp_path), "tss run") as held:
        monkeypatch.setattr(files, "write", fail_at_first)
        for _ in range(2):
            assert written.acquire(timeout=20), "the heart stands still"
        held.require()


def test_a_claim_that_hung_storage_puts_back_is_given_up(tmp_path, quick, monkeypatch):
    write, back = files.write, threading.Event()

    def hang(path, data):
        """Once: another process takes this one for dead meanwhile."""
        if not path.endswith("/0.json") and not back.is_set():
            files.delete(path)
            elsewhere(tmp_path)
            time.sleep(1.2)
            write(path, data)
            back.set()
        else:
            write(path, data)

    with hold(str(tmp_path), "tss run") as held:
        monkeypatch.setattr(files, "write", hang)
        assert back.wait(20)
        deadline = time.monotonic() + 20
        while held.held():
            assert time.monotonic() < deadline, "two hold it"
            time.sleep(0.02)
        with pytest.raises(RunFailed, match="another run has taken over"):
            held.require()
    assert [path.name for path in claims(tmp_path)] == ["0.json"]


def test_what_is_no_claim_is_named(tmp_path):
    (tmp_path / ".lock").mkdir()
    (tmp_path / ".lock" / "0.json").write_text("{")
    with pytest.raises(BadRequest, match=r"0\.json: is no claim"):
        hold(str(tmp_path), "tss run").__enter__()


def test_a_run_begins_with_the_lock(ray_session, model_folder, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", corpus(5))
    with hold(str(tmp_path / "out"), "tss run"), pytest.raises(BadRequest, match="is in use by `tss run`"):
        run(tmp_path / "out", [path], model_folder)
    assert not (tmp_path / "out").exists()


def test_who_was_stopped_itself_looks_again_before_another_counts_as_dead(tmp_path, quick, monkeypatch):
    """Storage answers late, with what it held before: a claim that lives has moved since."""
    elsewhere(tmp_path)
    read, answers, ended = lock._read, [], threading.Event()

    def late(path):
        if not str(path).endswith("/0.json"):
            return read(path)
        answers.append(answers[0] if len(answers) == 1 else read(path))
        if len(answers) == 2:
            time.sleep(1.5 * lock.DEAD_AFTER_SECONDS)
        return answers[-1]

    def live():
        beat = 0
        while not ended.wait(0.05):
            beat += 1
            with contextlib.suppress(FileNotFoundError):  # whoever gives way removes drafts
                elsewhere(tmp_path, beat)

    monkeypatch.setattr(lock, "_read", late)
    beating = threading.Thread(target=live)
    beating.start()
    try:
        with pytest.raises(BadRequest, match="process 1 on h"):
            hold(str(tmp_path), "tss run").__enter__()
        assert len(answers) > 2
    finally:
        ended.set()
        beating.join()
