"""Rows that end the process which reads or tokenises them, and names of columns: without Ray, a chunk at a time."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import byte_tokenizer, write_jsonl
from simulated_death import Died
from small_runs import corpus, settings

from operators.prompts import render_process
from operators.prompts.template import from_text, load_template
from operators.prompts.tokenise import Encoder
from pipeline import preflight, read_config
from pipeline.engine.attempts import GivenUp
from pipeline.errors import BadRequest, RunFailed
from pipeline.reading import admit, chunks, collect
from pipeline.runs import accounts
from pipeline.scoring import encode
from pipeline.storage import files
from pipeline.storage.records import AdmittedChunk, Part, from_json, to_json

ROWS = corpus(12, seed=4)


@pytest.fixture(autouse=True)
def encoder(mortal, monkeypatch):
    one = Encoder(byte_tokenizer(bos=True), load_template("plain"), True, 200)
    monkeypatch.setattr(admit, "cached_encoder", lambda: one)


def chunk_of(path, **asked):
    wanted = {"input": {"path": str(path), **asked}, "output": "o", "ray": {"read_blocks": 1}}
    (chunk,) = chunks.plan(read_config.validate(wanted, "test"))
    return chunk


def admitted(path, work, lives=40, **asked):
    """The record of a file's one chunk, and how many processes it took."""
    for life in range(1, lives + 1):
        try:
            batch = admit.admit_chunks(
                record_of(chunk_of(path, **asked)), work=str(work), encoder={}, too_long="reject"
            )
            return from_json(AdmittedChunk, batch["record"][0].as_py()), life
        except Died:
            continue
    raise AssertionError("it never ends")


def rows_in(parts):
    return [row for part in parts for row in pq.read_table(part.path).to_pylist()]


def record_of(record):
    return pa.table({"item": [to_json(record)]})


def killing(function, poison):
    """`function`, but the process ends where its first argument holds the poison."""

    def deadly(first, *rest):
        if poison in (first if isinstance(first, bytes | str) else json.dumps(first).encode()):
            raise Died
        return function(first, *rest)

    return deadly


def test_rows_that_end_their_process_are_found_by_halving_and_rejected(monkeypatch, tmp_path):
    monkeypatch.setattr(admit, "ROWS_AT_ONCE", 5)
    monkeypatch.setattr(collect, "normalise", killing(collect.normalise, b"POISON"))
    poison = {"instruction": "Copy.", "input": "", "output": "POISON"}
    path = write_jsonl(tmp_path / "rows.jsonl", [*ROWS[:3], poison, *ROWS[3:], poison])
    record, lives = admitted(path, tmp_path / "work")
    rejected = rows_in(record.rejected)
    assert [(row["line"], row["reason"]) for row in rejected] == [(4, "reader_died"), (14, "reader_died")]
    assert json.loads(rejected[0]["raw"]) == poison and "ended 2 times" in rejected[0]["detail"]
    assert record.read == 14 and record.reasons == {"reader_died": 2}
    assert [row["line"] for row in rows_in(record.admitted)] == [1, 2, 3, *range(5, 14)]
    assert lives <= 3 + 2 * (3 + 2) + 1  # the whole chunk, then each row's batch and its halves, then the row alone


@pytest.mark.ray  # slow
def test_a_row_that_its_template_loops_over_is_rejected_and_the_others_are_not(monkeypatch, tmp_path):
    endless = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
    monkeypatch.setattr(render_process, "SECONDS", 0.5)  # the process has it from its start
    template = from_text("t", "{% if input|length > 99 %}" + endless + "{% endif %}{{ instruction }} {{ input }}")
    monkeypatch.setattr(admit, "cached_encoder", lambda: Encoder(byte_tokenizer(bos=True), template, True, 200))
    long = {"instruction": "Copy.", "input": "x" * 100, "output": "x"}
    record, lives = admitted(write_jsonl(tmp_path / "rows.jsonl", [*ROWS[:3], long, *ROWS[3:]]), tmp_path / "work")
    (rejected,) = rows_in(record.rejected)
    assert (rejected["line"], rejected["reason"]) == (4, "template_failed") and "did not finish" in rejected["detail"]
    assert lives == 1 and [row["line"] for row in rows_in(record.admitted)] == [1, 2, 3, *range(5, 14)]


def test_a_row_whose_parsing_ends_the_process_is_not_looked_into_again(monkeypatch, tmp_path):
    from pipeline.reading import text_files

    def parse(line, data, *, then=text_files.parse_line):
        if b"POISON" in data:
            raise Died
        return then(line, data)

    monkeypatch.setattr(text_files, "parse_line", parse)
    path = write_jsonl(tmp_path / "rows.jsonl", [*ROWS[:3], "POISON", *ROWS[3:]])
    record, _ = admitted(path, tmp_path / "work")
    (rejected,) = rows_in(record.rejected)
    assert (rejected["line"], rejected["reason"], rejected["raw"]) == (4, "reader_died", '""')
    assert record.read == 13


def test_a_conversation_keeps_its_turns_and_text_like_special_tokens_is_counted(tmp_path):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A", "weight": 0}]
    forged = [{"instruction": "Q", "output": "A<eos>"}, {"instruction": "Q", "output": "<bos>" * 300}]
    record, _ = admitted(write_jsonl(tmp_path / "rows.jsonl", [{"messages": turns}, *forged]), tmp_path / "work")
    conversation, plain = rows_in(record.admitted)
    assert json.loads(conversation["messages"]) == turns and plain["messages"] is None
    assert record.special_text == 1 and record.reasons == {"too_long": 1}
    assert record.special_outputs == 0 and record.first_special == []
    counts = accounts.admitted_counts([record, record])
    assert accounts.in_all(counts).special_text == counts[record.source].special_text == 2


def test_rows_whose_output_is_special_tokens_alone_are_counted_and_named(tmp_path):
    path = write_jsonl(
        tmp_path / "rows.jsonl", [ROWS[0], *({"instruction": f"{i}", "output": "<eos>"} for i in range(4))]
    )
    record, _ = admitted(path, tmp_path / "work")
    assert record.special_outputs == 4 and record.first_special == [f"{path}:{line}" for line in (2, 3, 4)]
    counts = accounts.in_all(accounts.admitted_counts([record]))
    assert counts.special_outputs == 4 and accounts.first_special([record, record]) == record.first_special


CHAT = [
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "x" * 300},
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": ""},
]


@pytest.mark.parametrize("part_chars", [collect.PART_CHARS, 1])
def test_each_answer_counts_once_whether_it_is_admitted_or_not(monkeypatch, tmp_path, part_chars):
    monkeypatch.setattr(collect, "PART_CHARS", part_chars)
    rows = [{"messages": CHAT}, ROWS[0], {"messages": CHAT[:1]}, "{", {"messages": CHAT[:2]}]
    record, _ = admitted(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "work", turns="each")
    assert record.read == 3 + 1 + 1 + 1 + 1
    assert record.reasons == {"too_long": 1, "empty_output": 1, "no_assistant_turn": 1, "malformed_json": 1}
    examples = rows_in(record.admitted)
    assert [(row["line"], row["turn"]) for row in examples] == [(1, 1), (2, None), (5, 1)]
    assert examples[0]["id"] == examples[2]["id"] and examples[0]["conversation"] != examples[2]["conversation"]
    assert examples[1]["conversation"] is None and json.loads(examples[0]["messages"]) == CHAT
    rejected = {row["reason"]: row for row in rows_in(record.rejected)}
    for reason, place in (("too_long", 3), ("empty_output", 5)):
        assert json.loads(rejected[reason]["raw"]) == CHAT[place] and rejected[reason]["line"] == 1
        assert rejected[reason]["detail"].startswith(f"messages[{place}]: ")
    assert json.loads(rejected["no_assistant_turn"]["raw"]) == rows[2]


def test_a_process_that_dies_once_costs_no_row(monkeypatch, tmp_path):
    deaths = [Died, Died]

    def dying(*given, then=collect.normalise):
        if deaths:
            raise deaths.pop()
        return then(*given)

    monkeypatch.setattr(collect, "normalise", dying)
    record, lives = admitted(write_jsonl(tmp_path / "rows.jsonl", ROWS), tmp_path / "work")
    assert lives == 3 and record.read == 12 and not record.rejected


def test_a_file_that_ends_its_reader_outside_of_any_row_is_given_up_by_name(monkeypatch, tmp_path):
    lives = []

    def dying(chunk, *, then=admit.read_chunk):
        lives.append(chunk)
        yield next(then(chunk))
        raise Died

    monkeypatch.setattr(admit, "read_chunk", dying)
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(
        GivenUp, match=r"rows.jsonl: reading it ended its process 6 times, and no row of it is to blame"
    ):
        admitted(path, tmp_path / "work")
    assert len(lives) == 6


def test_marks_are_few(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(
        files, "write", lambda path, data, *, then=files.write: (written.append(path), then(path, data))[1]
    )
    admitted(write_jsonl(tmp_path / "rows.jsonl", ROWS), tmp_path / "work")
    assert sum("attempts" in path for path in written) == 1


def test_names_of_columns_are_kept_up_to_a_number_and_a_length(tmp_path):
    rows = [{**row, f"c{i}": 1, "n" * 201: 1} for i, row in enumerate(ROWS * 100)]
    record, _ = admitted(write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "work")
    columns = collect.columns_of([record, replace(record, columns=["zzz"])])
    assert len(record.columns) == len(columns) == collect.COLUMNS_KEPT
    assert max(map(len, columns)) <= collect.COLUMN_CHARS


def test_a_block_that_ends_its_encoder_every_time_ends_the_run(monkeypatch, tmp_path):
    def dying(part, round, threshold):
        raise Died

    monkeypatch.setattr(encode, "rows_of_round", dying)
    for end in [Died, Died, Died, GivenUp]:
        with pytest.raises(end) as ended:
            encode.encode_block(
                record_of(encode.BlockToScore(7, Part("placed", 0, 0, ""), Part("offers", 0, 0, ""), None, None)),
                work=str(tmp_path),
                index="",
                encoder={},
                paraphrase_max=0.95,
                source="retrieved",
                k=1,
                round=encode.Round("pilot"),
                threshold=None,
            )
    assert "encoding block 7 ended its process 3 times" in str(ended.value)


def wanting(name):
    return read_config.validate({"input": "a.jsonl", "output": "o", "select": {"max_per": {name: 1}}}, "test")


def test_a_column_that_may_have_been_cut_off_is_not_refused():
    preflight.require_columns(wanting("late"), [f"c{i}" for i in range(collect.COLUMNS_KEPT)])
    preflight.require_columns(wanting("n" * 201), ["stars"])
    with pytest.raises(BadRequest, match="no column 'late'"):
        preflight.require_columns(wanting("late"), ["stars"])


def test_the_reader_knows_how_many_ids_the_model_has(model_folder, tmp_path):
    checked = preflight.check_models(settings(tmp_path, ["a.jsonl"], model_folder), "{{ instruction }}")
    assert checked.encoder["vocab_size"] == 260


def test_all_broken_files_of_a_task_are_named(tmp_path):
    """A JSON array that breaks off, and a pointer in place of a file; of an array with NaN, one row is lost."""
    write_jsonl(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.json").write_text(json.dumps(ROWS)[:-20])
    (tmp_path / "c.json").write_text(json.dumps([{**ROWS[0], "x": float("nan")}, *ROWS[1:]]))
    (tmp_path / "d.jsonl").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    wanted = read_config.validate({"input": str(tmp_path), "output": "o", "ray": {"read_blocks": 1}}, "test")
    batch = pa.table({"item": [to_json(chunk) for chunk in chunks.plan(wanted)]})
    with pytest.raises(admit.UnreadableFile, match=r"b\.json cannot be read whole.*d\.jsonl cannot be read whole.*LFS"):
        admit.admit_chunks(batch, work=str(tmp_path / "work"), encoder={}, too_long="reject")
    record, _ = admitted(tmp_path / "c.json", tmp_path / "work")
    assert (record.file, record.read, record.reasons) == (str(tmp_path / "c.json"), 12, {"malformed_json": 1})


def of_file(name, read, rejected):
    return AdmittedChunk("s", name, read, [], [], {"wrong_type": rejected}, [], [], [f"{name}:1: wrong_type"])


def test_too_many_rejected_rows_of_one_file_end_the_run_by_its_name():
    limit = 0.05
    accounts.require_few_rejected_in_files([of_file("a", 10_000, 400), of_file("b", 3, 1), of_file("c", 5, 5)], limit)
    accounts.require_few_rejected_in_files([of_file("a", 100, 9), of_file("a", 100, 1)], limit)  # two chunks of a file
    with pytest.raises(
        RunFailed, match=r"b: 11 of 200 rows rejected \(wrong_type 11\): more than max_rejected_fraction: 0.05"
    ):
        accounts.require_few_rejected_in_files(
            [of_file("a", 10_000, 0), of_file("b", 100, 9), of_file("b", 100, 2)], limit
        )
    with pytest.raises(
        RunFailed, match=r"b0: 6 of 6 .*; b1: .*; b2: .*; and 2 more such files: .*the first: b0:1: wrong_type"
    ):
        accounts.require_few_rejected_in_files([of_file(f"b{i}", 6, 6) for i in range(5)], limit)


def test_rows_that_were_asked_to_be_rejected_end_no_run():
    """Of a file and of all rows; others are counted as ever."""
    contaminated = AdmittedChunk("s", "a", 100, [], [], {"contaminated": 90, "wrong_type": 1}, [], [], [])
    accounts.require_few_rejected_in_files([contaminated], 0.05)
    accounts.require_few_rejected(accounts.admitted_counts([contaminated]), 0.05, "read")
    with pytest.raises(RunFailed, match=r"1 of 100 rows rejected \(wrong_type 1\)"):
        accounts.require_few_rejected(accounts.admitted_counts([contaminated]), 0.005, "read")
    everything = AdmittedChunk("s", "a", 100, [], [], {"contaminated": 100}, [], [], [])
    with pytest.raises(RunFailed, match=r"none can be scored \(contaminated 100\)"):
        accounts.require_rows(accounts.admitted_counts([everything]))
