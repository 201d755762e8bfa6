"""Lance datasets: the rows that they have at the version that was listed, in their order."""

import sys

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from read_files import plan, rows_of

from pipeline.errors import BadRequest
from pipeline.reading import chunks, readers, snapshot


@pytest.fixture(scope="module")
def lance():
    return pytest.importorskip("lance")


def rows(*names, **more):
    return pa.table({"instruction": [*names], "output": ["Y"] * len(names), **more})


def instructions(path, blocks="auto"):
    return [row.record["instruction"] for row in rows_of({"path": str(path)}, blocks=blocks)]


def refused(path, words):
    with pytest.raises(BadRequest, match=words):
        plan({"path": str(path)})


def test_a_dataset_is_read_as_it_is_now(lance, tmp_path, monkeypatch):
    path = tmp_path / "in here" / "rows #1?%20.lance"
    lance.write_dataset(rows("c", "a", "b"), path)
    lance.write_dataset(rows("e", "d"), path, mode="append")
    lance.dataset(path).delete("instruction IN ('a', 'e')")
    lance.dataset(path).add_columns({"stars": "5"})
    monkeypatch.chdir(path.parent)
    for name in (path, f"lance://{path}", f"lance://{path.name}", f"{path}/"):
        assert instructions(name) == ["c", "b", "d"]
        assert {chunk.source for chunk in plan({"path": str(name)})} == {"rows #1?%20"}
    assert [row.record["stars"] for row in rows_of({"path": str(path)})] == [5, 5, 5]
    refused(path.parent, r"rows .*\.lance is a Lance dataset; accepted: its path as an input of its own")


@settings(max_examples=20, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    deleted=st.sets(st.integers(0, 35)),
    blocks=st.integers(1, 7),
)
def test_chunks_are_all_rows_that_are_left_once_and_in_order(lance, tmp_path_factory, sizes, deleted, blocks):
    path = tmp_path_factory.mktemp("lance") / "t"
    names = [str(number) for number in range(sum(sizes))]
    for part, size in enumerate(sizes):
        start = sum(sizes[:part])
        lance.write_dataset(rows(*names[start : start + size]), path, mode="append" if part else "create")
    gone = {name for name in names if int(name) in deleted}
    if gone:
        lance.dataset(path).delete(f"instruction IN ({', '.join(repr(name) for name in sorted(gone))})")
    left = [name for name in names if name not in gone]
    read = [row.read() for chunk in plan({"path": str(path)}, blocks=blocks) for row in readers.read_chunk(chunk)]
    assert [row.record["instruction"] for row in read] == left
    assert [row.line for row in read] == list(range(1, len(left) + 1))


def test_the_version_that_was_listed_is_read_and_a_later_one_is_named(lance, tmp_path):
    lance.write_dataset(rows("a"), tmp_path / "t")
    (chunk,) = plan({"path": str(tmp_path / "t")})
    before = digest(chunk)
    lance.write_dataset(rows("b"), tmp_path / "t", mode="overwrite")
    assert [row.read().record["instruction"] for row in readers.read_chunk(chunk)] == ["a"]
    with pytest.raises(chunks.ChangedInput, match="t has changed since the run began"):
        chunks.require_unchanged(chunk)
    (chunk,) = plan({"path": str(tmp_path / "t")})
    assert digest(chunk) != before


def digest(chunk):
    pieces = snapshot.pieces_of([chunk])
    assert {piece.uri.rpartition("/")[2].rpartition(".")[2] for piece in pieces} >= {"lance", "manifest"}
    digested = [snapshot.DigestedPiece(p.of.uri, p.uri, p.start, snapshot._digest(p)) for p in pieces]
    (file,) = snapshot.join_pieces([chunk], digested)
    assert file.read.kind == "lance"
    return file.digest


def test_a_dataset_whose_rows_are_all_deleted_is_an_input_without_rows(lance, tmp_path):
    lance.write_dataset(rows("a"), tmp_path / "t")
    lance.dataset(tmp_path / "t").delete("true")
    assert instructions(tmp_path / "t") == []
    assert len(plan({"path": str(tmp_path / "t")})) == 1


def test_a_file_that_breaks_off_is_named(lance, tmp_path):
    lance.write_dataset(rows("a", "b"), tmp_path / "t")
    (file,) = (tmp_path / "t" / "data").iterdir()
    file.write_bytes(file.read_bytes()[:-50])
    (chunk,) = plan({"path": str(tmp_path / "t")})
    with pytest.raises((OSError, pa.ArrowException)):
        list(readers.read_chunk(chunk))


def test_a_dataset_that_is_none_is_refused(lance, tmp_path):
    refused(f"lance://{tmp_path / 'none'}", "cannot be read as a Lance dataset: .*none was not found")
    (tmp_path / "t" / "_versions").mkdir(parents=True)
    (tmp_path / "t" / "_versions" / "1.manifest").write_bytes(b"no manifest")
    refused(tmp_path / "t", "cannot be read as a Lance dataset")
    refused("lance://s3://bucket/rows.lance", "a Lance dataset in an object store; accepted: one on a disk")


def test_a_clone_whose_rows_lie_in_another_folder_is_refused(lance, tmp_path):
    lance.write_dataset(rows("a"), tmp_path / "t").tags.create("now", 1)
    lance.dataset(tmp_path / "t").shallow_clone(tmp_path / "clone", "now")
    refused(tmp_path / "clone", "a Lance dataset with rows in other folders")


def test_a_dataset_without_the_library_is_not_passed_over(tmp_path, monkeypatch):
    (tmp_path / "t" / "_versions").mkdir(parents=True)
    (tmp_path / "t" / "_versions" / "1.manifest").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "lance", None)
    refused(tmp_path / "t", r"a Lance dataset, and pylance is not installed: pip install .*\[lance\]")
    refused(tmp_path, "t is a Lance dataset")
