"""The pointer only moves forward, whoever is stopped while it is written, for however long."""

import json
import threading

import pytest

from pipeline.errors import RunFailed
from pipeline.storage import conditional, files, pointer
from pipeline.storage.pointer import move_pointer


def mine():
    """This process holds the output."""


def taken():
    raise RunFailed("publish", "another run has taken over")


def current(output):
    return json.loads(files.read(f"{output}/latest.json"))


@pytest.fixture(params=["disk", pytest.param("store", marks=pytest.mark.ray)])
def output(request, tmp_path):
    """An output on a disk and one in an object store, over the real protocol."""
    if request.param == "disk":
        return str(tmp_path)
    request.getfixturevalue("object_store")
    return f"s3://bucket/pointers/{tmp_path.name}"


def test_every_move_counts_up(output):
    for number, run in enumerate(["runs/a", "runs/b", "runs/a"], start=1):
        assert move_pointer(output, run, mine) is None
        assert current(output) == {"run": run, "fence": number}


@pytest.mark.parametrize("before", [b'{"run": "runs/old"}\n', b"{", b"[" * 200_000, b'{"run": "runs/x", "fence": "9"}'])
def test_a_pointer_without_a_sound_number_is_moved_too(output, before):
    files.write(f"{output}/latest.json", before)
    move_pointer(output, "runs/new", mine)
    assert current(output)["run"] == "runs/new" and current(output)["fence"] > 0


def test_who_was_taken_over_moves_nothing(output):
    move_pointer(output, "runs/successor", mine)
    with pytest.raises(RunFailed, match="taken over"):
        move_pointer(output, "runs/late", taken)
    assert current(output)["run"] == "runs/successor"


def test_a_look_that_another_move_followed_is_taken_again(output):
    """Stopped after the look and the question whether the lock is held; a successor came and went meanwhile."""
    asked = []

    def once_mine():
        asked.append(True)
        if len(asked) > 1:
            taken()
        move_pointer(output, "runs/successor", mine)

    move_pointer(output, "runs/first", mine)
    with pytest.raises(RunFailed, match="taken over"):
        move_pointer(output, "runs/late", once_mine)
    assert current(output) == {"run": "runs/successor", "fence": 2} and len(asked) == 2


def test_the_same_bytes_again_are_another_version(output):
    """A pointer that was moved on and back in between names the same run, and is not what the late one has seen."""
    move_pointer(output, "runs/a", mine)

    asked = []

    def once_mine():
        asked.append(True)
        if len(asked) > 1:
            taken()
        for run in ("runs/b", "runs/a"):
            move_pointer(output, run, mine)

    with pytest.raises(RunFailed, match="taken over"):
        move_pointer(output, "runs/late", once_mine)
    assert current(output) == {"run": "runs/a", "fence": 3}


def test_a_rename_that_comes_late_is_undone(tmp_path, monkeypatch):
    """Stopped between the number and the rename: a disk cannot refuse that rename."""
    output, write, seen = str(tmp_path), files.write, []

    def late(path, data):
        monkeypatch.setattr(files, "write", write)
        for run in ("runs/second", "runs/third"):
            move_pointer(output, run, mine)
        seen.append(current(output)["run"])
        write(path, data)
        seen.append(current(output)["run"])

    def until_it_came():
        if seen:
            taken()

    monkeypatch.setattr(files, "write", late)
    with pytest.raises(RunFailed, match="taken over"):
        move_pointer(output, "runs/late", until_it_came)
    assert seen == ["runs/third", "runs/late"] and current(output) == {"run": "runs/third", "fence": 3}
    assert [path.name for path in (tmp_path / ".pointer").iterdir()] == ["3.json"]


def test_a_number_whose_process_died_before_the_rename_is_passed_over(tmp_path):
    output = str(tmp_path)
    move_pointer(output, "runs/a", mine)
    conditional.create_file(f"{output}/.pointer/2.json", b"")  # not even its content was written
    move_pointer(output, "runs/b", mine)
    assert current(output) == {"run": "runs/b", "fence": 3}


def test_of_many_at_once_the_highest_number_stands(tmp_path):
    output = str(tmp_path)
    threads = [threading.Thread(target=move_pointer, args=(output, f"runs/{i}", mine)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert current(output)["fence"] >= 8
    (newest,) = (tmp_path / ".pointer").iterdir()
    assert json.loads(newest.read_text()) == current(output)


@pytest.mark.ray
def test_a_request_that_hangs_in_a_store_fails_where_it_arrives(object_store, monkeypatch):
    output, replace_object = "s3://bucket/pointers/hangs", conditional.replace_object
    move_pointer(output, "runs/first", mine)

    def hang(url, seen, data):
        monkeypatch.setattr(conditional, "replace_object", replace_object)
        move_pointer(output, "runs/successor", mine)
        asking.append(True)
        return replace_object(url, seen, data)

    asking = []

    def until_it_hung():
        if asking:
            taken()

    monkeypatch.setattr(conditional, "replace_object", hang)
    with pytest.raises(RunFailed, match="taken over"):
        move_pointer(output, "runs/late", until_it_hung)
    assert current(output) == {"run": "runs/successor", "fence": 2}


@pytest.mark.ray
def test_an_answer_that_was_lost_is_no_conflict(object_store):
    url = "s3://bucket/pointers/lost/latest.json"
    unseen = conditional.look(url)
    assert unseen == conditional.Seen(None)
    assert conditional.replace_object(url, unseen, b"mine")
    assert conditional.replace_object(url, unseen, b"mine")  # sent again, as the first answer never came
    assert not conditional.replace_object(url, unseen, b"another")
    assert files.read(url) == b"mine"


@pytest.mark.ray
def test_a_store_without_conditional_writes_is_looked_at_after(object_store, monkeypatch):
    output = "s3://bucket/pointers/plain"

    def refuse(*given):
        raise conditional.NotConditional("501 Not Implemented")

    monkeypatch.setattr(conditional, "look", refuse)
    assert move_pointer(output, "runs/a", mine) == "501 Not Implemented"
    assert current(output) == {"run": "runs/a", "fence": 1}
    write = files.write

    def then_another(path, data):
        write(path, data)
        write(path, pointer._text("runs/successor", 9))

    monkeypatch.setattr(files, "write", then_another)
    with pytest.raises(RunFailed, match="written by another process"):
        move_pointer(output, "runs/b", mine)
    assert current(output)["run"] == "runs/successor"
