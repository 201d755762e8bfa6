"""The snapshot is of the files as workers see them: the driver of a cluster may see none."""

import os
from dataclasses import replace

import datasets
import pyarrow as pa
import pytest
import ray
from conftest import write_jsonl
from small_runs import corpus, manifest_of, run

from pipeline import read_config, request
from pipeline.engine import job
from pipeline.engine.progress import Reporter
from pipeline.errors import RunFailed
from pipeline.reading import chunks, snapshot
from pipeline.reading.admit import in_packs
from pipeline.storage.records import to_json


def record_of(record):
    return pa.table({"item": [to_json(record)]})


def digest_of(folder):
    wanted = read_config.validate({"input": str(folder), "output": "o"}, "test")
    (described,) = snapshot.take_snapshot(Reporter(quiet=True), chunks.plan(wanted))
    return described.digest


def save(folder, output):
    datasets.Dataset.from_list([{"instruction": "Copy.", "output": output}]).save_to_disk(folder)


def test_a_saved_dataset_that_is_gone_is_named(tmp_path):
    gone = chunks.Chunk(str(tmp_path / "gone"), "saved", None, "s", None, 0, 0, 1)
    with pytest.raises(FileNotFoundError, match="gone: no file of this dataset"):
        snapshot.pieces_of([gone])


def test_a_saved_dataset_that_only_workers_see_has_the_digest_of_its_content(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "list_files", lambda *a, **k: pytest.fail("the driver listed the files"))
    save(tmp_path / "one", "a")
    save(tmp_path / "other", "b")
    assert digest_of(tmp_path / "one") != digest_of(tmp_path / "other")


def planned(path):
    return chunks.plan(read_config.validate({"input": str(path), "output": "o"}, "test"))


def rewritten(path):
    """Another content of the same size, with the time of the first one."""
    before = path.stat()
    path.write_text(path.read_text().replace("a", "b"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("harm", [rewritten, lambda path: path.write_text("{}"), lambda path: path.unlink()])
def test_a_file_that_was_written_since_it_was_listed_is_named(tmp_path, harm):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "Copy.", "output": "a"}])
    (chunk,) = planned(path)
    (piece,) = snapshot.pieces_of([chunk])
    snapshot.digest_piece(record_of(piece))
    harm(path)
    with pytest.raises((chunks.ChangedInput, FileNotFoundError), match=r"rows\.jsonl"):
        snapshot.digest_piece(record_of(piece))


def test_a_saved_dataset_that_was_written_since_it_was_listed_is_named(tmp_path):
    save(tmp_path / "saved", "a")
    (chunk,) = planned(tmp_path / "saved")
    chunks.require_unchanged(chunk)
    save(tmp_path / "other", "b")
    (tmp_path / "other" / "data-00000-of-00001.arrow").rename(tmp_path / "saved" / "data-00000-of-00001.arrow")
    with pytest.raises(chunks.ChangedInput, match="saved has changed since the run began"):
        chunks.require_unchanged(chunk)


@pytest.mark.parametrize("harm", [rewritten, lambda path: path.write_text(path.read_text()[:200])])
def test_a_file_that_changes_between_its_digest_and_its_reading_fails_the_run(
    ray_session, model_folder, tmp_path, monkeypatch, harm
):
    path = write_jsonl(tmp_path / "rows.jsonl", corpus(20))
    digested = request.take_snapshot

    def then_written(*arguments):
        result = digested(*arguments)
        harm(path)
        return result

    monkeypatch.setattr(request, "take_snapshot", then_written)
    with pytest.raises(RunFailed, match=r"stage read: .*rows\.jsonl has changed since the run began"):
        run(tmp_path / "out", [path], model_folder)
    assert not (tmp_path / "out" / "latest.json").exists()


def test_an_object_whose_time_says_nothing_is_digested_again(ray_session, tmp_path, monkeypatch):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "Copy.", "output": "a"}])
    planned_chunks = [replace(chunk, version=None) for chunk in planned(path)]
    before = snapshot.take_snapshot(Reporter(quiet=True), planned_chunks)
    monkeypatch.setattr(snapshot, "is_url", lambda uri: True)
    snapshot.require_same_content(Reporter(quiet=True), planned_chunks, before)
    rewritten(path)
    with pytest.raises(RunFailed, match=r"rows\.jsonl has changed while it was read"):
        snapshot.require_same_content(Reporter(quiet=True), planned_chunks, before)


def test_thousands_of_small_files_are_few_tasks_and_parts(ray_session, model_folder, tmp_path):
    (tmp_path / "rows").mkdir()
    for number in range(300):
        row = {"instruction": f"Copy {number % 7}.", "output": f"{number}"}
        write_jsonl(tmp_path / "rows" / f"{number:04d}.jsonl", [row])
    done = run(tmp_path / "out", [tmp_path / "rows"], model_folder)
    counts = manifest_of(done)["counts"]
    assert counts["read"] == counts["scored"] == 300 and len(counts["sources"]) == 300
    packs = job.packed(planned(tmp_path / "rows"), lambda chunk: chunk.size, 1 << 20, together=100)
    assert packs.materialize().num_blocks() == 3


def test_large_files_and_blocks_that_were_asked_for_are_read_apart(ray_session):
    def of(size, kind="parquet"):
        return [chunks.Chunk("f", kind, None, "s", None, 0, 0, size, start=i, stop=i + 1) for i in range(4)]

    apart = [in_packs(of(64 << 20), "auto"), in_packs(of(64 << 20, "saved"), "auto"), in_packs(of(100), 4)]
    assert [packs.materialize().num_blocks() for packs in apart] == [4, 4, 4]
    assert in_packs(of(100), "auto").materialize().num_blocks() == 1


def test_packs_keep_order_and_room(ray_session):
    values = [5, 5, 1, 20, 3, 3, 3, 3]
    blocks = [block["item"].to_pylist() for block in ray.get(job.packed(values, int, 10, 3).to_arrow_refs())]
    assert [[int(value) for value in block] for block in blocks] == [[5, 5], [1], [20], [3, 3, 3], [3]]
