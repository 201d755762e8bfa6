"""JSON files in every shape that holds rows: element by element, whole or refused, in little memory."""

import io
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_files import rows_of

from pipeline.reading import json_files, json_values
from pipeline.reading.json_values import JsonText

ROWS = [{"instruction": f"I {i}", "output": f"Y é\n{i}"} for i in range(10)]
ARRAY = json.dumps(ROWS)


def read(folder, text):
    path = folder / "a.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return rows_of({"path": str(path)})


def records(rows):
    assert [row.line for row in rows] == list(range(1, len(rows) + 1))
    return [row.problem.reason if row.problem else row.record for row in rows]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(JSON, max_size=6), st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_any_cut_into_buffers_gives_the_same_values(values, size, indent, ascii_only):
    data = json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "BUFFER_BYTES", size)
        text = JsonText(io.BytesIO(data))
        elements = list(text.elements())
    assert [element.value for element in elements] == values and not text.peek()
    assert [json.loads(element.text) for element in elements] == values


@given(st.integers(0, len(ARRAY.encode()) - 1), st.integers(1, 40))
def test_an_array_that_breaks_off_is_no_array(cut, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "BUFFER_BYTES", size)
        text = JsonText(io.BytesIO(ARRAY.encode()[:cut]))
        with pytest.raises(OSError, match=r"breaks off (in row|where)"):
            list(text.elements())


@pytest.mark.parametrize(
    "text", [ARRAY[:-300], '[{"instruction": "I"', "[", '{"data": [{"a": 1}, {"a"', '{"data": ', '{"a": t']
)
def test_a_file_that_breaks_off_is_refused(tmp_path, text):
    with pytest.raises(OSError, match="breaks off"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("element", "reason"),
    [
        (b'{"instruction": "I", "x": NaN}', "malformed_json"),
        (b'{"instruction": "I", "x": [-Infinity]}', "malformed_json"),
        (b'{"instruction": "I\tI"}', "malformed_json"),
        (b'{"instruction": "\xe9"}', "invalid_utf8"),
        (b'{"instruction": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "malformed_json"),
        (b'{"instruction": ' + b"1" * 5000 + b"}", "malformed_json"),
        (b'{"instruction": "' + b'\\"]' * 5000 + b'"}', "row_too_large"),
    ],
)
@pytest.mark.parametrize("around", [b"[%s]", b'{"version": 1, "data": [%s], "tags": ["a"]}'])
def test_an_element_that_is_no_row_costs_itself_alone(tmp_path, monkeypatch, element, reason, around):
    monkeypatch.setattr(json_values, "MAX_ROW_BYTES", 10_000 if reason == "row_too_large" else 1 << 24)
    monkeypatch.setattr(json_values, "BUFFER_BYTES", 1000)
    good = [json.dumps(row, ensure_ascii=False).encode() for row in ROWS]
    rows = read(tmp_path, around % b", ".join([*good[:4], element, *good[4:]]))
    assert records(rows) == [*ROWS[:4], reason, *ROWS[4:]]
    json.loads(rows[4].raw)
    assert len(rows[4].raw) < 2 * json_files.KEPT_OF_LARGE_ROW


@pytest.mark.parametrize(
    "text",
    [
        '[{"a": 1} {"a": 2}]',
        '[{"a": 1},]',
        '[{"a": "b"c"}, {"a": 2}]',
        '[{"a": "\\x"}]',
        "[" + '{"a": 1}' + "] more",
        '[{"a": 1}}',
        "no JSON",
        '{"data": [{"a": 1}]} more',
        '{"a": 1, b: 2}',
    ],
)
def test_a_file_whose_rows_cannot_be_told_apart_is_refused(tmp_path, text):
    with pytest.raises(OSError, match="it is no JSON"):
        read(tmp_path, text)


@pytest.mark.parametrize("text", ["", " \n", "[]", " [ ] "])
def test_a_file_without_rows_has_none(tmp_path, text):
    (tmp_path / "b.json").write_text(ARRAY)
    (tmp_path / "a.json").write_text(text)
    assert [row.record for row in rows_of({"path": str(tmp_path)})] == ROWS


@pytest.mark.parametrize("indent", [None, 0, 2])
def test_rows_in_an_object_around_them(tmp_path, indent):
    assert records(read(tmp_path, json.dumps({"version": "1", "rows": ROWS, "by": {"a": [1]}}, indent=indent))) == ROWS
    lines = ",\n".join(json.dumps(row) for row in ROWS)
    for opening in ('{"rows": [', '{"rows": [\n', '{"rows":\n[', '{\n"rows": ['):
        assert records(read(tmp_path, f"{opening}{lines}]}}")) == ROWS


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {"instruction": "I", "output": "Y", "passages": [{"title": "T"}]},
    ],
)
def test_an_object_that_is_a_row_is_one(tmp_path, row, indent):
    assert records(read(tmp_path, json.dumps(row, indent=indent))) == [row]
    assert records(read(tmp_path, "\n".join([json.dumps(row, indent=indent)] * 3))) == [row] * 3


def test_the_users_own_columns_tell_a_row(tmp_path):
    row = {"q": "I", "a": "Y", "sources": [{"title": "T"}]}
    (tmp_path / "a.json").write_text(json.dumps(row))
    (read_row,) = rows_of({"path": str(tmp_path / "a.json"), "columns": {"instruction": "q", "output": "a"}})
    assert read_row.record == row


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps({"train": ROWS, "test": ROWS}), "two lists of objects, 'train' and 'test'"),
        (json.dumps({"instruction_": {"0": "I"}, "output_": {"0": "Y"}}), "an object of columns and not of rows"),
        (json.dumps({"instruction_": ["I"], "output_": ["Y"]}), "an object of columns and not of rows"),
    ],
)
def test_objects_that_hold_no_one_list_of_rows_are_refused(tmp_path, text, words):
    with pytest.raises(OSError, match=words):
        read(tmp_path, text)


def test_a_large_object_around_rows_is_read_element_by_element(tmp_path, monkeypatch):
    for module in (json_values, json_files):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 200)
    assert records(read(tmp_path, json.dumps({"version": 1, "data": ROWS}))) == ROWS
    with pytest.raises(OSError, match="two lists of objects, 'data' and 'test'"):
        read(tmp_path, json.dumps({"data": ROWS, "test": ROWS}))
    with pytest.raises(OSError, match="it is one object, too large for a row"):
        read(tmp_path, json.dumps({"output": "y" * 500}))


@pytest.mark.parametrize("data", [ROWS[0], "data"])
def test_lines_in_a_json_file(tmp_path, data):
    rows = read(tmp_path, f"{json.dumps(ROWS[0])}\n{{broken\n\n{json.dumps(data)}\n")
    assert [(row.line, row.problem.reason if row.problem else row.record) for row in rows] == [
        (1, ROWS[0]),
        (2, "malformed_json"),
        (4, data),
    ]


@pytest.mark.ray  # slow
def test_an_array_of_any_length_takes_little_memory(tmp_path):
    row = json.dumps({"instruction": "I", "output": "y" * 1000})
    (tmp_path / "a.json").write_text("[" + ",\n".join([row] * 40_000) + "]")  # 40 MB
    from read_files import plan

    from pipeline.reading import readers

    tracemalloc.start()
    (chunk,) = plan({"path": str(tmp_path / "a.json")})
    assert sum(row.read().problem is None for row in readers.read_chunk(chunk)) == 40_000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12 << 20
