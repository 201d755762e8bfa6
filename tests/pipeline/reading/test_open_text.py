"""Text files are what their first bytes say: unpacked, recoded, or refused by the name of what they are."""

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_files import plan, rows_of

from pipeline.errors import BadRequest
from pipeline.reading.chunks import Chunk
from pipeline.reading.open_text import open_text

ROWS = [{"instruction": f"I {i}", "output": "Zürich 中 😀"} for i in range(5)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = "instruction\toutput\n" + "".join(f"{row['instruction']}\t{row['output']}\n" for row in ROWS)
PACK = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def read(path, data):
    path.write_bytes(data)
    return [row.record for row in rows_of({"path": str(path)})]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize(("name", "text"), [("a.jsonl", LINES), ("a.json", json.dumps(ROWS)), ("a.csv", CSV)])
def test_text_with_a_byte_order_mark_is_read(tmp_path, encoding, name, text):
    mark = "\ufeff" if encoding.endswith("be") else ""
    data = (mark + text).encode(encoding)
    assert read(tmp_path / name, data) == ROWS
    assert read(tmp_path / f"{name}.gz", gzip.compress(data)) == ROWS
    if encoding != "utf-8-sig":
        with pytest.raises(OSError, match=r"UTF-(16|32) breaks off or is damaged"):
            read(tmp_path / name, data[:-1])


def test_text_in_utf_16_is_not_cut_into_byte_ranges(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(LINES.encode("utf-16"))
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(LINES.encode()))
    for name in ("a.jsonl", "b.jsonl"):
        assert [row.record for row in rows_of({"path": str(tmp_path / name)}, blocks=4)] == ROWS


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_named(tmp_path, encoding):
    with pytest.raises(OSError, match=r"UTF-16 without a byte order mark; accepted: UTF-8"):
        read(tmp_path / "a.jsonl", LINES.encode(encoding))


@pytest.mark.parametrize(("text", "name"), [("Zürich", "Latin-1"), ("a “quote”", "Windows-1252")])
def test_latin_1_is_named(tmp_path, text, name):
    data = json.dumps({"instruction": text, "output": "Y"}, ensure_ascii=False).encode("cp1252")
    for path, content in (
        ("a.jsonl", data + b"\n"),
        ("a.csv", b"instruction,output\n" + text.encode("cp1252") + b",Y\n"),
    ):
        (tmp_path / path).write_bytes(content)
        (row,) = rows_of({"path": str(tmp_path / path)})
        assert row.problem.reason == "invalid_utf8" and f"is the file {name}?" in row.problem.detail


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz"])
def test_a_packed_file_is_told_by_its_first_bytes(tmp_path, kind, name):
    assert read(tmp_path / name, PACK[kind](LINES.encode())) == ROWS


@pytest.mark.parametrize("kind", PACK)
def test_several_streams_in_a_file_are_read(tmp_path, kind):
    packed = PACK[kind](LINES.encode())
    assert read(tmp_path / f"a.jsonl.{kind}", packed + packed) == ROWS * 2


@pytest.mark.parametrize("kind", PACK)
@given(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=40))
def test_a_packed_file_is_read_whole_or_not_at_all(tmp_path_factory, kind, share, more):
    path = tmp_path_factory.mktemp("packed") / f"a.jsonl.{kind}"
    packed = PACK[kind](LINES.encode())
    for data in (packed[: int(share * len(packed))], packed + more):
        path.write_bytes(data)
        with pytest.raises(OSError), open_text(Chunk(str(path), "jsonl", kind, "s", None, 0, 0, 1)) as file:
            file.read()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "an HTML page"),
        (b"<html>\n", "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b"PK\x03\x04rest", "a ZIP archive"),
        (b"PAR1rest", r"a Parquet file.*\.parquet"),
    ],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.jsonl.gz", "a.parquet"])
def test_what_stands_in_place_of_a_file_is_named(tmp_path, data, words, name):
    if name == "a.parquet" and data.startswith(b"PAR1"):
        words = "not a Parquet file"
    with pytest.raises((OSError, BadRequest), match=words):
        read(tmp_path / name, data)
    with pytest.raises((OSError, BadRequest), match=words):
        read(tmp_path / name, gzip.compress(data)) if "parquet" not in name else plan({"path": str(tmp_path / name)})


def test_a_name_that_says_packed_is_held_to_it(tmp_path):
    with pytest.raises(OSError, match="its name says gzip, and it does not begin as gzip does"):
        read(tmp_path / "a.jsonl.gz", LINES.encode())
