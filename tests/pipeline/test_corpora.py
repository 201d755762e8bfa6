"""The first rows of each real corpus, in its own layout, through the whole flow."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import SHARED, needs_shared

from pipeline import flow, read_config
from pipeline.demo import MODEL
from pipeline.engine.progress import Reporter


@needs_shared
@pytest.mark.parametrize("name", ["alpaca", "code", "gsm8k", "tasks", "tasks20", "chat"])
def test_accounts_add_up(ray_session, tmp_path, name):
    lines = (SHARED / "data" / f"{name}.jsonl").read_bytes().split(b"\n")[:40]
    (tmp_path / f"{name}.jsonl").write_bytes(b"\n".join([*lines, lines[0], b"{", b""]))
    settings = {
        "input": str(tmp_path / f"{name}.jsonl"),
        "output": str(tmp_path / "out"),
        "embedder": {"model": "lexical"},
        "alternatives": {"k": 2},
        "select": {"budget": {"token_fraction": 0.5}},
        "max_rejected_fraction": 1.0,
        "scorer": {"model": str(MODEL), "template": "plain", "max_length": 512},
    }
    done = Path(flow.run(read_config.validate(settings, "test"), Reporter(quiet=True)).run)
    counts = json.loads((done / "manifest.json").read_text())["counts"]
    assert counts["read"] == 42 == sum(counts["rejected"].values()) + counts["duplicates"] + counts["scored"]
    assert counts["rejected"].get("malformed_json") == 1 and counts["scored"] > 10
    originals = {json.loads(line)["output"] for line in lines if b'"output"' in line}
    if originals:
        assert set(pq.read_table(done / "scored")["output"].to_pylist()) <= originals
