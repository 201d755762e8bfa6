"""CSV as it is written, and as it is damaged: a quote out of place costs its own row and no other."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from read_files import rows_of

from pipeline.reading import csv_files

HEADER = ["instruction", "input", "output"]


def read(folder, text, name="a.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return rows_of({"path": str(folder / name)})


def lines_of(rows):
    return [(row.line, row.problem.reason if row.problem else list(row.record.values())) for row in rows]


FIELD = st.text(st.sampled_from('ab",;\t\n\r é'), max_size=6)


@given(st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=6), st.sampled_from(",;\t"), st.booleans())
def test_what_a_writer_writes_is_read(tmp_path_factory, records, delimiter, windows):
    text = io.StringIO()
    quoting = csv.QUOTE_MINIMAL if windows else csv.QUOTE_ALL
    writer = csv.writer(
        text,
        delimiter=delimiter,
        lineterminator="\r\n" if windows else "\n",
        quoting=quoting,
    )
    writer.writerows([HEADER, *records])
    rows = read(tmp_path_factory.mktemp("csv"), text.getvalue())
    assert [list(row.record.values()) for row in rows] == [list(record) for record in records]
    assert all(row.problem is None and list(row.record) == HEADER for row in rows)


def test_a_quote_that_is_never_closed_costs_its_line_alone(tmp_path):
    lines = ["I,X,Y\n"] * 40
    lines[5] = 'I,X,"Y\n'
    rows = lines_of(read(tmp_path, "instruction,input,output\n" + "".join(lines)))
    assert rows[5] == (7, "malformed_csv") and len(rows) == 40
    assert [row for i, row in enumerate(rows) if i != 5] == [(i + 2, ["I", "X", "Y"]) for i in range(40) if i != 5]


GOOD = st.sampled_from(["I,X,Y\n", '"I, I",X,Y\n', 'I,"X\nX, ""X""\n",Y\n', '"","",""\n', "I,,Y\n"])
BAD = st.sampled_from(
    ['I,X,"Y\n', '"I,X,Y\n', 'I,X"X,Y\n', 'I,"X"X,Y\n', 'I, "X",Y\n', 'I,5" by 3",Y\n', "I,Y\n", "I,X,Y,Z\n"]
)


@given(st.lists(st.tuples(GOOD, BAD | st.none()), max_size=8))
def test_any_number_of_damaged_lines_cost_themselves_alone(tmp_path_factory, pairs):
    """Good records between damaged lines: a never-closed quote does not reach over what follows, whatever quotes it has."""
    text, expected = "instruction,input,output\n", []
    for good, bad in pairs:
        for record in (bad, good):
            if record is not None:
                damaged = record is bad
                expected.append(
                    (text.count("\n") + 1, "malformed_csv" if damaged else next(csv.reader([*record.splitlines(True)])))
                )
                text += record
    assert lines_of(read(tmp_path_factory.mktemp("csv"), text)) == expected


def test_a_record_whose_inner_quotes_are_not_doubled_is_rejected_with_all_its_lines(tmp_path):
    text = 'instruction,output\nI,"He said "hi" to\nher, again,\nand left",\nI,Y\n'
    rows = read(tmp_path, text)
    assert lines_of(rows) == [(2, "malformed_csv"), (5, ["I", "Y"])]
    assert "and left" in rows[0].raw and "inside field 2" in rows[0].problem.detail


def test_lines_that_are_no_records_have_reason_and_line(tmp_path):
    assert lines_of(read(tmp_path, b"instruction,output\nI,Y\nI\n\nI,\xe9t\nI,Y\n")) == [
        (2, ["I", "Y"]),
        (3, "malformed_csv"),
        (5, "invalid_utf8"),
        (6, ["I", "Y"]),
    ]


@pytest.mark.parametrize("last", ["I,X", 'I,X,"Y', "I"])
def test_a_file_that_ends_within_its_last_row_breaks_off(tmp_path, last):
    with pytest.raises(OSError, match="breaks off in line 3"):
        read(tmp_path, f"instruction,input,output\nI,X,Y\n{last}")
    assert lines_of(read(tmp_path, "instruction,input,output\nI,X,Y\nI,X,Y")) == [
        (2, ["I", "X", "Y"]),
        (3, ["I", "X", "Y"]),
    ]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("instruction,output,output", "two columns have the name 'output'"),
        ('instruction,"output', "the header line is no CSV.*a quote is never closed"),
        ("instruction;entr\xe9e".encode("latin-1"), "the header line is not UTF-8.*Latin-1"),
    ],
)
def test_headers_that_are_refused(tmp_path, header, words):
    header = header if isinstance(header, bytes) else header.encode()
    with pytest.raises(OSError, match=words):
        read(tmp_path, header + b"\nI,Y,Y\n")


def test_the_delimiter_is_the_one_that_gives_most_columns(tmp_path):
    rows = read(tmp_path, '\n"instruction";input, if any;output\nI, I;X;"Y;"\n')
    assert rows[0].record == {"instruction": "I, I", "input, if any": "X", "output": "Y;"} and rows[0].line == 3


def test_lines_ahead_are_forgotten_once_they_are_taken(tmp_path, monkeypatch):
    """What was looked at to tell a damaged row apart is no more than one row may have."""
    monkeypatch.setattr(csv_files, "MAX_ROW_BYTES", 1000)
    ahead = []
    take = csv_files._Lines.take
    monkeypatch.setattr(
        csv_files._Lines, "take", lambda self, count: (ahead.append(len(self._ahead)), take(self, count))[1]
    )
    rows = read(tmp_path, "instruction,output\n" + 'I,"Y\nI,Y\n' * 500)
    assert len(rows) == 1000 and max(ahead) < 500
