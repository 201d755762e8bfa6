"""Where a run writes, and what it reads, are two places."""

import os
from types import SimpleNamespace

import pytest

from pipeline import read_config
from pipeline.errors import BadRequest
from pipeline.runs.output import check_output, require_apart
from pipeline.storage import files, lock


def apart(output, *inputs):
    config = read_config.validate({"input": [str(path) for path in inputs], "output": str(output)}, "test")
    require_apart(str(output) if "://" in str(output) else check_output(str(output)), config.input)


def test_an_output_in_an_input_is_refused_and_an_input_in_what_runs_write(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "link").symlink_to(data)
    for path in (data, tmp_path, tmp_path / "link", f"{data}/", f"lance://{data}", f"iceberg://{data}"):
        with pytest.raises(
            BadRequest, match=r"output: .* lies in input\.0\.path: .*; accepted: a folder beside the input"
        ):
            apart(data / "selected", path)
    with pytest.raises(BadRequest, match=r"output: .* lies in input\.1"):
        apart("s3://bucket/data/out", "a.jsonl", "s3://bucket/data")
    with pytest.raises(BadRequest, match=r"input\.0\.path: .* lies in .*runs"):
        apart(data, data / "runs" / "r" / "selected")


def test_a_file_system_that_is_read_only_is_called_so(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *asked: False)
    with pytest.raises(BadRequest, match="is not writable"):
        check_output(str(tmp_path / "out"))
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_flag=os.ST_RDONLY))
    with pytest.raises(BadRequest, match=f"{tmp_path} lies on a file system that is mounted read-only"):
        check_output(str(tmp_path / "out"))


def test_a_file_system_that_takes_no_files_is_called_so(tmp_path, monkeypatch):
    def refused(path, data):
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(files, "write", refused)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: None)
    with pytest.raises(BadRequest, match=r"no folder can be made there .*is its file system read-only"):
        lock.hold(str(tmp_path / "out"), "tss run").__enter__()


def test_places_beside_each_other_are_accepted(tmp_path):
    apart(
        tmp_path / "out",
        tmp_path / "data",
        tmp_path / "output",
        tmp_path / "out" / "demo" / "a.jsonl",
        "hf://datasets/a/b",
    )
    apart("s3://bucket/data-out", "s3://bucket/data", tmp_path)
