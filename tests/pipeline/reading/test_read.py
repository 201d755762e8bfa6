"""Every kind of file gives the same rows at the right lines, in any number of chunks, and a bad row never ends a read."""

import bz2
import csv
import gzip
import json
import lzma
from itertools import pairwise

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from hypothesis import given
from hypothesis import strategies as st
from read_files import plan, rows_of

from pipeline.errors import BadRequest
from pipeline.reading import admit, chunks, readers, text_files

ROWS = [{"instruction": f"I {i}", "input": None if i < 3 else "x", "output": f"Y\n{i}"} for i in range(10)]


def write_all_kinds(folder):
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "a.jsonl").write_text(text)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    with pa.CompressedOutputStream(str(folder / "c.jsonl.zst"), "zstd") as file:
        file.write(text.encode())
    (folder / "d.json").write_text(json.dumps(ROWS, indent=1))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "e.parquet", row_group_size=4)
    for name, delimiter in (("f.csv", ","), ("g.csv", ";"), ("h.csv", "\t"), ("i.tsv", "\t")):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, ["instruction", "input", "output"], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
    (folder / "j.jsonl.bz2").write_bytes(bz2.compress(text.encode()))
    (folder / "k.json.xz").write_bytes(lzma.compress(json.dumps(ROWS).encode()))
    (folder / "l.json").write_text(json.dumps({"version": 1, "data": ROWS, "tags": ["a"]}))
    datasets.Dataset.from_list(ROWS).save_to_disk(folder / "saved")


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    write_all_kinds(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 13
    for name in names:
        rows = rows_of({"path": str(tmp_path / name)})
        assert [{**row.record, "input": row.record["input"] or None} for row in rows] == ROWS, name
        assert all(row.problem is None for row in rows)
    assert [row.line for row in rows_of({"path": str(tmp_path / "f.csv")})][:3] == [2, 4, 6]  # an output has two lines


def test_sources_are_named_by_stem_or_by_the_user(tmp_path):
    write_all_kinds(tmp_path)
    assert {chunk.source for chunk in plan({"path": str(tmp_path / "[ab].*")})} == {"a", "b"}
    assert {chunk.source for chunk in plan({"path": str(tmp_path / "a.jsonl"), "source": "mine"})} == {"mine"}


def test_directory_is_read_in_order_and_hidden_files_are_not(tmp_path):
    write_jsonl(tmp_path / "b.jsonl", ROWS[:2])
    write_jsonl(tmp_path / "a.jsonl", ROWS[2:4])
    write_jsonl(tmp_path / ".c.jsonl", ROWS[4:])
    (tmp_path / "notes.txt").write_text("no rows")
    assert [row.record["instruction"] for row in rows_of({"path": str(tmp_path)})] == ["I 2", "I 3", "I 0", "I 1"]


@given(
    st.lists(st.sampled_from(["", "{}", '{"a": "\u00e9\u4e2d"}', "x" * 30, "\r"]), max_size=12),
    st.integers(1, 9),
    st.booleans(),
)
def test_any_cut_into_byte_ranges_reads_every_line_once(lines, pieces, final_newline):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        data = "\n".join(lines).encode() + (b"\n" if final_newline else b"")
        path = Path(folder) / "a.jsonl"
        path.write_bytes(data)
        edges = [len(data) * i // pieces for i in range(pieces + 1)]
        got, line = [], 1
        for start, stop in pairwise(edges):
            if stop > start:
                chunk = chunks.Chunk(
                    str(path), "jsonl", None, "s", None, 0, 0, len(data), start=start, stop=stop, first_line=line
                )
                line += text_files.count_lines(chunk)
                got += [(row.line, row.read().raw) for row in readers.read_chunk(chunk)]
        whole = chunks.Chunk(str(path), "jsonl", None, "s", None, 0, 0, len(data))
        assert got == [(row.line, row.read().raw) for row in readers.read_chunk(whole)]


def test_bad_lines_have_reason_and_line(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_ROW_BYTES", 200)
    path = write_jsonl(
        tmp_path / "a.jsonl",
        [
            ROWS[0],
            "{not json",
            "",
            b'{"instruction": "\xff", "output": "Y"}',
            '{"a": NaN}',
            "[" * 150,
            "x" * 500,
            "5",
            ROWS[1],
        ],
    )
    rows = rows_of({"path": str(path)})
    assert [(row.line, row.problem.reason if row.problem else None) for row in rows] == [
        (1, None),
        (2, "malformed_json"),
        (4, "invalid_utf8"),
        (5, "malformed_json"),
        (6, "malformed_json"),
        (7, "row_too_large"),
        (8, None),
        (9, None),
    ]
    for row in rows:
        json.loads(row.raw) if row.problem else None


def test_a_deeply_nested_line_is_malformed(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["[" * 200_000 + "]" * 200_000, ROWS[0]])
    assert [row.problem.reason if row.problem else None for row in rows_of({"path": str(path)})] == [
        "malformed_json",
        None,
    ]


def test_a_byte_order_mark_is_not_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS[0]).encode())
    assert rows_of({"path": str(path)})[0].record == ROWS[0]


def test_splits_of_a_saved_dataset(tmp_path):
    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS[:4]), "test": datasets.Dataset.from_list(ROWS[4:])}
    ).save_to_disk(tmp_path / "d")
    assert len(rows_of({"path": str(tmp_path / "d"), "split": "test"}, blocks=3)) == 6
    with pytest.raises(BadRequest, match="no split 'dev'; accepted: train, test"):
        plan({"path": str(tmp_path / "d"), "split": "dev"})


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("none.jsonl", "no such file"),
        ("*.jsonl", "no such file"),
        ("empty.jsonl", "not one byte"),
        ("notes.txt", "unknown kind"),
        ("folder", "no file of a known kind"),
        ("bad.parquet", "not a Parquet file"),
        ("nowhere://a/b.jsonl", "cannot be read"),
    ],
)
def test_inputs_that_are_not_there(tmp_path, path, words):
    (tmp_path / "empty.jsonl").write_text("") if path != "*.jsonl" else None
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "bad.parquet").write_text("no parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadRequest, match=words):
        plan({"path": path if "://" in path else str(tmp_path / path)})


def test_an_unreachable_hub_is_said_in_words():
    with pytest.raises(BadRequest, match="hub"):
        plan({"path": "hf://datasets/owner/no-such-dataset"})


def test_an_object_store_is_read_like_a_disk(tmp_path, object_store):
    """Over the real protocol, from a server on this machine."""
    write_all_kinds(tmp_path)
    for name in ("a.jsonl", "b.jsonl.gz", "e.parquet"):
        with object_store.open_output_stream(f"bucket/deep/{name}", compression=None) as file:
            file.write((tmp_path / name).read_bytes())
    for path, times in (("deep/a.jsonl", 1), ("deep/*.gz", 1), ("deep/e.parquet", 1), ("deep", 3)):
        assert [row.record for row in rows_of({"path": f"s3://bucket/{path}"}, blocks=3)] == ROWS * times
    assert [chunk.source for chunk in plan({"path": "s3://bucket/deep"})] == ["a", "b", "e"]
    with pytest.raises(BadRequest, match="no such file"):
        plan({"path": "s3://bucket/none.jsonl"})


@pytest.mark.ray  # slow
def test_parquet_that_is_small_on_disk_is_decoded_a_few_rows_at_a_time(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"instruction": ["I"] * 40, "output": ["Y" * 5_000_000] * 40}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    before = most = pa.total_allocated_bytes()
    rows = 0
    for chunk in plan({"path": str(path)}, blocks=1):
        for batch in admit._batches(readers.read_chunk(chunk)):
            rows += len(batch)
            most = max(most, pa.total_allocated_bytes())
            del batch
    assert rows == 40 and most - before < 120_000_000  # a batch, and what is decoded for the next; all rows are 200 MB
