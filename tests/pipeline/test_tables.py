"""A run over tables of Delta, Iceberg and Lance is a run over their rows."""

import json

import pyarrow as pa
import pytest
from conftest import write_jsonl
from small_runs import corpus, manifest_of, run, table


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """The paths of three tables, and the rows of each."""
    deltalake, lance = pytest.importorskip("deltalake"), pytest.importorskip("lance")
    pytest.importorskip("pyiceberg")
    pytest.importorskip("sqlalchemy")
    from pyiceberg.catalog.sql import SqlCatalog

    folder = tmp_path_factory.mktemp("tables")
    parts = [pa.Table.from_pylist([{"task": None, **row} for row in corpus(20, seed)]) for seed in range(3)]
    deltalake.write_deltalake(str(folder / "delta"), parts[0], partition_by=["stars"])
    catalog = SqlCatalog("test", uri="sqlite:///:memory:", warehouse=f"file://{folder}")
    catalog.create_namespace("n")
    catalog.create_table("n.iceberg", schema=parts[1].schema).append(parts[1])
    catalog.close()
    lance.write_dataset(parts[2], folder / "lance")
    lance.dataset(folder / "lance").delete("stars = 4")
    rows = [part.to_pylist() for part in parts]
    rows[2] = [row for row in rows[2] if row["stars"] != 4]
    return [folder / "delta", folder / "n" / "iceberg", folder / "lance"], rows


def kept(folder):
    """Rows by their ids, with the columns that went along; a table has a null where a line has nothing."""
    return sorted(
        (row["id"], row["source"], [pair for pair in json.loads(row["extra"] or "{}").items() if pair[1] is not None])
        for row in table(folder, "scored")
    )


def test_a_run_over_tables_is_a_run_over_their_rows(ray_session, tables, model_folder, tmp_path):
    paths, rows = tables
    names = [write_jsonl(tmp_path / f"{path.name}.jsonl", lines) for path, lines in zip(paths, rows, strict=True)]
    of_tables = run(tmp_path / "a", paths, model_folder)
    of_lines = run(tmp_path / "b", names, model_folder)
    counts = manifest_of(of_tables)["counts"]
    assert counts == manifest_of(of_lines)["counts"] and counts["read"] == sum(map(len, rows))
    assert kept(of_tables) == kept(of_lines)
    kinds = {file["source"]: file["read"]["kind"] for file in manifest_of(of_tables)["inputs"]}
    assert kinds == {"delta": "parquet", "iceberg": "parquet", "lance": "lance"}
