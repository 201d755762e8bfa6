"""A corpus is a stranger's: whatever it holds becomes a row or a rejection, or its file is refused."""

import gzip
import io
import json
import tempfile
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from hostile_inputs import GOOD, deep
from hypothesis import example, given
from hypothesis import strategies as st

from operators.layouts import LAYOUTS, SYSTEM, TEXT_KEYS, expand
from operators.normalise import Example, normalise
from operators.prompts.conversation import turns_to_question
from operators.rejections import Rejection
from pipeline import read_config
from pipeline.errors import BadRequest
from pipeline.reading import chunks, csv_files, text_files
from pipeline.reading.admit import UnreadableFile, _rows


def admitted(path, **more):
    """Each row's line with its Example, or with the reason why there is none; an exception where the file is refused."""
    wanted = read_config.validate(
        {"input": {"path": str(path), **more}, "output": "o", "ray": {"read_blocks": 1}}, "test"
    )
    found = []
    for chunk in chunks.plan(wanted):
        for unread in _rows(chunk):
            row = unread.read()
            try:
                if row.problem is not None:
                    raise row.problem
                found.append((row.line, normalise(row.record, chunk.columns)))
            except Rejection as rejection:
                found.append((row.line, rejection.reason))
                json.loads(row.raw)
    return found


def lines_of(found):
    return [(line, "row" if isinstance(one, Example) else one) for line, one in found]


# Readers, on anything

PIECES = st.sampled_from(
    [
        b"\n",
        b"\r",
        b'"',
        b",",
        b"{",
        b"}",
        b"[",
        b"]",
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\\ud800",
        b"NaN",
        b"1e999",
        b":",
    ]
) | st.binary(max_size=6)
ANYTHING = st.lists(PIECES | st.sampled_from([json.dumps(GOOD).encode(), b'{"a": 1}\n']), max_size=12).map(b"".join)
VALID = {
    ".jsonl": b"".join(json.dumps(GOOD).encode() + b"\n" for _ in range(3)),
    ".json": json.dumps([GOOD] * 3).encode(),
    ".csv": b"instruction,input,output\r\n" + b'Sort.,"b\na",a b\r\n' * 3,
}


def packed(kind, data):
    if kind.endswith(".gz"):
        return gzip.compress(data, mtime=0)
    return pa.compress(data, "zstd", asbytes=True) if kind.endswith(".zst") else data


def parquet():
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([GOOD] * 3), file)
    return file.getvalue()


def read_or_refused(kind, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a{kind}"
        path.write_bytes(data)
        try:
            return admitted(path)
        except (BadRequest, UnreadableFile) as refused:
            assert str(path) in str(refused) and "\n" not in str(refused)
            return None


@pytest.mark.ray  # slow
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.zst", ".json.gz"])
@given(ANYTHING)
@example(b"")
@example(b"[" * 5000)
def test_any_bytes_are_rows_rejections_or_a_refused_file(kind, data):
    for content in {data, packed(kind, data)}:
        found = read_or_refused(kind, content)
        if kind.startswith(".jsonl") and content != data and data:
            # The numbers of the lines that are not blank, each once, or the file is refused.
            lines = [number for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
            assert found is None or [number for number, _ in found] == lines


@pytest.mark.ray  # slow
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".jsonl.zst", ".csv.gz"])
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from(["cut", "drop", "flip", "zero"]), st.integers(0, 255)), max_size=4
    )
)
def test_a_damaged_file_gives_rows_rejections_or_is_refused(kind, damages):
    data = parquet() if kind == ".parquet" else packed(kind, VALID["." + kind.split(".")[1]])
    intact = read_or_refused(kind, data)
    assert [one for _, one in intact] == [intact[0][1]] * 3 and isinstance(intact[0][1], Example)
    for where, what, byte in damages:
        at = int(where * len(data))
        data = {
            "cut": data[:at],
            "drop": data[:at] + data[at + 1 :],
            "flip": data[:at] + bytes([byte]) + data[at + 1 :],
            "zero": data[:at] + bytes(8) + data[at + 8 :],
        }[what]
    found = read_or_refused(kind, data)
    if found is not None:
        assert [line for line, _ in found] == sorted({line for line, _ in found})
        if kind == ".jsonl":
            assert [line for line, _ in found] == [n for n, line in enumerate(data.split(b"\n"), 1) if line.strip()]


TURN_KEYS = ["role", "content", "from", *TEXT_KEYS, "user", "assistant", "GPT", "type", "image", "tool_calls", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TURN_KEYS), inner),
    max_leaves=8,
)
NAMES = sorted(
    {
        *(name for layout in LAYOUTS for name in (layout.instruction, layout.turns, *layout.inputs, *layout.outputs)),
        *(*SYSTEM, "history", "task", "Instruction", "OUTPUT", "Definition", "Instances", "images", "audio"),
    }
)
ROLES = st.sampled_from(["user", "assistant", "human", "gpt", "System", "tool", "narrator"]) | JSON
TEXTS = st.sampled_from(["I", "Y", " "]) | JSON
PAIRS = st.fixed_dictionaries({}, optional={"user": TEXTS, "assistant": TEXTS, "system": TEXTS})
TURNS = st.lists(
    st.fixed_dictionaries({"role": ROLES, "content": TEXTS})
    | st.fixed_dictionaries({"from": ROLES, "value": TEXTS, "text": TEXTS})
    | PAIRS
    | JSON,
    max_size=4,
)
COLUMNS = [
    None,
    {"instruction": "task", "output": "x"},
    {"instruction": "prompt", "input": "input", "output": "chosen", "system": "system", "history": "history"},
    {"messages": "messages", "system": "system", "role": "x", "content": "type", "user": "I", "assistant": "GPT"},
    {"instruction": "messages", "output": "chosen", "role": "from", "content": "role"},
]
RECORDS = st.dictionaries(
    st.sampled_from(NAMES), JSON | TURNS | TURNS.map(json.dumps) | st.sampled_from(["text", "", "["]), max_size=6
)


@given(RECORDS | JSON, st.sampled_from(COLUMNS))
def test_any_record_is_an_example_or_a_rejection(record, columns):
    for row in expand(record):
        try:
            result = normalise(row, columns)
        except Rejection as rejection:
            assert rejection.reason and rejection.detail and len(rejection.detail) < 3000
            continue
        assert result.instruction.strip() and result.output.strip()
        json.loads(result.extra, parse_constant=lambda name: pytest.fail(name))
        for text in vars(result).values():
            assert text is None or text.encode().decode() == text
        if result.messages is not None:
            turns = json.loads(turns_to_question(result.messages, result.instruction))
            assert turns["question"]["role"] == "user"


@pytest.mark.ray  # slow
@given(RECORDS)
def test_nothing_of_a_record_is_lost(record):
    """Every value stands in a text, in the turns or among the other columns."""
    try:
        result = normalise(record)
    except Rejection:
        return
    texts, extra = [result.instruction, result.input, result.output], json.loads(result.extra)
    for name, value in record.items():
        for text in texts_in(value):
            kept = json.dumps([texts, json.loads(result.messages or "[]"), extra.get(name)])
            assert json.dumps(text)[1:-1] in kept, (name, text)


def texts_in(value):
    """All texts of a value, but of JSON that is text."""
    if isinstance(value, str):
        return [] if value.lstrip()[:1] == "[" else [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for item in inner for text in texts_in(item)]


# Rows

LARGE = 50_000_000


@pytest.mark.ray  # slow
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "json", "parquet"])
def test_a_row_of_50_mb_is_rejected_and_the_next_is_read(tmp_path, kind):
    large = {**GOOD, "output": "x" * LARGE}
    path = tmp_path / f"a.{kind}"
    if kind.startswith("jsonl"):
        data = f"{json.dumps(large)}\n{json.dumps(GOOD)}\n".encode()
        path.write_bytes(gzip.compress(data, 1) if kind.endswith("gz") else data)
    elif kind == "json":
        path.write_text(json.dumps([large, GOOD]))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist([large, GOOD]), path)
    else:
        path.write_text(f'instruction,output\nSort.,"{large["output"]}"\nSort.,a b\n')
    first = 2 if kind == "csv" else 1
    del large
    tracemalloc.start()
    assert lines_of(admitted(path)) == [(first, "row_too_large"), (first + 1, "row")]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    if kind in (
        "jsonl",
        "jsonl.gz",
        "csv",
    ):  # kinds that are read line by line need no more than the limit, a few times
        assert most < 5 * text_files.MAX_ROW_BYTES


def test_csv_rows_of_many_lines_have_the_same_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_files, "MAX_ROW_BYTES", 1000)
    path = tmp_path / "a.csv"
    path.write_text('instruction,output\nI,"' + "line\n" * 150 + '"\nI,"' + "line\n" * 250 + "I,Y\n")
    found = lines_of(admitted(path))
    # A quote that is not closed in so many lines may never have been meant to be: its line is rejected, and no other with it.
    assert found == [(2, "row"), *((line, "malformed_csv") for line in range(153, 403)), (403, "row")]
    path.write_text("x" * 5000 + "\nI,Y\n")
    with pytest.raises(UnreadableFile, match="header"):
        admitted(path)


@pytest.mark.ray  # slow
@pytest.mark.parametrize("depth", [200, 900, 990, 1100, 100_000])
def test_nested_bombs_are_rejected_and_the_next_row_is_read(tmp_path, depth):
    bombs = [
        deep(depth),
        deep(depth, '{"a":', "}").replace(":}", ":1}"),
        '{"instruction": "I", "output": "Y", "x": ' + deep(depth) + "}",
        '{"instruction": "I", "output": "Y", "n": 1e999, "x": ' + deep(depth) + "}",
        '{"instruction": "I", "output": ' + deep(depth) + "}",
        '{"messages": [{"role": '
        + deep(depth)
        + ', "content": "a"}, {"role": "user", "content": '
        + deep(depth)
        + "}]}",
    ]
    for bomb in bombs:
        found = lines_of(admitted(write_jsonl(tmp_path / "a.jsonl", [bomb, GOOD])))
        assert found[1:] == [(2, "row")] and found[0][1] in {
            "malformed_json",
            "wrong_type",
            "not_an_object",
            "missing_field",
        }
        (tmp_path / "a.json").write_text(f"[{bomb}]")
        ((line, reason),) = lines_of(admitted(tmp_path / "a.json"))
        assert line == 1 and reason in {"malformed_json", "wrong_type", "not_an_object", "missing_field"}


def test_a_column_may_be_nested_a_hundred_times(tmp_path):
    for depth, wanted in ((99, "row"), (100, "wrong_type")):
        text = '{"instruction": "I", "output": "Y", "x": ' + deep(depth) + "}"
        assert lines_of(admitted(write_jsonl(tmp_path / "a.jsonl", [text]))) == [(1, wanted)]


def test_parquet_columns_of_any_type(tmp_path):
    def nested(depth):
        kind, value = pa.int32(), 1
        for _ in range(depth):
            kind, value = pa.list_(kind), [value]
        return pa.array([value], kind)

    columns = {
        "beyond": pa.array([2**62], pa.timestamp("us")),
        "far": pa.array([2**30], pa.date32()),
        "binary": pa.array([b"\xff\0"]),
        "nan": pa.array([float("nan")]),
        "nested": nested(40),
        "duration": pa.array([2**62], pa.duration("us")),
        "map": pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int32())),
    }
    results = {}
    for name, values in columns.items():
        table = pa.table({"instruction": ["I"], "output": ["Y"], name: values})
        pq.write_table(table, tmp_path / "a.parquet")
        ((_, results[name]),) = lines_of(admitted(tmp_path / "a.parquet"))
    assert results == {**dict.fromkeys(columns, "row"), "beyond": "wrong_type", "far": "wrong_type"}
    pq.write_table(pa.table({"instruction": ["I"], "output": ["Y"], "x": nested(150)}), tmp_path / "a.parquet")
    with pytest.raises((BadRequest, UnreadableFile), match="nested"):
        admitted(tmp_path / "a.parquet")


def test_a_large_number_in_a_row_cannot_end_a_selection():
    from operators.selection import filter

    rows = [f'{{"stars": {value}}}' for value in ("1" + "0" * 400, "-1" + "0" * 400, "3", "true", '"x"')]
    table = pa.table({"extra": rows})
    assert filter.column(table, "stars", float).to_pylist() == [float("inf"), float("-inf"), 3.0, 1.0, None]
