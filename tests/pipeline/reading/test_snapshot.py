"""The snapshot is of the files as workers see them: the driver of a cluster may see none."""

import datasets
import pytest

from pipeline import read_config
from pipeline.engine.progress import Reporter
from pipeline.reading import chunks, snapshot


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
