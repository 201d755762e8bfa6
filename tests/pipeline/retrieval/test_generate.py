"""A range of inputs that is answered: what was stored before a process ended is not asked for again."""

import pyarrow as pa
import pytest
from simulated_death import Died

from operators.retrieval.answers import Answer
from operators.retrieval.generated import input_key
from operators.schema import GENERATED, INPUTS, from_rows
from pipeline.engine.attempts import GivenUp
from pipeline.retrieval.generate import GenerateRange, build_written, inputs_of_part, recall_answers
from pipeline.retrieval.shards import RowRange, instructions_path
from pipeline.storage import computed
from pipeline.storage.parts import read_table, write_table
from pipeline.storage.records import Part, from_json, record_table

TEXTS = ["a", "b", "c", "d", "e"]


class Writing:
    """Writes a list of one instruction, and ends its process when it comes to a text."""

    def __init__(self, dies_at=None):
        self.dies_at, self.asked = dies_at, []

    def answers(self, inputs, finished):
        for row in inputs:
            if row["key"] not in finished:
                self.asked.append(row["input"])
                if row["input"] == self.dies_at:
                    raise Died
                yield row["key"], Answer(f"1. Say {row['input']}.", True, 5)


class Range(GenerateRange):
    """A range without the index that it comes from, which stores each answer at once."""

    def __init__(self, folder, writer):
        self._work, self._folder, self._every = str(folder / "work"), str(folder / "store"), 0.0
        self._missing = from_rows([{"key": input_key(text), "input": text} for text in TEXTS], INPUTS)
        self._fake = writer

    @property
    def _writer(self):
        return self._fake


def answers_of(record):
    rows = [row for path in record.paths for row in computed.read(path, GENERATED).to_pylist()]
    return {row["key"]: row["text"] for row in rows}


WHOLE = {input_key(text): f"1. Say {text}." for text in TEXTS}


def test_what_was_stored_before_a_process_ended_is_not_asked_for_again(mortal, tmp_path):
    with pytest.raises(Died):
        Range(tmp_path, Writing("d"))._range(RowRange(0, 5))
    writer = Writing()
    record = Range(tmp_path, writer)._range(RowRange(0, 5))
    assert writer.asked == ["d", "e"] and (record.resumed, record.tokens) == (3, 10)
    assert answers_of(record) == WHOLE
    writer = Writing()
    assert answers_of(Range(tmp_path, writer)._range(RowRange(0, 5))) == WHOLE and not writer.asked


def test_a_damaged_answer_is_asked_for_again(tmp_path):
    record = Range(tmp_path, Writing())._range(RowRange(0, 5))
    with open(record.paths[0], "r+b") as file:  # noqa: PTH123
        file.truncate(20)
    writer = Writing()
    record = Range(tmp_path, writer)._range(RowRange(0, 5))
    assert len(writer.asked) == 1 and answers_of(record) == WHOLE
    assert len(computed.damaged(str(tmp_path / "work"))) == 1


def test_inputs_that_end_the_process_each_time_end_the_run(mortal, tmp_path):
    for end in (Died, Died, Died, GivenUp):
        with pytest.raises(end) as ended:
            Range(tmp_path, Writing("d"))._range(RowRange(0, 5))
    assert "writing instructions for inputs ended its process 3 times" in str(ended.value)


def test_distinct_inputs_meet_what_is_stored_and_are_taken_apart(tmp_path):
    work, index, store = (str(tmp_path / name) for name in ("work", "index", "store"))
    parts = []
    for number, inputs in enumerate((["a", "", "long one", " \n"], ["a", "c", "b"])):
        path = str(tmp_path / f"{number}.parquet")
        write_table(path, pa.table({"input": inputs}))
        (text,) = inputs_of_part(record_table([Part(path, 0, 0, "")]).rename_columns(["item"]), work=work)[
            "record"
        ].to_pylist()
        parts.append(from_json(Part, text))
    rows = {
        "1": [("a", "1. Old."), ("gone", "1. Gone.")],
        "2": [("a", "1. Say it.\n2. Sort it."), ("c", None)],
    }
    stored = []
    for run, answered in rows.items():
        table = [{"key": input_key(input), "text": text, "finished": True} for input, text in answered]
        stored.append((run, computed.write(f"{store}/{run}", from_rows(table, GENERATED), GENERATED)))
    assert recall_answers(parts, stored, index, work) == 2
    assert read_table(f"{index}/missing.parquet")["input"].to_pylist() == ["b", "long one"]  # by length
    with pytest.raises(RuntimeError, match="2 of 4 inputs have no answer"):
        build_written([], index, GENERATOR)

    class New(Range):
        def __init__(self):
            super().__init__(tmp_path, Writing())
            self._missing = read_table(f"{index}/missing.parquet")

    written = build_written([New()._range(RowRange(0, 2))], index, GENERATOR)
    assert (written.requested, written.stored, written.computed) == (4, 2, 2)
    assert (written.refused, written.too_few, written.distinct, written.tokens) == (1, 3, 4, 10)
    texts = read_table(instructions_path(index, 0))["text"].to_pylist()
    of_input = {
        row["key"]: [texts[place] for place in row["instructions"]]
        for row in read_table(f"{index}/written.parquet").to_pylist()
    }
    assert of_input[input_key("a")] == ["Say it.", "Sort it."] and of_input[input_key("c")] == []
    assert of_input[input_key("long one")] == ["Say long one."]


GENERATOR = {"prompt": "{input} {k}", "count": 2, "max_input_chars": 100}
