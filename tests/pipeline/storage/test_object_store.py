"""An output in an object store, over the real protocol: the same run, resume, refresh and lock as on a disk."""

import json
from dataclasses import replace

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from small_runs import corpus, run, settings

from pipeline import flow, read_config
from pipeline.engine.progress import Reporter
from pipeline.errors import BadRequest
from pipeline.report.show import page_file
from pipeline.retrieval import blocks
from pipeline.runs import open_run, report
from pipeline.selection import choose
from pipeline.storage import files
from pipeline.storage.lock import hold

OUTPUT = "s3://bucket/runs/mine"


class Stopped(Exception):
    pass


def stop(*arguments, **more):
    raise Stopped


def read(store, path):
    with store.open_input_file(path.removeprefix("s3://")) as file:
        return json.loads(file.read())


def rows(store, done, kind):
    files = read(store, f"{done}/manifest.json")["files"][kind]
    return [
        row
        for file in files
        for row in pq.read_table(f"{done.removeprefix('s3://')}/{file['path']}", filesystem=store).to_pylist()
    ]


def listed(store, folder):
    found = store.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
    return sorted(one.path for one in found if one.is_file)


@pytest.fixture(scope="module")
def outcome(ray_session, object_store, model_folder, tmp_path_factory):
    """On a disk for comparison; in the store a run that is stopped, goes on, and is refreshed; what lay there in between."""
    folder = tmp_path_factory.mktemp("corpus")
    path = write_jsonl(folder / "rows.jsonl", corpus(30))
    wanted = settings(OUTPUT, [path], model_folder, keep_runs=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_TOKENS", 4000)
        on_disk = run(folder / "out", [path], model_folder)
        with patch.context() as broken, pytest.raises(Stopped):
            broken.setattr(choose, "select", stop)
            flow.run(wanted, Reporter(quiet=True))
        between = listed(object_store, "bucket/runs/mine")
        done = flow.run(wanted, Reporter(quiet=True)).run
        again = flow.refresh(wanted, Reporter(quiet=True)).run
    return on_disk, done, again, between


def test_a_run_in_a_store_is_that_of_a_disk(outcome, object_store):
    on_disk, done, _, _ = outcome
    for kind in ("scored", "selected"):
        expected = [row for path in sorted((on_disk / kind).iterdir()) for row in pq.read_table(path).to_pylist()]
        assert rows(object_store, done, kind) == expected
    assert done.startswith(f"{OUTPUT}/runs/")
    names = {path.rpartition("/")[2] for path in listed(object_store, done.removeprefix("s3://"))}
    assert {"manifest.json", "config.yaml", "report.html", "README.md"} < names


def test_it_goes_on_and_is_refreshed(outcome, object_store):
    _, done, again, between = outcome
    assert not any("/runs/mine/runs/" in f"/{path}" or path.endswith("latest.json") for path in between)
    assert any("/likelihoods/" in path for path in between) and any(path.endswith("request.json") for path in between)
    first, second = (read(object_store, f"{one}/manifest.json") for one in (done, again))
    assert first["pairs"]["computed"] == first["pairs"]["resumed"] > 0 and first["scorer"]["loaded"] == 0
    assert second["pairs"]["computed"] == 0 and second["changes"]["selected"]["entered"] == 0
    assert read(object_store, "bucket/runs/mine/latest.json")["run"] == f"runs/{again.rpartition('/')[2]}"
    left = listed(object_store, "bucket/runs/mine")
    assert not any("/.work/" in path or "/.lock/" in path for path in left)


def test_selecting_anew_and_reports(outcome, object_store):
    _, done, again, _ = outcome
    output, run_ = open_run.find_run(OUTPUT)
    assert (output, run_) == (OUTPUT, again)
    known = open_run.read_manifest(run_)
    chosen = read_config.validate(read_config.override(known.config, ["select.budget.examples=3"]), "test")
    third = flow.select(chosen, run_, Reporter(quiet=True)).run
    assert [row["selection_rank"] for row in rows(object_store, third, "selected")] == [0, 1, 2]
    assert third in report.of_run(open_run.find_run(OUTPUT)[1]).text
    made = open_run.read_manifest(third)
    path, why = page_file(made, third)
    assert made.report.problem is None and files.digest_of(path.read_bytes()) == made.report.digest and "a copy" in why
    page_again, why = page_file(replace(made, report=None), third)
    assert "made anew" in why and "3 of 30 rows" in page_again.read_text(encoding="utf-8")
    assert not listed(object_store, done.removeprefix("s3://"))  # keep_runs: 2


def test_one_run_at_a_time(object_store, outcome):
    with (
        hold(OUTPUT, "tss run"),
        pytest.raises(BadRequest, match="is in use by `tss run` since"),
        hold(OUTPUT, "tss refresh"),
    ):
        pytest.fail("two hold it")
    assert not listed(object_store, "bucket/runs/mine/.lock")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("s3://no-such-bucket/x", "no bucket s3://no-such-bucket"),
        ("s3://key:secret@bucket/x", "credentials"),
        ("s3://bucket/x?endpoint_override=http://a", "options"),
        ("ftp://host/x", "accepted: a folder, or a URL of s3"),
        ("abfs://container/x", "accepted: a folder, or a URL of s3"),
    ],
)
def test_outputs_that_are_refused(object_store, model_folder, tmp_path, output, words):
    path = write_jsonl(tmp_path / "rows.jsonl", corpus(5))
    with pytest.raises(BadRequest, match=words) as problem:
        flow.run(settings(output, [path], model_folder), Reporter(quiet=True))
    assert "secret" not in str(problem.value)
