"""Files and folders of an output that belong to somebody else: refused by name before any work, and nothing changes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from publishing import publish_once

from pipeline.errors import BadRequest
from pipeline.runs.output import check_output
from pipeline.storage import computed, files

ROOT = Path(__file__).resolve().parents[3]
PART = f"likelihoods/a/b/{'0' * 32}-1.parquet"
STRANGER = 65534
CLOSED, NOT_WRITABLE = 0o000, 0o555
# Root without the capabilities by which root may read and write everything.
AS_ANYBODY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"] if os.geteuid() == 0 else []
COMMANDS = """
import contextlib, io, json, sys
from pipeline import cli
for arguments in json.load(sys.stdin):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = cli.main(arguments)
    print(json.dumps([status, said.getvalue()]))
"""
pytestmark = [
    pytest.mark.ray,  # processes
    pytest.mark.skipif(bool(AS_ANYBODY) and shutil.which("setpriv") is None, reason="setpriv is not installed"),
]


def as_anybody(*commands):
    """(exit status, what was printed) of commands, for a user to whom rights apply."""
    done = subprocess.run(
        [*AS_ANYBODY, sys.executable, "-c", COMMANDS],
        input=json.dumps([[str(word) for word in command] for command in commands]),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """An output with a published run, and a part in its store."""
    output = tmp_path_factory.mktemp("rights") / "out"
    publish_once(str(output), "request")
    for name in (".work", ".lock", ".pointer", *computed.STORES):
        (output / name).mkdir(exist_ok=True)
    files.write(str(output / PART), b"PAR1")
    return output


@pytest.fixture
def take(published, tmp_path):
    """Gives a file of a copy of the output to a stranger, with such a mode; the copy."""
    taken = []

    def give(name, mode):
        output = tmp_path / "out"
        shutil.copytree(published, output)
        (path,) = output.glob(name) if name else [output]
        taken.append((path, path.stat().st_mode))
        if AS_ANYBODY:
            os.chown(path, STRANGER, STRANGER)
        path.chmod(mode)
        return output, path

    yield give
    for path, mode in taken:
        path.chmod(mode)


def listed(output):
    return sorted((str(path), path.stat().st_mtime_ns) for path in output.rglob("*"))


def config_of(output):
    path = output.parent / "config.yaml"
    path.write_text(json.dumps({"input": "nowhere.jsonl", "output": str(output)}))
    return path


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("", NOT_WRITABLE),
        *((name, NOT_WRITABLE) for name in ("runs", ".work", ".lock", ".pointer", *computed.STORES)),
        ("runs", CLOSED),
        ("latest.json", CLOSED),
        ("runs/*", CLOSED),
    ],
)
def test_what_would_end_a_run_at_its_end_is_refused_before_any_work(take, name, mode):
    output, path = take(name, mode)
    ((status, words),) = as_anybody(["run", config_of(output)])
    assert status == 2 and str(path) in words and "nowhere.jsonl" not in words
    assert "accepted: " in words or "is not writable" in words
    if mode != CLOSED:
        assert [seen for seen in listed(output) if "failures" in seen[0]] == []


def test_a_pointer_that_only_its_owner_may_replace_is_refused(take, monkeypatch):
    output, path = take("latest.json", 0o666)
    check_output(str(output))
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    check_output(str(output))
    output.chmod(0o1777)
    with pytest.raises(BadRequest, match=rf"{path} is user \d+'s, .*sticky bit"):
        check_output(str(output))


def test_readers_are_told_which_file_it_is(take):
    output, path = take("runs/*/manifest.json", CLOSED)
    before = listed(output)
    for status, words in as_anybody(["report", output], ["export", output, "--to", "alpaca"]):
        assert status == 2 and str(path) in words and "Permission denied" in words
    assert listed(output) == before


def test_a_part_that_may_not_be_read_is_not_taken_for_damaged(take):
    output, path = take(PART, CLOSED)
    ((status, words),) = as_anybody(["store", "stats", output])
    assert status == 1 and str(path) in words and "may not" in words
    assert path.exists() and not list(output.rglob("*.damaged"))


def test_a_published_part_that_may_not_be_read_is_not_taken_for_damaged(take):
    """A refresh would make its rows again."""
    _, path = take("runs/*/selected/*", CLOSED)
    code = f"""
from pipeline.storage import parts
for read in (parts.read_table, lambda path: parts.checked_bytes(parts.Part(path, 0, 0, ""))):
    try:
        read({str(path)!r})
    except PermissionError as error:
        print(error)
"""
    done = subprocess.run(
        [*AS_ANYBODY, sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.count(str(path)) == 2
