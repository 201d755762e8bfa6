"""A run is found where it lies, and what stands in the place of a pointer, a manifest or a claim is refused by name."""

import json

import pytest

from pipeline import cli
from pipeline.errors import BadRequest
from pipeline.runs import open_run, output, workspace
from pipeline.runs.manifest import manifest_digest
from pipeline.storage import lock

RUN = "20260101T000000-abcdef"


@pytest.fixture
def published(tmp_path):
    """An output with one run, as far as paths are concerned."""
    run = tmp_path / "out" / "runs" / RUN
    (run / "scored").mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    (tmp_path / "out" / "latest.json").write_text(json.dumps({"run": f"runs/{RUN}"}))
    return tmp_path / "out"


def test_a_run_is_found_by_itself_and_by_its_output(published):
    run = str(published / "runs" / RUN)
    assert open_run.find_run(run) == open_run.find_run(str(published)) == (str(published), run)


def test_dots_and_links_lead_to_the_output_that_they_mean(published, tmp_path, monkeypatch):
    monkeypatch.chdir(published / "runs" / RUN / "scored")
    assert open_run.find_run("..")[0] == str(published)
    (tmp_path / "link").symlink_to(published / "runs" / RUN)
    assert open_run.find_run(str(tmp_path / "link"))[0] == str(published)


def test_a_copy_of_a_run_has_no_output_to_select_into(published, tmp_path, capsys):
    copy = tmp_path / "elsewhere" / "deep" / "copy"
    copy.parent.mkdir(parents=True)
    (published / "runs" / RUN).rename(copy)
    assert open_run.find_run(str(copy)) == (None, str(copy))
    assert cli.main(["select", str(copy)]) == 2
    assert "does not lie in runs/ of an output" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["deep"]


@pytest.mark.parametrize("name", ["runs", ".work"])
def test_an_output_whose_inner_folders_are_links_is_refused(tmp_path, name):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "disk")
    with pytest.raises(BadRequest, match=f"{name} in it is a link"):
        output.check_output(str(tmp_path / "out"))


def test_a_link_among_the_runs_is_no_run(published, tmp_path):
    target = tmp_path / "precious"
    target.mkdir()
    (published / "runs" / "20250101T000000-000000").symlink_to(target)
    assert workspace.run_ids(str(published / "runs")) == [RUN]


HOSTILE = [
    b"[" * 200_000,
    b'{"run": 7}',
    b'{"run": null}',
    b"[]",
    b'{"run": "runs/' + b"x" * (1 << 17) + b'"}',
    b"\xff\xfe",
    b'{"run": "../../etc"}',
]


@pytest.mark.parametrize("content", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_pointer_is_refused_by_name(published, content):
    (published / "latest.json").write_bytes(content)
    with pytest.raises(BadRequest) as refused:
        open_run.latest_run(str(published))
    assert "latest.json" in str(refused.value) and len(str(refused.value)) < 1000


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a": ' * 100_000, b"7", b'{"run": "x"}', b"\xff"], ids=range(5))
def test_a_hostile_manifest_is_refused_by_name(published, content):
    (published / "runs" / RUN / "manifest.json").write_bytes(content)
    with pytest.raises(BadRequest, match=r"manifest\.json"):
        open_run.read_manifest(str(published / "runs" / RUN))


def test_a_manifest_without_a_digest_is_as_damaged_as_one_with_a_wrong_one(published):
    plain = dict.fromkeys(
        ("run", "config", "scorer", "counts", "pairs", "files", "columns", "instructions", "pool", "base"), 1
    )
    for more in ({}, {"digest": "0" * 32}):
        (published / "runs" / RUN / "manifest.json").write_text(json.dumps({**plain, **more}))
        with pytest.raises(BadRequest, match="its digest differs"):
            open_run.read_manifest(str(published / "runs" / RUN))
    (published / "runs" / RUN / "manifest.json").write_text(json.dumps({**plain, "digest": manifest_digest(plain)}))
    with pytest.raises(BadRequest, match="does not hold what a finished run writes"):
        open_run.read_manifest(str(published / "runs" / RUN))


CLAIMS = [b"[" * 200_000, b'{"command": 1}', b"7", b'{"x": "' + b"y" * (1 << 17) + b'"}', b"\xff"]


@pytest.mark.parametrize("content", CLAIMS, ids=range(len(CLAIMS)))
def test_a_hostile_claim_is_refused_by_name(tmp_path, content):
    (tmp_path / ".lock").mkdir()
    (tmp_path / ".lock" / "a.json").write_bytes(content)
    with pytest.raises(BadRequest, match=r"a\.json: is no claim of a run"), lock.hold(str(tmp_path), "tss run"):
        pass


def test_a_claim_of_the_wrong_types_is_refused(tmp_path):
    claim = dict.fromkeys(("command", "host", "machine", "started", "since"), "x") | {"pid": "many", "beat": 0}
    (tmp_path / ".lock").mkdir()
    (tmp_path / ".lock" / "a.json").write_text(json.dumps(claim))
    with pytest.raises(BadRequest, match="is no claim"), lock.hold(str(tmp_path), "tss run"):
        pass


@pytest.mark.parametrize("content", [b"[" * 200_000, b"[]", b'{"request": ' + b"1" * (1 << 17) + b"}"], ids=range(3))
def test_a_hostile_note_of_an_interrupted_run_is_none(tmp_path, content):
    folder = tmp_path / ".work" / RUN
    folder.mkdir(parents=True)
    (folder / "request.json").write_bytes(content)
    left = workspace.Workspace(str(tmp_path), RUN, None)
    assert workspace._request_of(left) == {}
