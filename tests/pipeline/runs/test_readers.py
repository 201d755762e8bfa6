"""Readers of a run that `keep_runs` removes: they have all of its rows or an error, and never some of them."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from publishing import publish_once

from pipeline.runs import publish
from pipeline.storage import files
from pipeline.storage.parts import DamagedPart, read_table, write_table

OLD, NEW = "20260101T000000-000000", "20260102T000000-000000"
ROWS, PARTS = 30_000, 3


@pytest.fixture
def run(tmp_path):
    """An old run of three parts, beside the current one."""
    for name in (OLD, NEW):
        for part in range(PARTS):
            numbers = range(part * ROWS, (part + 1) * ROWS)
            write_table(f"{tmp_path}/runs/{name}/scored/part-{part:05d}.parquet", pa.table({"n": numbers}))
        files.write(f"{tmp_path}/runs/{name}/manifest.json", b"{}")
    return tmp_path / "runs" / OLD


def remove(run):
    output = run.parents[1]
    assert publish.remove_old_runs(str(output), str(output / "runs" / NEW), None, 1) == [run.name]
    assert not run.exists() and not list(output.glob(".work/*"))


def rows_of(run):
    """How many rows a reader gets who lists the files of the run now; None where it gets an error."""
    try:
        return len(pd.read_parquet(run / "scored"))
    except FileNotFoundError:
        return None


def test_who_lists_the_files_of_a_run_while_it_goes_gets_none(run, monkeypatch):
    seen = [rows_of(run)]

    def one_by_one(folder):
        for path in sorted(Path(folder).rglob("*.*")):
            path.unlink()
            seen.append(rows_of(run))
        delete(folder)

    delete = files.delete_folder
    monkeypatch.setattr(files, "delete_folder", one_by_one)
    remove(run)
    assert seen == [PARTS * ROWS] + [None] * (PARTS + 1)


def test_who_has_listed_the_files_is_told_that_they_are_gone(run):
    dataset = ds.dataset(run / "scored")
    remove(run)
    with pytest.raises(FileNotFoundError, match=r"part-0000\d\.parquet"):
        dataset.to_table()
    with pytest.raises(FileNotFoundError):
        dataset.count_rows()
    with pytest.raises(DamagedPart, match="is gone"):
        read_table(str(run / "scored" / "part-00000.parquet"))


@pytest.mark.parametrize("mapped", [True, False])
def test_a_file_that_is_open_is_read_to_its_end(run, mapped):
    opened = pq.ParquetFile(run / "scored" / "part-00001.parquet", memory_map=mapped)
    remove(run)
    assert opened.read()["n"].to_pylist() == list(range(ROWS, 2 * ROWS))


def test_what_a_process_that_died_has_put_aside_goes_with_the_next_command(run, monkeypatch):
    output = run.parents[1]
    monkeypatch.setattr(files, "delete_folder", lambda folder: None)
    publish.remove_old_runs(str(output), str(output / "runs" / NEW), None, 1)
    assert not run.exists() and list((output / ".work").iterdir())
    monkeypatch.undo()
    publish_once(str(output), "another request")
    assert not (output / ".work").exists()
