"""An output that is moved, linked, closed or put back from a backup while a run is about to publish."""

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from publishing import publish_once, require_whole

from operators.schema import STORED
from pipeline.errors import RunFailed
from pipeline.runs import publish
from pipeline.storage import computed, files, urls


@pytest.fixture
def output(tmp_path):
    """An output with a published run."""
    publish_once(str(tmp_path / "out"), "first")
    return tmp_path / "out"


def meanwhile(monkeypatch, happens):
    """Something happens when all parts of a run are made, and its manifest is not written yet."""
    sealed = publish.sealed

    def then(manifest):
        monkeypatch.setattr(publish, "sealed", sealed)
        happens()
        return sealed(manifest)

    monkeypatch.setattr(publish, "sealed", then)


def test_an_output_that_was_moved_away_is_as_it_was_and_nothing_new_takes_its_place(output, tmp_path, monkeypatch):
    before = urls.name_of(require_whole(str(output)))
    meanwhile(monkeypatch, lambda: output.rename(tmp_path / "moved"))
    with pytest.raises((RunFailed, OSError)):
        publish_once(str(output), "second")
    assert urls.name_of(require_whole(str(tmp_path / "moved"))) == before
    assert not (output / "latest.json").exists() and not (output / "runs").exists()
    shutil.rmtree(tmp_path / "moved" / ".lock")  # the claim of this process, which elsewhere would have ended
    publish_once(str(tmp_path / "moved"), "second")
    assert urls.name_of(require_whole(str(tmp_path / "moved"))) > before


def test_an_output_that_became_a_link_is_published_into(output, tmp_path, monkeypatch):
    before = require_whole(str(output))

    def link():
        output.rename(tmp_path / "moved")
        output.symlink_to(tmp_path / "moved")

    meanwhile(monkeypatch, link)
    publish_once(str(output), "second")
    assert require_whole(str(output)) > before
    assert urls.name_of(require_whole(str(output))) == urls.name_of(require_whole(str(tmp_path / "moved")))


def test_a_backup_that_was_put_back_is_gone_on_from(output, tmp_path):
    """Runs and pointer are older than the store, and than the pointer's newest number."""
    shutil.copytree(output, tmp_path / "backup")
    for request in ("second", "third"):
        publish_once(str(output), request)
        files.write(str(output / "likelihoods" / "a" / urls.name_of(require_whole(str(output))) / "part"), b"")
    newest = urls.name_of(require_whole(str(output)))
    shutil.rmtree(output / "runs")
    shutil.copytree(tmp_path / "backup" / "runs", output / "runs")
    shutil.copy(tmp_path / "backup" / "latest.json", output / "latest.json")
    assert urls.name_of(require_whole(str(output))) < newest
    publish_once(str(output), "fourth")
    assert urls.name_of(require_whole(str(output))) > newest
    assert files.read(str(output / "latest.json")).endswith(b'"fence": 4}\n')


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def emptied(path):
    path.write_bytes(b"")


def folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(("harm", "kept"), [(zeros, True), (emptied, True), (folder, False), (Path.unlink, False)])
def test_what_a_part_that_was_harmed_held_is_computed_again_and_the_others_are_used(tmp_path, harm, kept):
    store = computed.scorer_folder(str(tmp_path), "scorer")
    rows = [
        pa.table({"group": [b"g" * 16], "pair": [pair * 16], "tokens": [3], "sum": [-1.5]}) for pair in (b"p", b"q")
    ]
    first, second = (computed.write(f"{store}/run", table.cast(STORED)) for table in rows)
    harm(Path(first))
    read = computed.undamaged([path for path, _ in computed.parts(store)], str(tmp_path / "work"))
    assert [path for path, _ in read] == [second]
    assert Path(first + computed.DAMAGED).exists() == kept == (computed.damaged(str(tmp_path / "work")) == [first])
