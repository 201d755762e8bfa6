"""Where a run writes, and what it reads, are two places."""

import pytest

from pipeline import read_config
from pipeline.errors import BadRequest
from pipeline.runs.output import check_output, require_apart


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


def test_places_beside_each_other_are_accepted(tmp_path):
    apart(
        tmp_path / "out",
        tmp_path / "data",
        tmp_path / "output",
        tmp_path / "out" / "demo" / "a.jsonl",
        "hf://datasets/a/b",
    )
    apart("s3://bucket/data-out", "s3://bucket/data", tmp_path)
