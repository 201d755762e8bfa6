"""Tables whose folders hold more rows than the tables do."""

import datetime
import sys
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from read_files import plan, rows_of

from pipeline.errors import BadRequest
from pipeline.reading.chunks import Chunk
from pipeline.reading.snapshot import DigestedPiece, join_pieces, same_content
from pipeline.storage.records import from_json, to_json


def instructions(path):
    return sorted(row.record["instruction"] for row in rows_of({"path": str(path)}))


def table(*names, **more):
    return pa.table({"instruction": [*names], "output": ["Y"] * len(names), **more})


def test_a_delta_table_is_read_as_it_is_now(tmp_path, monkeypatch):
    deltalake = pytest.importorskip("deltalake")
    path = tmp_path / "rows"
    deltalake.write_deltalake(str(path), table("a", "b"))
    deltalake.write_deltalake(str(path), table("c", stars=[5]), mode="append", schema_mode="merge")
    deltalake.DeltaTable(str(path)).delete("instruction = 'a'")
    monkeypatch.chdir(tmp_path)
    for name in (path, f"delta://{path}", "delta://rows", f"{path}/"):
        assert instructions(name) == ["b", "c"]
    assert {chunk.source for chunk in plan({"path": str(path)})} == {"rows"}
    with pytest.raises(BadRequest, match=r"rows is a Delta table; accepted: its path as an input of its own"):
        plan({"path": str(tmp_path)})
    write_jsonl(tmp_path / "a.jsonl", [{"instruction": "I"}])
    assert len(plan({"path": f"{tmp_path}/*.jsonl"})) == 1


def test_columns_by_which_a_delta_table_is_partitioned_are_read(tmp_path):
    deltalake = pytest.importorskip("deltalake")
    columns = {
        "kind": ["x/ %é=1", "y", None],
        "day": [datetime.date(2020, 1, 2)] * 3,
        "stars": pa.array([1, 20, 3], pa.int32()),
        "good": [True, False, None],
    }
    written = table("a", "b", "c", **columns)
    deltalake.write_deltalake(str(tmp_path / "t"), written, partition_by=list(columns))
    for path in (tmp_path / "t", f"delta://{tmp_path / 't'}"):
        read = sorted((row.record for row in rows_of({"path": str(path)})), key=lambda row: row["instruction"])
        assert read == [{**row, "day": "2020-01-02"} for row in written.to_pylist()]
    planned = plan({"path": str(tmp_path / "t")})
    assert [from_json(Chunk, to_json(chunk)) for chunk in planned] == planned
    (x,) = (chunk for chunk in planned if chunk.partition["stars"] == 1)
    other = replace(x, partition={**x.partition, "kind": "z"})
    digest = DigestedPiece(x.uri, x.uri, 0, "d")
    assert same_content(join_pieces([x], [digest])) != same_content(join_pieces([other], [digest]))


def test_a_delta_table_that_its_files_alone_do_not_give_is_refused(tmp_path):
    deltalake = pytest.importorskip("deltalake")
    parts = table("a", "b", share=[0.5, 1.0])
    deltalake.write_deltalake(str(tmp_path / "parts"), parts, partition_by=["share"])
    with pytest.raises(BadRequest, match="a Delta table that is partitioned by share, of type float"):
        plan({"path": str(tmp_path / "parts")})
    vectors = {"delta.enableDeletionVectors": "true"}
    deltalake.DeltaTable.create(str(tmp_path / "vectors"), table("a").schema, configuration=vectors)
    with pytest.raises(BadRequest, match="a Delta table with deletionVectors"):
        plan({"path": str(tmp_path / "vectors")})
    with pytest.raises(BadRequest, match="cannot be read as a Delta table"):
        plan({"path": f"delta://{tmp_path / 'none'}"})


def test_a_delta_table_without_rows_is_named(tmp_path):
    deltalake = pytest.importorskip("deltalake")
    deltalake.DeltaTable.create(str(tmp_path / "t"), table("a").schema)
    with pytest.raises(BadRequest, match="it is a table without rows"):
        plan({"path": str(tmp_path / "t")})


def test_a_delta_table_without_the_library_is_not_read_as_its_files(tmp_path, monkeypatch):
    (tmp_path / "_delta_log").mkdir()
    pq.write_table(table("gone"), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(BadRequest, match=r"a Delta table, and deltalake is not installed: pip install .*\[delta\]"):
        plan({"path": str(tmp_path)})
