"""Files of excluded texts: what is read of each kind, what is refused, and rows that are rejected for them."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import byte_tokenizer, write_jsonl

from operators.normalise import Example
from operators.prompts.template import load_template
from operators.prompts.tokenise import Encoder
from pipeline import read_config
from pipeline.errors import BadRequest
from pipeline.reading import admit, chunks, excluded
from pipeline.reading.exclude_files import ACCEPTED, read_excluded
from pipeline.reading.excluded import ExcludedIndex, contaminations, write_index
from pipeline.storage.records import AdmittedChunk, from_json, to_json

QUESTION = "Which of these rivers is the longest one in all of southern Europe, from source to mouth?"
OTHER = "How many apples does Tom have left when he gives away three of his seven?"


def asked(path, **more):
    return read_config.validate(
        {"input": "a.jsonl", "output": "o", "exclude": {"path": str(path), **more}}, "test"
    ).exclude


def read(path, **more):
    (file,) = read_excluded(asked(path, **more))
    return file


def test_each_kind_of_file_gives_its_texts_with_their_lines(tmp_path):
    rows = [{"q": QUESTION, "choices": ["yes", "no"]}, {"q": OTHER, "meta": {"more": ["a b"], "n": 3}}]
    lines = write_jsonl(tmp_path / "a.jsonl", [rows[0], "", rows[1]])
    assert read(lines).texts == [(1, QUESTION), (1, "yes"), (1, "no"), (3, OTHER), (3, "a b")]
    assert read(lines, columns=["q"]).texts == [(1, QUESTION), (3, OTHER)]
    assert read(lines, columns=["meta", "q"]).texts == [(1, QUESTION), (3, "a b"), (3, OTHER)]
    (tmp_path / "a.txt").write_text(f"\ufeff{QUESTION}\n\n{OTHER}\n", encoding="utf-8")
    assert read(tmp_path / "a.txt").texts == [(1, QUESTION), (3, OTHER)]
    odd = QUESTION.replace(" ", "\u2028", 1) + "\x0c\x85 more"  # str.splitlines would end lines there
    (tmp_path / "b.txt").write_text(f"{odd}\r\n{OTHER}", encoding="utf-8")
    assert read(tmp_path / "b.txt").texts == [(1, odd), (2, OTHER)]
    (tmp_path / "a.csv").write_text(f'q,a\n"{QUESTION}\nand more",x\n"{OTHER}",y\n')
    assert read(tmp_path / "a.csv", columns=["q"]).texts == [(2, f"{QUESTION}\nand more"), (4, OTHER)]
    pq.write_table(pa.table({"q": [QUESTION, OTHER], "n": [1, 2]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet").texts == [(1, QUESTION), (2, OTHER)]


def test_what_the_answer_follows_from_is_the_content_and_what_is_asked(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(QUESTION)
    first = read(path).identity
    assert read(path).identity == first != read(path, ngram=8).identity
    path.write_text(OTHER)
    assert read(path).identity != first


@pytest.mark.parametrize(
    ("name", "content", "more", "words"),
    [
        ("a.txt", None, {}, "exclude.0.path: '.*a.txt': no such file; accepted: " + re.escape(ACCEPTED)),
        ("a.txt", "", {}, "holds no text, so that it would exclude nothing"),
        ("a.jsonl", '{"answer": "yes"}\n{"answer": "no way"}', {}, "none of its 2 texts has 4 words"),
        ("a.jsonl", json.dumps({"q": QUESTION}), {"columns": ["question"]}, "no row of .* has 'question'; accepted: q"),
        ("a.jsonl", "{", {}, "cannot be read: line 1: Expecting"),
        ("a.jsonl", f'"{QUESTION}"', {}, "line 1: found str, expected an object"),
        ("a.csv", f"q\n{QUESTION},b,c\n", {}, "line 2: another number of fields"),
        ("a.parquet", "PAR", {}, "cannot be read: Parquet file size is 3 bytes"),
        ("a.xlsx", "x", {}, "unknown kind of file; accepted: " + re.escape(ACCEPTED)),
        ("a.txt", QUESTION, {"columns": ["q"]}, "exclude.0.columns: found columns for"),
    ],
)
def test_a_file_that_excludes_nothing_or_cannot_be_read_is_refused_by_its_key(tmp_path, name, content, more, words):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadRequest, match=words):
        read(tmp_path / name, **more)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"exclude": {"path": "a", "ngram": 3}}, r"exclude\.0\.ngram: found 3"),
        ({"exclude": {"path": "a", "column": "q"}}, "unknown key; did you mean 'columns'"),
        ({"exclude": {"path": "a", "columns": []}}, r"exclude\.0\.columns"),
        ({"exclude": 3}, "exclude: found 3"),
        ({"dedup": {"near": 0}}, r"dedup\.near: found 0"),
        ({"dedup": {"near": 1.2}}, r"dedup\.near: found 1\.2"),
        ({"dedup": {"far": 1.0}}, "unknown key"),
    ],
)
def test_wrong_keys_are_named(settings, words):
    with pytest.raises(BadRequest, match=words):
        read_config.validate({"input": "a", "output": "o", **settings}, "test")


def test_a_url_is_refused_and_short_forms_are_spelled_out():
    with pytest.raises(BadRequest, match="a file where the command runs"):
        read_excluded(asked("s3://bucket/a.txt"))
    config = read_config.validate({"input": "a", "output": "o", "exclude": "b.txt"}, "test")
    assert config.exclude[0].path == "b.txt" and config.exclude[0].ngram == 13 and config.dedup.near is None


def index(tmp_path, texts, ngram=13, name="bench.jsonl"):
    write_index(list(enumerate(texts, start=1)), ngram, str(tmp_path / name))
    return ExcludedIndex(name, ngram, str(tmp_path / name))


def admitted(monkeypatch, tmp_path, rows, indexes, **more):
    encoder = Encoder(byte_tokenizer(bos=True), load_template("plain"), True, 400)
    monkeypatch.setattr(admit, "cached_encoder", lambda: encoder)
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    (chunk,) = chunks.plan(read_config.validate({"input": {"path": str(path), **more}, "output": "o"}, "test"))
    batch = admit.admit_chunks(
        pa.table({"item": [to_json(chunk)]}),
        work=str(tmp_path / "work"),
        encoder={},
        too_long="reject",
        excluded=indexes,
    )
    record = from_json(AdmittedChunk, batch["record"][0].as_py())
    return record, [row for part in record.rejected for row in pq.read_table(part.path).to_pylist()]


def test_rows_that_share_words_are_rejected_with_file_line_and_words(monkeypatch, tmp_path):
    rows = [
        {"instruction": "Say hello.", "output": "Hello."},
        {"instruction": "Answer.", "input": f"The question: {QUESTION.lower()}", "output": "The Po."},
        {"instruction": "Ask me something.", "output": OTHER},
        {"instruction": "Long.", "input": QUESTION, "output": "x" * 500},
    ]
    indexes = [index(tmp_path, ["Nothing of the kind here.", QUESTION]), index(tmp_path, [OTHER], 8, "sums.txt")]
    record, rejected = admitted(monkeypatch, tmp_path, rows, indexes)
    assert record.read == 4 and record.reasons == {"contaminated": 3} and not record.first_rejected
    assert [row["line"] for row in rejected] == [2, 3, 4] and json.loads(rejected[0]["raw"]) == rows[1]
    first = "bench.jsonl:2: it shares 13 words: which of these rivers is the longest one in all of southern europe"
    assert rejected[0]["detail"] == first
    assert rejected[1]["detail"].startswith("sums.txt:1: it shares 8 words: how many apples does tom have left when")


def test_a_short_text_is_found_as_an_instruction_or_an_input(monkeypatch, tmp_path):
    short = "What is the capital of France?"
    rows = [{"instruction": f"{short} ", "output": "Paris"}, {"instruction": f"Say: {short}", "output": short}]
    _, rejected = admitted(monkeypatch, tmp_path, rows, [index(tmp_path, [short])])
    detail = "bench.jsonl:1: its instruction or input is the text: what is the capital of france"
    assert [(row["line"], row["detail"]) for row in rejected] == [(1, detail)]


def test_turns_of_a_conversation_are_looked_into_where_exports_hold_them(monkeypatch, tmp_path):
    turns = [("user", "Hi."), ("assistant", "Hello."), ("user", QUESTION)]
    chat = {"messages": [{"role": role, "content": text} for role, text in turns]}
    record, rejected = admitted(monkeypatch, tmp_path, [chat], [index(tmp_path, [QUESTION])])
    assert record.reasons == {"contaminated": 1} and json.loads(rejected[0]["raw"]) == chat
    chat["messages"].append({"role": "assistant", "content": "The Po."})
    record, rejected = admitted(monkeypatch, tmp_path, [chat], [index(tmp_path, [QUESTION])], turns="each")
    assert record.read == 2 and record.reasons == {"contaminated": 1}
    assert rejected[0]["detail"].startswith("messages[3]: bench.jsonl:1: ") and "The Po." in rejected[0]["raw"]


def test_a_detail_shows_the_beginning_of_long_words(tmp_path):
    words = " ".join(f"{'x' * 500}{i}" for i in range(13))
    (reason,) = contaminations([Example("a", words, "c", None, "{}")], [index(tmp_path, [words])])
    assert reason is not None and len(reason.detail) < excluded.SHOWN_CHARS + 100


def test_many_characters_are_compared_in_stretches(monkeypatch, tmp_path):
    monkeypatch.setattr(excluded, "CHARS_AT_ONCE", 100)
    examples = [Example("a", QUESTION if i % 3 else "b", "c", None, "{}") for i in range(10)]
    reasons = contaminations(examples, [index(tmp_path, [QUESTION])])
    assert [reason is not None for reason in reasons] == [bool(i % 3) for i in range(10)]
    assert contaminations([], [index(tmp_path, [QUESTION], name="more")]) == []
    assert Path(tmp_path / "more").is_dir()
