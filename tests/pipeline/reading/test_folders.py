"""Folders: those that `datasets` saved, those with a list of LLaMA-Factory, and files of Arrow."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_jsonl
from read_files import plan, rows_of

from operators.normalise import normalise
from pipeline.errors import BadRequest
from pipeline.reading.chunks import Chunk
from pipeline.storage.records import from_json, to_json

ROWS = [{"instruction": f"I {i}", "output": f"Y {i}", "input_ids": [1, 2, i]} for i in range(7)]
TURNS = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]


def records(folder, **more):
    rows = rows_of({"path": str(folder), **more}, blocks=2)
    assert all(row.problem is None for row in rows)
    return [row.record for row in rows]


@pytest.mark.parametrize("view", [{"type": "torch"}, {"type": "pandas"}, {"type": "numpy", "columns": ["input_ids"]}])
def test_a_saved_dataset_is_read_as_its_table_and_not_as_the_view_of_a_training_loop(tmp_path, view):
    datasets.Dataset.from_list(ROWS).with_format(**view).save_to_disk(tmp_path / "d")
    (tmp_path / "d" / "cache-1.arrow").write_bytes(b"what is left of a map that was killed")
    assert records(tmp_path / "d") == ROWS


def test_images_and_sounds_are_not_decoded(tmp_path):
    media = [{"bytes": b"no picture", "path": None}, {"bytes": b"no sound", "path": "a.wav"}]
    table = pa.table({"conversations": [TURNS] * 2, "image": media, "audio": media})
    conversations = datasets.List({"from": datasets.Value("string"), "value": datasets.Value("string")})
    features = datasets.Features(conversations=conversations, image=datasets.Image(), audio=datasets.Audio())
    saved = datasets.Dataset(table.cast(features.arrow_schema), info=datasets.DatasetInfo(features=features))
    saved.save_to_disk(tmp_path / "d")
    pq.write_table(table, tmp_path / "same.parquet")
    assert records(tmp_path / "d") == records(tmp_path / "same.parquet")


def test_a_table_of_a_saved_dataset_that_breaks_off_is_named(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "d")
    (table,) = (tmp_path / "d").glob("*.arrow")
    table.write_bytes(table.read_bytes()[:-8])
    with pytest.raises(BadRequest, match=r"\.arrow': it breaks off: the Arrow stream has no end"):
        plan({"path": str(tmp_path / "d")})


def write_arrow(path, make):
    table = pa.Table.from_pylist(ROWS)
    with make(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


@pytest.mark.parametrize("make", [pa.ipc.new_file, pa.ipc.new_stream])
def test_arrow_files_and_streams(tmp_path, make):
    path = tmp_path / "a.arrow"
    write_arrow(path, make)
    assert records(path) == ROWS
    whole = path.read_bytes()
    for size in (len(whole) - 8, len(whole) // 2, 9):
        path.write_bytes(whole[:size])
        with pytest.raises((OSError, pa.ArrowException)):
            rows_of({"path": str(path)})


def test_arrow_files_of_a_cache_are_read_without_the_notes_beside_them(tmp_path):
    write_arrow(tmp_path / "rows-train.arrow", pa.ipc.new_stream)
    (tmp_path / "dataset_info.json").write_text('{"features": {}}')
    assert records(tmp_path) == ROWS


def data_folder(folder, entries, **files):
    for name, rows in files.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    return folder


def test_a_data_folder_of_llama_factory(tmp_path):
    alpaca = [{"instruction": "I", "input": "", "output": "Y"}]
    own = [{"q": "I", "ctx": "X", "a": "Y", "n": 1}]
    turns = [{"dialog": [{"who": "U", "text": "Q"}, {"who": "B", "text": "A", "n": 1}], "rules": "S"}]
    ranked = [{"instruction": "I", "input": "X", "chosen": "Y", "rejected": "Z"}]
    data_folder(
        tmp_path,
        {
            "a": {"file_name": "a.json"},
            "b": {"file_name": "b.json", "columns": {"prompt": "q", "query": "ctx", "response": "a"}},
            "c": {
                "file_name": "c.json",
                "formatting": "sharegpt",
                "columns": {"messages": "dialog", "system": "rules"},
                "tags": {"role_tag": "who", "content_tag": "text", "user_tag": "U", "assistant_tag": "B"},
            },
            "d": {"file_name": "d.json", "formatting": "sharegpt"},
            "e": {"file_name": "e.json", "ranking": True},
        },
        a=alpaca,
        b=own,
        c=turns,
        d=[{"conversations": TURNS}],
        e=ranked,
    )
    found = records(tmp_path)
    assert found[0] == alpaca[0] and found[3] == {"conversations": TURNS}  # what is recognised as it is stays as it is
    examples = [normalise(record) for record in found]
    assert [(one.instruction, one.output) for one in examples] == [
        ("I", "Y"),
        ("I", "Y"),
        ("Q", "A"),
        ("Q", "A"),
        ("I", "Y"),
    ]
    assert json.loads(examples[1].extra) == {"n": 1} and examples[1].input == "X"
    assert json.loads(examples[2].messages) == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A", "n": 1},
    ]
    assert json.loads(examples[4].extra) == {"rejected": "Z"}
    planned = plan({"path": str(tmp_path)})
    assert [chunk.source for chunk in planned] == ["a", "b", "c", "d", "e"]
    assert [from_json(Chunk, to_json(chunk)) for chunk in planned] == planned
    # The user's own columns come first.
    with_columns = rows_of({"path": str(tmp_path), "columns": {"instruction": "q", "output": "a"}})
    assert with_columns[1].record == own[0]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"file_name": "a.json", "hf_hub_url": "owner/name"}, "'x'.hf_hub_url: cannot be honoured"),
        ({"file_name": "a.json", "num_samples": 5}, "'x'.num_samples: cannot be honoured"),
        ({"file_name": "gone.json"}, "'x'.file_name: 'gone.json' is no file of a known kind in this folder"),
        ({"file_name": "../a.json"}, "'x'.file_name: '../a.json' is no file"),
        (
            {"file_name": "a.json", "formatting": "other"},
            "'x'.formatting: found 'other'; accepted: alpaca, sharegpt, openai",
        ),
        (
            {"file_name": "a.json", "columns": {"prompt": "p", "response": "r", "images": "i"}},
            "'x'.columns.images: cannot",
        ),
        ({"file_name": "a.json", "columns": {"prompt": "p"}}, "'x'.columns: no response"),
        ({"file_name": "a.json", "formatting": "sharegpt", "columns": {"images": "i"}}, "'x'.columns.images: cannot"),
        ({"file_name": "a.json", "formatting": "sharegpt", "ranking": True}, "'x'.ranking: conversations"),
        ({"file_name": "a.json", "tags": {"role_tag": "r"}}, "'x'.tags"),
        ({"file_name": "a.json", "columns": 5}, "'x'.columns: found 5; accepted: an object of names"),
        ("text", "found no entries with a file_name"),
    ],
)
def test_an_entry_that_cannot_be_honoured_is_refused_by_its_key(tmp_path, entry, words):
    data_folder(tmp_path, {"x": entry}, a=ROWS)
    with pytest.raises(BadRequest, match=words):
        plan({"path": str(tmp_path)})


def test_a_column_that_has_the_name_of_another_is_not_lost(tmp_path):
    entries = {"x": {"file_name": "a.json", "columns": {"prompt": "q", "response": "output"}}}
    data_folder(tmp_path, entries, a=[{"q": "I", "instruction": "J", "output": "Y"}, {"q": "I", "output": "Y"}])
    bad, good = rows_of({"path": str(tmp_path)})
    assert bad.problem.reason == "wrong_type" and "'instruction'" in bad.problem.detail
    assert good.record == {"instruction": "I", "output": "Y"}


def test_a_file_of_notes_of_datasets_is_no_file_of_rows(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "dataset_info.json").write_text('{"features": {"instruction": {}}}')
    assert records(tmp_path) == ROWS


def test_an_entry_of_a_hub_says_nothing_of_the_files_here(tmp_path):
    data_folder(tmp_path, {"x": {"hf_hub_url": "owner/name", "columns": {"prompt": "p"}}}, a=ROWS)
    (chunk,) = plan({"path": str(tmp_path)})
    assert chunk.entry is None


def test_tools_of_conversations_go_along(tmp_path):
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]
    entry = {"file_name": "a.json", "formatting": "sharegpt", "columns": {"messages": "conversations", "tools": "t"}}
    data_folder(tmp_path, {"x": entry}, a=[{"conversations": turns, "t": "[]"}])
    (row,) = rows_of({"path": str(tmp_path)})
    assert normalise(row.record).output == "A" and json.loads(normalise(row.record).extra) == {"tools": "[]"}
