"""A run of which nothing has changed is known by a key, without Ray; whatever a run follows from changes the key."""

import json
import os
from dataclasses import replace

import pytest
from conftest import write_jsonl
from published_runs import publish_rows, scored_row
from small_runs import corpus, settings

from pipeline import cli, unchanged
from pipeline.runs import open_run
from pipeline.runs.manifest import sealed


@pytest.fixture
def asked(tmp_path, model_folder):
    """A configuration by its overrides."""
    rows = write_jsonl(tmp_path / "rows.jsonl", corpus(20))
    (tmp_path / "t.jinja").write_text("{{ instruction }} {{ input }}")
    (tmp_path / "pool.txt").write_text("Sort it.\nCount it.\n")
    own = {"scorer__template": str(tmp_path / "t.jinja"), "alternatives__pool": str(tmp_path / "pool.txt")}
    return lambda **more: settings(tmp_path / "out", [rows], model_folder, **{**own, **more})


def made(tmp_path, config, key, **more):
    """A published run with this key."""
    run = publish_rows(tmp_path / "out", [scored_row(salt=i) for i in range(3)])
    manifest = replace(open_run.read_manifest(str(run)), key=key, **more)
    (run / "manifest.json").write_text(sealed(manifest))
    return run


def test_the_key_of_the_same_request_is_the_same_and_of_another_one_another(asked, tmp_path):
    key = unchanged.key_of(asked())
    assert len(key) == 32 and key == unchanged.key_of(asked(keep_runs=3, ray__scorers=1))
    others = [
        asked(seed=1),
        asked(select__budget={"tokens": 10}),
        asked(scorer__append_eos=False),
        asked(dedup__near=0.9),
    ]
    keys = {unchanged.key_of(config) for config in others}
    for name in ("rows.jsonl", "t.jinja", "pool.txt"):
        path = tmp_path / name
        state = path.stat()
        path.write_bytes(path.read_bytes().replace(b"ort", b"ORT").replace(b"instruction }}", b"instruction}}") + b"\n")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
        keys.add(unchanged.key_of(asked()))
    assert key not in keys and len(keys) == 7 and "" not in keys


def test_what_is_dear_to_look_at_has_no_key(asked, tmp_path, monkeypatch):
    assert unchanged.key_of(asked(ray__address="10.0.0.1:6379")) == ""
    assert unchanged.key_of(asked(alternatives__source="both")) == ""
    assert unchanged.key_of(asked(input=[{"path": str(tmp_path / "none.jsonl")}])) == ""
    monkeypatch.setattr(unchanged, "MOST_BYTES", 100)
    assert unchanged.key_of(asked()) == ""


def test_an_unchanged_run_says_so_and_runs_nothing(asked, tmp_path, capsys, monkeypatch):
    config = asked()
    run = made(tmp_path, config, unchanged.key_of(config))
    monkeypatch.setattr("pipeline.flow.run", lambda *asked, **more: pytest.fail("it ran"))
    (tmp_path / "c.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    assert cli.main(["run", str(tmp_path / "c.yaml")]) == 0
    shown = capsys.readouterr().out
    assert f"nothing has changed since {run.name}" in shown and f"output       {run}" in shown


def test_a_run_that_is_not_whole_or_that_another_try_may_mend_is_made_again(asked, tmp_path):
    config = asked()
    key = unchanged.key_of(config)
    run = made(tmp_path, config, key)
    assert unchanged.current_of(config, key) is not None
    assert unchanged.current_of(config, "") is None and unchanged.current_of(config, "0" * 32) is None
    counts = open_run.read_manifest(str(run)).counts
    made(tmp_path, config, key, counts=replace(counts, rejected={"scorer_died": 1}))
    assert unchanged.current_of(config, key) is None
    made(tmp_path, config, key)
    next((run / "selected").iterdir()).unlink()
    assert unchanged.current_of(config, key) is None


@pytest.mark.parametrize("flags", [["--fresh"], ["--label", "again"]])
def test_who_asks_for_a_new_run_gets_one(asked, tmp_path, monkeypatch, flags):
    config = asked()
    made(tmp_path, config, unchanged.key_of(config))
    calls = []
    monkeypatch.setattr("pipeline.flow.run", lambda config, reporter, **more: calls.append(more) or 7)
    (tmp_path / "c.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    assert cli.main(["run", str(tmp_path / "c.yaml"), *flags]) == 7
    assert calls[0]["publishing"].key == unchanged.key_of(config)
