"""A corpus, a configuration and a model are a stranger's: whatever they hold becomes a row, a rejection or a bad request."""

import csv
import gzip
import io
import json
import random
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import runs
import torch
import yaml
from conftest import byte_tokenizer, random_model, write_jsonl
from hypothesis import example, given
from hypothesis import strategies as st

from operators import models
from operators.normalise import FLAT_LAYOUTS, TURN_LAYOUTS, Example, Rejection, normalise
from pipeline import cli, config, flow, published, read, read_config, report, retrieve, sources
from pipeline.admit import UnreadableFile, _rows
from pipeline.errors import BadRequest
from pipeline.preflight import check_output
from pipeline.progress import Reporter

GOOD = {"instruction": "Sort.", "input": "b a", "output": "a b"}
MARKUP = "<script>alert('1')</script><img src=x onerror=\"x\">"


def deep(depth, opened="[", closed="]"):
    return opened * depth + closed * depth


def admitted(path, **more):
    """Each row's line with its Example, or with the reason why there is none; an exception where the file is refused."""
    wanted = read_config.validate(
        {"input": {"path": str(path), **more}, "output": "o", "ray": {"read_blocks": 1}}, "test"
    )
    found = []
    for chunk in sources.plan(wanted):
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


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".parquet", ".jsonl.gz", ".csv.zst", ".json.gz"])
@given(ANYTHING)
@example(b"")
@example(b"[" * 5000)
def test_any_bytes_are_rows_rejections_or_a_refused_file(kind, data):
    for content in {data, packed(kind, data)}:
        found = read_or_refused(kind, content)
        if kind.startswith(".jsonl") and content != data and data:
            # The numbers of the lines that are not blank, each once.
            lines = [number for number, line in enumerate(data.split(b"\n"), 1) if line.strip()]
            assert [number for number, _ in found] == lines


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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4) | st.just("\ud800"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "from", "value", "x"]), inner)
    ),
    max_leaves=8,
)
NAMES = sorted(
    {name.lstrip("?") for layout in FLAT_LAYOUTS.values() for name in layout.values()} | {*TURN_LAYOUTS, "task"}
)
ROLES = st.sampled_from(["user", "assistant", "human", "gpt"]) | JSON
TURNS = st.lists(st.fixed_dictionaries({"role": ROLES, "from": ROLES, "content": JSON, "value": JSON}), max_size=4)


@given(st.dictionaries(st.sampled_from(NAMES), JSON | TURNS | st.just("text"), max_size=6) | JSON, st.booleans())
def test_any_record_is_an_example_or_a_rejection(record, own_columns):
    try:
        found = normalise(record, {"instruction": "task", "output": "x"} if own_columns else None)
    except Rejection as rejection:
        assert rejection.reason and rejection.detail
        return
    assert found.instruction.strip() and found.output.strip()
    json.loads(found.extra, parse_constant=lambda name: pytest.fail(name))
    for text in vars(found).values():
        assert text is None or text.encode().decode() == text


# Rows

LARGE = 50_000_000


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
        assert most < 5 * read.MAX_ROW_BYTES


def test_csv_rows_of_many_lines_have_the_same_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "MAX_ROW_BYTES", 1000)
    path = tmp_path / "a.csv"
    path.write_text('instruction,output\nI,"' + "line\n" * 150 + '"\nI,"' + "line\n" * 250 + "I,Y\n")
    found = lines_of(admitted(path))
    assert found[:2] == [(2, "row"), (153, "row_too_large")] and found[-1][0] <= 404
    path.write_text("x" * 5000 + "\nI,Y\n")
    with pytest.raises(UnreadableFile, match="header"):
        admitted(path)


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
    from operators import where

    rows = [f'{{"stars": {value}}}' for value in ("1" + "0" * 400, "-1" + "0" * 400, "3", "true", '"x"')]
    table = pa.table({"extra": rows})
    assert where.column(table, "stars", float).to_pylist() == [float("inf"), float("-inf"), 3.0, 1.0, None]


# Files and folders


@pytest.mark.parametrize(
    "path", ["~nobody-of-this-name/x", "x" * 5000, "x" * 5000 + "*", "[", "://", "/dev/zero", "file://x"]
)
def test_paths_that_are_none(path):
    with pytest.raises(BadRequest, match=r"^input\.0\.path"):
        sources.plan(read_config.validate({"input": path, "output": "o"}, "test"))


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "x" * 5000, "/dev/null/x", "s3://x"])
def test_outputs_that_are_none(path):
    with pytest.raises(BadRequest, match=r"^output"):
        check_output(path)


def test_a_file_name_that_is_not_text_is_refused(tmp_path):
    name = b"\xff.jsonl".decode("utf-8", "surrogateescape")
    write_jsonl(tmp_path / name, [GOOD])
    for path in (tmp_path, tmp_path / "*"):
        with pytest.raises(BadRequest, match=r"^input\.0\.path"):
            admitted(path)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", deep(100_000)),
        ("a.jsonl", '{"instruction": "\\ud800"}'),
        ("a.jsonl", "[1]"),
        ("a.csv", 'instruction\n"' + "x" * 200_000 + '"\n'),
        ("a.txt", ""),
        ("a.parquet", "PAR1"),
    ],
)
def test_pool_files_that_are_none(tmp_path, name, data):
    (tmp_path / name).write_text(data)
    with pytest.raises(BadRequest, match=r"^alternatives\.pool"):
        retrieve.read_pool_file(str(tmp_path / name))


# Configurations

SECTIONS = [config.Config, *(type(one.default) for one in config.Config.model_fields.values())]
KEYS = sorted(
    {key for one in SECTIONS for key in getattr(one, "model_fields", {})} | {"path", "columns", "tokens", "²"}
)
NUMBERS = [10**30, -(10**30), 2**63, float("inf"), float("nan"), 10**4200]
WORDS = ["\ud800", "a\0b", "tss_pp", "auto", "x" * 5000]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.dates()
ANY_KEY = st.sampled_from(KEYS) | st.text(max_size=3) | st.integers() | st.none() | st.sampled_from(WORDS)
VALUES = st.recursive(
    SCALARS | st.sampled_from(NUMBERS) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_KEY, inner, max_size=4),
    max_leaves=10,
)


def requested(function, *arguments):
    """The configuration, or None where the request is refused in words."""
    try:
        return function(*arguments)
    except BadRequest as refused:
        assert 0 < len(str(refused)) < 50_000
        return None


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6), st.booleans())
def test_any_values_are_a_configuration_or_a_bad_request(data, complete):
    requested(read_config.validate, {**data, **({"input": "a", "output": "o"} if complete else {})}, "here")


@given(
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3),
    st.lists(st.sampled_from(KEYS) | st.text(max_size=3), min_size=1, max_size=4),
    st.text(max_size=8) | st.sampled_from(["!!int x", "[" * 300, "2001-99-99", ".inf", "&a [*a]"]),
)
def test_any_override_is_a_configuration_or_a_bad_request(data, parts, value):
    text = f"{'.'.join(parts)}={value}"
    requested(
        lambda: read_config.validate(read_config.override({**data, "input": "a"}, [text]), "here", overrides=[text])
    )


TAGS = ["!!int ", "!!python/object:os.system ", "!!timestamp ", "!!bool ", "!!set ", "&a ", "*a", "<<: ", "? ", "%"]
YAML_PIECES = [
    *TAGS,
    "input: a\n",
    "output: o\n",
    "select: ",
    "x",
    "0b",
    "2001-99-99",
    ".nan",
    "- ",
    "  ",
    *"\n:{}[]'|\"\t#",
]


@given(
    st.lists(st.sampled_from([piece.encode() for piece in YAML_PIECES]) | st.binary(max_size=4), max_size=14).map(
        b"".join
    )
)
@example(b"input: a\noutput: o\nseed: 2001-99-99")
@example(b"input: a\noutput: o\na-b: 1")
def test_any_bytes_are_a_configuration_or_a_bad_request(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(data)
        requested(read_config.load, path, [])


def laughs(levels, first, wrapped):
    """YAML of a few lines in which each holds the one before ten times."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {wrapped.format(', '.join([f'*a{n - 1}'] * 10))}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


BASE = "input: a\noutput: o\n"
HOSTILE_YAML = [
    BASE + laughs(30, "[x, x]", "[{}]") + "scorer: {model: *a29}\n",
    BASE + laughs(30, "[x, x]", "[{}]") + "alternatives: {k: *a29}\nselect: {score: *a29}\n",
    BASE + laughs(30, "{x: 1}", "{{<<: [{}]}}"),
    BASE + "seed: " + "[" * 60 + "]" * 60,
    BASE + "seed: " + "[" * 3000,
    BASE + "seed: " + "9" * 5000,
    BASE + "seed: " + "9" * 30,
    BASE + "".join(f"k{i}: 1\n" for i in range(5000)),
    BASE + "ray: {gpus_per_scorer: .inf}",
    BASE + "ray: {gpus_per_scorer: .nan}",
    BASE + "ray: {read_blocks: 100000000000}",
    BASE + "select: {budget: {tokens: .inf}}",
    BASE + "select: {budget: {tokens: 1.0e+300}}",
    BASE + "embedder: {batch_size: 100000000000}",
    BASE + "select: {where: 'tss > " + "9" * 100 + "'}",
    BASE + "select: {where: '" + "not " * 100_000 + "tss > 1'}",
    BASE + "select: {where: '" + "-" * 100_000 + "tss > 1'}",
    BASE + 'scorer: {template: "a\\0b"}',
    BASE + 'scorer: {model: "\\ud800"}',
    BASE + "a: !!python/object/apply:os.system ['true']",
    "input: &a [*a]\noutput: o\n",
    "&a {input: *a, output: o}",
]


@pytest.mark.parametrize("text", HOSTILE_YAML, ids=range(len(HOSTILE_YAML)))
def test_hostile_configurations_are_refused_at_once(tmp_path, capsys, text):
    (tmp_path / "c.yaml").write_text(text)
    assert cli.main(["run", str(tmp_path / "c.yaml")]) == 2
    shown = capsys.readouterr().err
    assert str(tmp_path) in shown and "Traceback" not in shown and len(shown) < 50_000


def test_what_a_terminal_would_obey_is_shown_as_escapes(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(BASE + '"\\e[2J\\u202e": 1\n')
    assert cli.main(["run", str(tmp_path / "c.yaml")]) == 2
    assert r"\x1b[2J\u202e: unknown key" in capsys.readouterr().err


# Models


def model_request(folder, tmp_path, **scorer):
    write_jsonl(tmp_path / "a.jsonl", [GOOD])
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump(
            {
                "input": str(tmp_path / "a.jsonl"),
                "output": str(tmp_path / "out"),
                "embedder": {"model": "lexical"},
                "scorer": {"model": str(folder), "template": "plain", "max_length": 200, **scorer},
            }
        )
    )
    return cli.main(["run", str(tmp_path / "c.yaml"), "--quiet"])


@pytest.fixture
def own_model(tmp_path):
    """A folder of a model to be made hostile; no work may begin with it."""
    folder = tmp_path / "model"
    random_model("llama").save_pretrained(folder)
    byte_tokenizer(bos=True).save_pretrained(folder)
    return folder


def change(path, **more):
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save(random_model("llama").state_dict(), folder / "pytorch_model.bin")


def remote_code(folder):
    (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\nclass C: pass\n")
    change(
        folder / "config.json", auto_map={"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}, model_type="evil"
    )
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.C", "evil.C"]}, tokenizer_class="Evil")


LOOP = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
HOSTILE_MODELS = {
    "pickled weights are not loaded": pickled,
    "trust_remote_code": remote_code,
    "could not be loaded": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "configuration could not be loaded|tokenizer could not be loaded": lambda folder: (
        folder / "config.json"
    ).write_text("[]"),
    "recursion|could not be loaded": lambda folder: (folder / "config.json").write_text(deep(100_000)),
}


@pytest.mark.parametrize("words", HOSTILE_MODELS)
def test_hostile_models_are_refused_before_work(own_model, tmp_path, capsys, monkeypatch, words):
    monkeypatch.setattr("pipeline.request.session", lambda address: pytest.fail("work began"))
    HOSTILE_MODELS[words](own_model)
    assert model_request(own_model, tmp_path) == 2
    shown = capsys.readouterr().err
    assert any(word in shown for word in words.split("|")) and "Traceback" not in shown
    assert not (own_model / "ran").exists() and not (tmp_path / "out").exists()


def test_a_chat_template_that_loops_is_a_bad_request(own_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.request.session", lambda address: pytest.fail("work began"))
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.chat_template = LOOP
    tokenizer.save_pretrained(own_model)
    assert model_request(own_model, tmp_path, template="chat") == 2
    assert "scorer.template: template 'chat' failed: it loops" in capsys.readouterr().err


def test_a_template_file_that_loops_is_a_bad_request(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.request.session", lambda address: pytest.fail("work began"))
    (tmp_path / "t.jinja").write_text(LOOP)
    assert model_request(model_folder, tmp_path, template=str(tmp_path / "t.jinja")) == 2
    assert "beyond the limit of one rendering" in capsys.readouterr().err


def test_a_name_that_no_folder_can_have_is_a_bad_request(tmp_path, capsys):
    assert model_request("./" + "x" * 5000, tmp_path) == 2
    assert "File name too long" in capsys.readouterr().err
    with pytest.raises(models.ModelProblem):
        models.load_tokenizer("./none")


# A run over all of it

VERBATIM = [
    MARKUP,
    "=cmd|' /C calc'!A0",
    "@SUM(1+1)*cmd|' /C calc'!A0",
    "a\0b\0",
    "\u202eright to left\u202c \u200f\u061c",
    "\x1b[2J\x1b]0;title\x07 \r over",
    "\ufeff\ufffe\uffff\U0010ffff",
    "{{ 7 * 7 }} {% for a in b %} ${jndi:ldap://x}",
    "../../etc/passwd\\..\\..",
    "' OR 1=1; DROP TABLE rows; --",
    "Z\u0351\u036b" * 3,
]


def test_one_run_over_all_of_it(tmp_path, ray_session, model_folder):
    rows = [
        {"instruction": f"Do {i}: {text}", "input": text, "output": text, text: text} for i, text in enumerate(VERBATIM)
    ]
    bad = [
        "{" * 500,
        deep(100_000),
        '{"instruction": "I", "output": "\\ud800"}',
        b'{"instruction": "\xff", "output": "Y"}',
        b"\0\0\0",
        b"x" * (read.MAX_ROW_BYTES + 10),
        {"instruction": "I", "output": MARKUP, "x": json.loads(deep(300))},
        {MARKUP: MARKUP},
        [MARKUP],
        {"messages": [{"role": {"a": 1}, "content": "b"}]},
        {"instruction": " \n", "output": "Y"},
        {"instruction": "I", "output": "Y" * 1000},
    ]
    random.Random(0).shuffle(bad)
    odd = tmp_path / "<b onclick=alert(1)>&\x1b[2J.jsonl"
    write_jsonl(odd, [*rows[:6], *bad, rows[0], *rows[6:]])
    with (tmp_path / "formulas.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["instruction", "output", MARKUP], ["=1+1", "=cmd|x", "+1"], ["-2+3", "@x", "\0"], ["short"]])
    escape = config.Input(path=str(tmp_path / "formulas.csv"), source="../../../" + MARKUP + "/\x1b[31m" + "y" * 5000)
    wanted = runs.settings(tmp_path / "out", [odd], model_folder, scorer__too_long="reject")
    wanted = wanted.model_copy(update={"input": [*wanted.input, escape]})
    before = set(tmp_path.iterdir())
    summary = flow.run(wanted, Reporter(quiet=True))

    manifest = published.read_manifest(summary.run)
    counts = manifest["counts"]
    assert counts["read"] == len(rows) + 1 + len(bad) + 3
    assert counts["read"] == sum(counts["rejected"].values()) + counts["duplicates"] + counts["scored"]
    assert counts["duplicates"] == 1 and sum(counts["rejected"].values()) == len(bad) + 1
    assert set(counts["sources"]) == {odd.stem, escape.source}

    scored = {row["instruction"]: row for row in runs.table(Path(summary.run), "scored")}
    for row, text in zip(rows, VERBATIM, strict=True):
        found = scored[row["instruction"]]
        assert (found["input"], found["output"], json.loads(found["extra"])) == (text, text, {text: text})
    assert scored["=1+1"]["output"] == "=cmd|x" and json.loads(scored["-2+3"]["extra"]) == {MARKUP: "\0"}
    assert scored["=1+1"]["source"] == escape.source
    rejected = runs.table(Path(summary.run), "rejected")
    assert Counter(row["reason"] for row in rejected) == counts["rejected"]
    assert sorted(row["line"] for row in rejected if row["source"] == odd.stem) == list(range(7, 7 + len(bad)))
    assert all(json.loads(row["raw"]) is not None for row in rejected if row["reason"] != "not_an_object")

    page = (Path(summary.run) / published.REPORT).read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page
    for tag in ("<script", "<img", "<b onclick"):
        assert tag not in page
    shown = cli._shown(summary.text)
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert set(tmp_path.iterdir()) == before | {tmp_path / "out"}
    assert not any("y" * 100 in str(path) for path in (tmp_path / "out").rglob("*"))

    page = report.page(
        {**poisoned(manifest), "counts": {**manifest["counts"], "sources": {MARKUP: counts["sources"][odd.stem]}}}
    )
    assert page.count("&lt;script&gt;") > 10 and "<script" not in page and "<img" not in page


def poisoned(value):
    """The value with markup for each text."""
    if isinstance(value, dict):
        return {key: poisoned(inner) for key, inner in value.items()}
    return (
        [poisoned(inner) for inner in value] if isinstance(value, list) else MARKUP if isinstance(value, str) else value
    )
