"""A sample is spread over the inputs, the same each time, and knows how many rows there are; a small corpus is read whole."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl

from pipeline import read_config
from pipeline.planning.cells import spread
from pipeline.planning.sample import take_sample
from pipeline.reading.chunks import plan

COUNT = 12_000


def rows(count=COUNT):
    return [{"instruction": f"Sort {i}.", "input": "b a " * (i % 30), "output": f"a {i}"} for i in range(count)]


def write_csv(path, records):
    with path.open("w") as file:
        file.write("instruction,input,output\n")
        file.writelines(f'"{row["instruction"]}","{row["input"]}","{row["output"]}"\n' for row in records)


def write_gzip(path, records):
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in records)


KINDS = {
    "a.jsonl": write_jsonl,
    "a.csv": write_csv,
    "a.json": lambda path, records: path.write_text(json.dumps(records)),
    "a.jsonl.gz": write_gzip,
    "a.parquet": lambda path, records: pq.write_table(pa.Table.from_pylist(records), path, row_group_size=500),
}


def sample_of(*paths, seed=0, count=1000, whole_bytes=0, **more):
    inputs = [{"path": str(path), **more} for path in paths]
    chunks = plan(read_config.validate({"input": inputs, "output": "out"}, "test"))
    return take_sample(chunks, seed, count, whole_bytes)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, write in KINDS.items():
        write(folder / name, rows())
    return folder


@pytest.mark.ray  # slow
@pytest.mark.parametrize("name", KINDS)
def test_rows_of_each_kind_of_file_are_estimated_and_spread(files, name):
    sample = sample_of(files / name)
    assert not sample.whole
    assert sample.corpus == pytest.approx(COUNT, rel=0.05)
    assert 900 <= len(sample.rows) <= 1000
    numbers = sorted(int(row.example.output.split()[1]) for row in sample.rows)
    assert len(set(numbers)) == len(numbers)
    assert sum(numbers) / len(numbers) == pytest.approx(COUNT / 2, rel=0.15)  # from everywhere in the file
    lengths = [len(row.example.input) for row in sample.rows]
    assert sum(lengths) / len(lengths) == pytest.approx(58, rel=0.1)  # long rows are as likely as short ones


def test_a_sample_is_the_same_each_time_and_another_for_another_seed(files):
    some, again, other = (sample_of(files / "a.jsonl", seed=seed) for seed in (1, 1, 2))
    assert some == again
    assert some.rows != other.rows


def test_inputs_have_the_share_of_their_rows(tmp_path):
    write_jsonl(tmp_path / "short.jsonl", [{"instruction": "a", "output": f"{i}"} for i in range(9000)])
    long = [{"instruction": "a", "output": f"{i}", "input": "b " * 500} for i in range(3000)]
    pq.write_table(pa.Table.from_pylist(long), tmp_path / "long.parquet", row_group_size=100)
    sample = sample_of(tmp_path / "short.jsonl", tmp_path / "long.parquet")
    assert sample.corpus == pytest.approx(12_000, rel=0.05)
    sources = [row.source for row in sample.rows]
    assert sources.count("long") / len(sources) == pytest.approx(0.25, abs=0.04)


def test_a_folder_of_many_small_files_is_sampled_by_rows(tmp_path):
    for number in range(300):
        write_jsonl(tmp_path / f"{number}.jsonl", [{"instruction": "a", "output": f"{number}"}] * (1 + number % 20))
    sample = sample_of(tmp_path, count=600)
    assert sample.corpus == pytest.approx(300 * 10.5, rel=0.15)
    assert len({row.source for row in sample.rows}) > 50


def test_a_small_corpus_is_read_whole(files):
    sample = sample_of(files / "a.csv", whole_bytes=1 << 30)
    assert sample.whole
    assert sample.corpus == len(sample.rows) == COUNT


def test_rows_that_are_none_keep_their_reason(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"instruction": "a", "output": "b"}, {"instruction": "a"}, "no"] * 10)
    assert sample_of(path, whole_bytes=1 << 30).rejected == {"missing_field": 10, "malformed_json": 10}


def test_each_turn_counts_as_a_row(tmp_path):
    turns = [{"role": role, "content": "x"} for role in ("user", "assistant") * 3]
    path = write_jsonl(tmp_path / "a.jsonl", [{"messages": turns, "n": i} for i in range(2000)])
    assert sample_of(path, turns="each").corpus == pytest.approx(6000, rel=0.05)
    assert sample_of(path, turns="last").corpus == pytest.approx(2000, rel=0.05)


def test_a_file_that_breaks_off_is_named(tmp_path):
    whole = write_jsonl(tmp_path / "a.jsonl", rows(20))
    (tmp_path / "b.jsonl").write_bytes(whole.read_bytes()[:-9])
    sample = sample_of(tmp_path, whole_bytes=1 << 30)
    assert "breaks off" in sample.unreadable[0]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 1597])
def test_every_cell_is_visited_once(count):
    assert sorted(spread(count, 0.3)) == list(range(count))
