"""Iceberg tables: the rows of the current snapshot, and what is refused because its Parquet files alone do not give them."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from read_files import plan, rows_of

from pipeline.errors import BadRequest
from pipeline.reading import iceberg


def rows(*names, **more):
    return pa.table({"instruction": [*names], "output": ["Y"] * len(names), **more})


def instructions(path):
    return sorted(row.record["instruction"] for row in rows_of({"path": str(path)}))


def refused(path, words):
    with pytest.raises(BadRequest, match=words):
        plan({"path": str(path)})


@pytest.fixture
def catalog(tmp_path):
    pytest.importorskip("pyiceberg")
    pytest.importorskip("sqlalchemy")
    from pyiceberg.catalog.sql import SqlCatalog

    made = SqlCatalog("test", uri="sqlite:///:memory:", warehouse=f"file://{tmp_path}/house")
    made.create_namespace("n")
    yield made
    made.close()


def create(catalog, name, *parts, **settings):
    """A table with parts that are appended one by one."""
    table = catalog.create_table(f"n.{name}", schema=parts[0].schema, **settings)
    for part in parts:
        table.append(part)
    return table


def folder_of(table):
    return Path(table.location().removeprefix("file://"))


@pytest.mark.ray  # slow
def test_the_current_snapshot_is_read(catalog, tmp_path, monkeypatch):
    table = create(catalog, "t", rows("a", "b"), rows("c"))
    table.delete("instruction = 'a'")
    folder = folder_of(table)
    monkeypatch.chdir(folder.parent)
    current = table.metadata_location.removeprefix("file://")
    for name in (folder, f"{folder}/", f"iceberg://{folder}", f"iceberg://{folder.name}", f"iceberg://{current}"):
        assert instructions(name) == ["b", "c"]
        assert {chunk.source for chunk in plan({"path": str(name)})} == {"t"}
    refused(folder.parent, r"/t is an Iceberg table; accepted: its path as an input of its own")
    write_jsonl(folder.parent / "a.jsonl", [{"instruction": "I"}])
    assert len(plan({"path": f"{folder.parent}/*.jsonl"})) == 1


def test_an_older_version_is_read_where_its_file_is_named(catalog):
    table = create(catalog, "t", rows("a"))
    before = table.metadata_location.removeprefix("file://")
    table.append(rows("b"))
    assert instructions(f"iceberg://{before}") == ["a"]


def test_columns_by_which_a_table_is_partitioned_are_in_its_files(catalog):
    part = rows("a", "b", kind=["x", "y"])
    table = catalog.create_table("n.t", schema=part.schema)
    with table.update_spec() as update:
        update.add_identity("kind")
    table.append(part)
    assert len(plan({"path": str(folder_of(table))})) == 2
    assert sorted(row.record["kind"] for row in rows_of({"path": str(folder_of(table))})) == ["x", "y"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda update: update.rename_column("output", "response"),
            r"has the column .*output.*, where the table has .*response",
        ),
        (lambda update: update.delete_column("stars"), "has the column 'stars', which the table has dropped"),
        (lambda update: update.rename_column(("turns", "element", "role"), "from"), "has the column .*turns"),
    ],
)
def test_columns_that_were_renamed_or_dropped_are_refused(catalog, change, words):
    turns = pa.array([[{"role": "user"}]])
    table = create(catalog, "t", rows("a", stars=pa.array([1], pa.int32()), turns=turns))
    with table.update_schema(allow_incompatible_changes=True) as update:
        change(update)
    refused(folder_of(table), f"an Iceberg table whose columns have changed: .*{words}")


def test_a_column_that_came_later_or_was_widened_is_read(catalog):
    from pyiceberg.types import LongType, StringType

    table = create(catalog, "t", rows("a", stars=pa.array([1], pa.int32())))
    with table.update_schema() as update:
        update.update_column("stars", LongType())
        update.add_column("input", StringType())
    table.append(rows("b", stars=pa.array([1 << 40]), input=["X"]))
    read = {row.record["instruction"]: row.record for row in rows_of({"path": str(folder_of(table))})}
    assert read["a"]["stars"] == 1 and read["b"] == {"instruction": "b", "output": "Y", "stars": 1 << 40, "input": "X"}


def test_a_column_whose_name_was_used_again_is_refused(catalog):
    from pyiceberg.types import StringType

    table = create(catalog, "t", rows("a"))
    with table.update_schema(allow_incompatible_changes=True) as update:
        update.delete_column("output")
    with table.update_schema() as update:
        update.add_column("output", StringType())
    refused(folder_of(table), "has the column 'output', which the table has dropped")


def test_files_of_another_table_are_compared_by_names(catalog, tmp_path):
    file = str(tmp_path / "moved.parquet")
    pq.write_table(rows("a"), file)
    table = create(catalog, "t", rows("b"))
    table.add_files([file])
    assert instructions(folder_of(table)) == ["a", "b"]
    with table.transaction() as change:
        change.remove_properties("schema.name-mapping.default")
    refused(folder_of(table), "moved.parquet has columns that cannot be compared with the table's .*field-ids")


def test_a_file_that_lacks_the_column_of_its_partition_is_refused(catalog):
    part = rows("a", kind=["x"])
    table = catalog.create_table("n.t", schema=part.schema)
    with table.update_spec() as update:
        update.add_identity("kind")
    table.append(part)
    (file,) = iceberg.files_of_table(str(folder_of(table)))
    written = pq.read_table(file)
    pq.write_table(written.drop_columns(["kind"]), file)
    refused(folder_of(table), "lacks the column 'kind', by which the table is partitioned")


def test_a_file_that_is_gone_is_named(catalog):
    table = create(catalog, "t", rows("a"))
    (file,) = iceberg.files_of_table(str(folder_of(table)))
    Path(file).unlink()
    refused(folder_of(table), f"'{file}' is no such file")


def test_a_table_without_rows_is_named(catalog):
    table = catalog.create_table("n.t", schema=rows("a").schema)
    refused(folder_of(table), "it is a table without rows")


def add_deletes(table, kind):
    """Add a file of deleted rows to the current snapshot, as other writers do; pyiceberg rewrites the files of data."""
    from pyiceberg import manifest as manifests
    from pyiceberg.typedef import Record

    class Writer(manifests.ManifestWriterV2):
        def content(self):
            return manifests.ManifestContent.DELETES

    snapshot = table.current_snapshot()
    number, place = snapshot.snapshot_id, Path(snapshot.manifest_list.removeprefix("file://"))
    deletes = manifests.DataFile.from_args(
        content=manifests.DataFileContent[kind],
        file_path=f"{place.parent}/deletes.parquet",
        file_format=manifests.FileFormat.PARQUET,
        partition=Record(),
        record_count=1,
        file_size_in_bytes=1,
    )
    entry = manifests.ManifestEntry.from_args(
        status=manifests.ManifestEntryStatus.ADDED, snapshot_id=number, data_file=deletes
    )
    output = table.io.new_output(f"{place.parent}/deletes.avro")
    with Writer(table.spec(), table.schema(), output, number, "null") as writer:
        writer.add_entry(entry)
    listed = [*snapshot.manifests(table.io), writer.to_manifest_file()]
    place.unlink()
    with manifests.write_manifest_list(2, table.io.new_output(str(place)), number, None, 1, "null") as writer:
        writer.add_manifests(listed)


@pytest.mark.parametrize("kind", ["POSITION_DELETES", "EQUALITY_DELETES"])
def test_deleted_rows_in_files_of_their_own_are_refused(catalog, kind):
    table = create(catalog, "t", rows("a"))
    add_deletes(table, kind)
    refused(folder_of(table), "an Iceberg table with deleted rows, which .*deletes.parquet lists")


def named(folder, *names, hint=None):
    (folder / "metadata").mkdir(parents=True)
    for name in names:
        (folder / "metadata" / name).write_text("{}")
    if hint is not None:
        (folder / "metadata" / "version-hint.text").write_text(hint)
    return iceberg.current_metadata(str(folder)).removeprefix(f"{folder}/metadata/")


@pytest.mark.parametrize(
    ("names", "hint", "current"),
    [
        (["v1", "v2", "v10"], None, "v10"),
        (["00001-b", "00002-a", "00010-a.gz"], None, "00010-a.gz"),
        (["v1", "v2", "v4"], "1\n", "v2"),  # the hint is written after the version
        (["v1", "v2"], "2", "v2"),
        (["00001-b", "00002-a"], "00001-b", "00001-b"),
        (["00001-b", "00002-a"], "00001-b.metadata.json", "00001-b"),
    ],
)
def test_the_hint_or_the_highest_version_is_current(tmp_path, names, hint, current):
    assert named(tmp_path / "t", *(f"{name}.metadata.json" for name in names), hint=hint) == f"{current}.metadata.json"


@pytest.mark.parametrize(
    ("names", "hint", "words"),
    [
        (["00002-a", "00002-b"], None, "which of 00002-a.metadata.json, 00002-b.metadata.json describes the table now"),
        (["v1"], "3", "names the version '3', which is not in"),
        (["v1"], "../../v1", "names the version '../../v1', which is not in"),
        (["other"], None, "no .*metadata.json with a version in its name"),
    ],
)
def test_a_table_of_which_no_version_is_current_is_refused(tmp_path, names, hint, words):
    with pytest.raises(ValueError, match=words):
        named(tmp_path / "t", *(f"{name}.metadata.json" for name in names), hint=hint)


def test_a_table_does_not_say_which_code_reads_it(catalog, tmp_path, monkeypatch):
    table = create(catalog, "t", rows("a"))
    (tmp_path / "strangers_code.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    current = Path(table.metadata_location.removeprefix("file://"))
    described = json.loads(current.read_text())
    described["properties"] = {"py-io-impl": "strangers_code.IO"}
    current.write_text(json.dumps(described))
    assert instructions(folder_of(table)) == ["a"]


def test_metadata_that_cannot_be_read_are_named(catalog):
    table = create(catalog, "t", rows("a"))
    current = Path(table.metadata_location.removeprefix("file://"))
    whole = current.read_text()
    current.write_text(whole[:100])
    refused(folder_of(table), f"cannot be read as an Iceberg table: {current}")
    current.write_text(whole)
    for manifest in (folder_of(table) / "metadata").glob("*.avro"):
        manifest.write_bytes(manifest.read_bytes()[:200])
    refused(folder_of(table), "cannot be read as an Iceberg table")


def test_a_table_without_the_library_is_not_read_as_its_files(tmp_path, monkeypatch):
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "v1.metadata.json").write_text("{}")
    pq.write_table(rows("gone"), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyiceberg", None)
    refused(tmp_path, r"an Iceberg table, and pyiceberg is not installed: pip install .*\[iceberg\]")


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("file:///a/b.parquet", "/a/b.parquet"),
        ("file:/a/b.parquet", "/a/b.parquet"),
        ("/a/b.parquet", "/a/b.parquet"),
        ("s3a://bucket/b.parquet", "s3://bucket/b.parquet"),
        ("gs://bucket/b.parquet", "gs://bucket/b.parquet"),
    ],
)
def test_locations_as_writers_note_them(location, uri):
    assert iceberg.uri_of(location) == uri
