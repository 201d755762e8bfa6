"""Rows of several layouts in one file, and files that hold a task with all its rows: read from disk to examples."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl

from operators.normalise import normalise
from pipeline import read_config
from pipeline.errors import BadRequest
from pipeline.reading import chunks, readers

ALPACA = [{"instruction": f"I {i}", "input": "X", "output": f"Y {i}"} for i in range(4)]
CHATS = [
    {"messages": [{"role": "user", "content": f"I {i}"}, {"role": "assistant", "content": f"Y {i}"}]}
    for i in range(4, 8)
]
TASK = {
    "Definition": ["Sort."],
    "Positive Examples": [],
    "Instances": [{"id": f"t-{i}", "input": f"{i} b a", "output": [f"a b {i}"]} for i in range(5)],
}


def read(path, **more):
    wanted = read_config.validate({"input": {"path": str(path), **more}, "output": "o"}, "test")
    rows = [(chunk, row.read()) for chunk in chunks.plan(wanted) for row in readers.read_chunk(chunk)]
    return [(row.line, normalise(row.record, chunk.columns)) for chunk, row in rows]


def test_a_table_of_two_layouts_is_read_whole(tmp_path):
    union = pa.concat_tables([pa.Table.from_pylist(ALPACA), pa.Table.from_pylist(CHATS)], promote_options="default")
    pq.write_table(union, tmp_path / "a.parquet")
    examples = read(tmp_path / "a.parquet")
    assert [line for line, _ in examples] == list(range(1, 9))
    assert [(example.instruction, example.output) for _, example in examples] == [
        (f"I {i}", f"Y {i}") for i in range(8)
    ]
    assert [example.input for _, example in examples] == ["X"] * 4 + [""] * 4
    assert [example.messages is None for _, example in examples] == [True] * 4 + [False] * 4


@pytest.mark.parametrize("name", ["task001_sort.json", "task001_sort.json.gz"])
@pytest.mark.parametrize("indent", [None, 4])
def test_a_task_file_has_a_row_for_each_instance(tmp_path, name, indent):
    text = ("\ufeff" if indent is None else "") + json.dumps(TASK, indent=indent) + "\n"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    examples = read(tmp_path / name)
    assert [line for line, _ in examples] == [1, 2, 3, 4, 5]
    for i, (_, example) in enumerate(examples):
        assert (example.instruction, example.input, example.output) == ("Sort.", f"{i} b a", f"a b {i}")
        assert json.loads(example.extra) == {"id": f"t-{i}"}


def test_json_lines_in_a_json_file_stay_lines(tmp_path):
    for rows in (ALPACA, ALPACA[:1]):
        assert len(read(write_jsonl(tmp_path / "a.json", rows))) == len(rows)


def test_columns_of_a_configuration_reach_the_rows(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"dialog": CHATS[0]["messages"], "q": "no"}])
    assert read(path, columns={"messages": "dialog"})[0][1].instruction == "I 4"
    path = write_jsonl(tmp_path / "b.jsonl", [{"q": "I 4", "chosen": CHATS[0]["messages"], "rejected": "N"}])
    example = read(path, columns={"instruction": "q", "output": "chosen"})[0][1]
    assert (example.instruction, example.output) == ("I 4", "Y 4")
    assert json.loads(example.extra) == {"q": "I 4", "rejected": "N"}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({}, "expected instruction and output, each of them texts or turns, or messages"),
        ({"instruction": "a"}, "expected instruction and output"),
        ({"system": "a"}, "expected instruction and output"),
        ({"messages": "a", "input": "b"}, "messages is a whole conversation; accepted beside it: system"),
        ({"messages": "a", "history": "b"}, "messages is a whole conversation"),
        ({"instruction": "a", "output": "a"}, "stands for one thing"),
        ({"instruction": "", "output": "a"}, "each column has a name"),
        ({"messages": "a", "role": "r", "content": "r"}, "two keys of a turn, and both are 'r'"),
        ({"mesages": "a"}, r"unknown key; did you mean 'messages'\?"),
        ({"messages": 3}, "expected a valid string"),
    ],
)
def test_columns_that_make_no_layout_are_refused(columns, words):
    with pytest.raises(BadRequest, match=rf"input\.0\.columns.*{words}"):
        read_config.validate({"input": {"path": "a", "columns": columns}, "output": "o"}, "test")
