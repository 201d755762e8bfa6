"""Any mix of good and broken files of every kind: each row is read or rejected, or a file is refused by its name."""

import bz2
import csv
import gzip
import io
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from read_files import plan

from operators.normalise import normalise
from operators.rejections import Rejection
from pipeline.errors import BadRequest
from pipeline.reading.admit import UnreadableFile, _rows

PACK = {
    "": bytes,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}
# A row that no layout takes, as each kind of file can hold it.
BAD = {
    "jsonl": ['{"instruction": "I", "output": NaN}', "{no JSON", '{"instruction": "I"}', '"text"'],
    "array": [
        '{"instruction": "I", "output": NaN}',
        '{"instruction": "I\t", "output": "Y"}',
        '{"instruction": "I"}',
        "5",
    ],
    "csv": ['I,"Y', 'I,Y "Y"', "I", "I,Y,Z", '"I" I,Y', "I,"],
}


def text_of(kind, rows):
    """A file of rows; a row is its number, or the text of a bad one."""
    if kind == "csv":
        lines = ["instruction,output\n"]
        for row in rows:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerow([f"I {row}", f'Y, "{row}"\n'])
            lines.append(row + "\n" if isinstance(row, str) else text.getvalue())
        return "".join(lines)
    values = [row if isinstance(row, str) else json.dumps({"instruction": f"I {row}", "output": "Y"}) for row in rows]
    if kind == "jsonl":
        return "".join(value + "\n" for value in values)
    array = "[" + ",\n".join(values) + "]"
    return array if kind == "array" else '{"name": "x", "data": ' + array + "}"


@st.composite
def files(draw):
    """(name, bytes, numbers of its good rows, bad rows, whether it is whole)."""
    kind = draw(st.sampled_from(["jsonl", "array", "object", "csv", "parquet"]))
    good = draw(st.integers(1, 4))
    if kind == "parquet":
        file = io.BytesIO()
        pq.write_table(pa.table({"instruction": [f"I {i}" for i in range(good)], "output": ["Y"] * good}), file)
        name, data, bad = ".parquet", file.getvalue(), 0
    else:
        more = draw(st.lists(st.sampled_from(BAD["array" if kind == "object" else kind]), max_size=2))
        rows = draw(st.permutations([*range(good), *more]))
        if kind == "object" and isinstance(rows[0], str):
            rows = [0, *(row for row in rows if row != 0)]
        name = {"jsonl": ".jsonl", "csv": ".csv"}.get(kind, ".json")
        packing = draw(st.sampled_from(sorted(PACK)))
        data, bad, name = PACK[packing](text_of(kind, rows).encode()), len(more), name + packing
        good = [row for row in rows if not isinstance(row, str)]
    whole = True
    match draw(st.sampled_from(["whole", "whole", "cut", "stand-in"])):
        case "cut":
            # Packed files, Parquet and JSON arrays show any cut; of lines only one within a row can be told.
            cut = draw(st.integers(1, len(data) - 1))
            if name in (".jsonl", ".csv"):
                cut = len(data) - 3 if not bad else None
            data, whole = data[:cut], cut is None
        case "stand-in":
            data, whole = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", False
    return name, data, list(range(good)) if kind == "parquet" else good, bad, whole


@pytest.mark.ray  # slow
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=150)
@given(st.lists(files(), min_size=1, max_size=4))
def test_all_rows_are_accounted_for_or_a_broken_file_is_named(tmp_path_factory, mix):
    folder = tmp_path_factory.mktemp("mix")
    for number, (name, data, *_) in enumerate(mix):
        (folder / f"{number}{name}").write_bytes(data)
    broken = [f"{folder}/{number}{name}" for number, (name, *_, whole) in enumerate(mix) if not whole]
    try:
        rows = [(chunk.uri, unread.read(), chunk) for chunk in plan({"path": str(folder)}) for unread in _rows(chunk)]
    except (BadRequest, UnreadableFile) as refused:
        assert any(path in str(refused) for path in broken), refused
        return
    assert not broken
    for number, (name, _, good, bad, _) in enumerate(mix):
        instructions, rejected = [], 0
        for uri, row, chunk in rows:
            if uri != f"{folder}/{number}{name}":
                continue
            try:
                if row.problem is not None:
                    raise row.problem
                instructions.append(normalise(row.record, chunk.columns).instruction)
            except Rejection:
                rejected += 1
        assert (instructions, rejected) == ([f"I {row}" for row in good], bad)


def test_parquet_with_two_columns_of_one_name_is_refused(tmp_path):
    table = pa.Table.from_arrays(
        [pa.array(["I"]), pa.array(["Y"]), pa.array(["Z"])], ["instruction", "output", "output"]
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UnreadableFile, match=r"a\.parquet cannot be read whole: two columns have the name 'output'"):
        [row for chunk in plan({"path": str(tmp_path)}) for row in _rows(chunk)]


def test_files_without_rows_are_among_the_inputs(tmp_path):
    pq.write_table(pa.table({"instruction": ["I"]}), tmp_path / "a.parquet")
    with pq.ParquetWriter(tmp_path / "b.parquet", pa.schema([("instruction", pa.string())])):
        pass
    (tmp_path / "c.jsonl").write_text("")
    planned = plan({"path": str(tmp_path)})
    assert [chunk.source for chunk in planned] == ["a", "b", "c"]
    assert [len(list(_rows(chunk))) for chunk in planned] == [1, 0, 0]


CUT = ['{"instruction": "I", "outp', '{"instruction": "I", "output": "Y', '{"a": tru', '{"a": 1.', '{"a": "\\u12']


@pytest.mark.parametrize("end", CUT)
def test_json_lines_that_end_within_a_row_break_off(tmp_path, end):
    (tmp_path / "a.jsonl").write_text('{"instruction": "I", "output": "Y"}\n' + end)
    for blocks in (1, 2):
        with pytest.raises(UnreadableFile, match=r"a\.jsonl cannot be read whole: it breaks off in line"):
            [row for chunk in plan({"path": str(tmp_path)}, blocks=blocks) for row in _rows(chunk)]
    # A line with an end, or of which no further text would make JSON, is a row that is no JSON.
    for line in (end + "\n", "no JSON", '{"a": 1} more', "{no JSON"):
        (tmp_path / "a.jsonl").write_text(line)
        (row,) = [row.read() for chunk in plan({"path": str(tmp_path)}) for row in _rows(chunk)]
        assert row.problem.reason == "malformed_json"
