"""`tss init` says what data is and writes a configuration of it that a run takes; data alone makes a run; a wrong column ends
a command before any work."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import write_jsonl

from pipeline import cli, config_or_data, read_config
from pipeline.arguments import make_parser
from pipeline.errors import BadRequest
from pipeline.examples import EXAMPLES
from pipeline.first_config import first_config
from pipeline.reading.chunks import plan
from pipeline.reading.first_rows import FIRST_ROWS, first_rows, require_layouts

ALPACA = [{"instruction": f"Do {i}.", "input": "x" if i % 2 else "", "output": f"{i}"} for i in range(40)]
CHAT = [
    {"messages": [{"role": "user", "content": f"Hi {i}"}, {"role": "assistant", "content": "Yes."}]} for i in range(9)
]
OTHER = [{"q": f"Why {i}?", "a": "So.", "stars": 1} for i in range(200)]


def written(words, overrides=(), name="c.yaml", folder=None):
    text, lines = first_config([str(word) for word in words], list(overrides))
    path = folder / name
    path.write_text(text)
    return read_config.load(path, []), "\n".join(lines), text


def test_what_init_writes_is_a_configuration_of_the_data(tmp_path):
    data = write_jsonl(tmp_path / "a b: #1.jsonl", ALPACA)
    config, lines, text = written([data], folder=tmp_path)
    assert [asked.path for asked in config.input] == [str(data)] and config.output == "runs/a-b---1"
    assert config.scorer.template == "alpaca" and config.select.budget == {"token_fraction": 0.05}
    assert "40 rows; Alpaca; columns: instruction, input and output" in lines and "50% have an input" in lines
    assert "100% Latin" in lines and "  # Alpaca; columns: instruction, input and output\n" in text
    plain = read_config.validate({"input": str(data), "output": config.output}, "test")
    assert config == plain  # all that is written is a default


def test_init_asks_for_the_chat_template_where_rows_are_conversations(tmp_path):
    config, lines, _ = written([write_jsonl(tmp_path / "c.jsonl", CHAT)], folder=tmp_path)
    assert config.scorer.template == "chat" and "100% are conversations" in lines


def test_data_alone_has_the_template_that_init_would_write(tmp_path):
    chat, plain = write_jsonl(tmp_path / "c.jsonl", CHAT), write_jsonl(tmp_path / "a.jsonl", ALPACA)
    assert config_or_data.of_data([str(chat)], []).scorer.template == "chat"
    assert config_or_data.of_data([str(chat)], ["scorer.template=plain"]).scorer.template == "plain"
    assert config_or_data.of_data([str(chat), str(plain)], []).scorer.template == "alpaca"  # most are instructions
    assert config_or_data.of_data([str(chat)], [], here=False).scorer.template == "alpaca"  # nobody can look there


def test_init_takes_flags_and_columns(tmp_path):
    data = write_jsonl(tmp_path / "o.jsonl", OTHER)
    flags = ["--model", "./m: x", "--budget", "2k", "--output", "out", "--set", "seed=3"]
    columns = ["--set", "input.0.columns={instruction: q, output: a}"]
    parsed = make_parser().parse_args(["init", str(data), *flags, *columns])
    config, lines, _ = written(parsed.config, parsed.overrides, folder=tmp_path)
    assert (config.scorer.model, config.select.budget, config.output, config.seed) == (
        "./m: x",
        {"tokens": 2000},
        "out",
        3,
    )
    assert config.input[0].columns.instruction == "q" and "columns of its own" in lines
    assert "about " in lines  # more rows than were looked at


def test_a_hostile_name_of_a_column_stays_in_its_comment(tmp_path):
    rows = [{**row, "a\nseed: 7\n\x1b[2J\u202e#": 1} for row in ALPACA]
    config, _, text = written([write_jsonl(tmp_path / "h.jsonl", rows)], folder=tmp_path)
    assert config.seed == 0 and "\x1b" not in text and "\u202e" not in text


def test_init_counts_rows_of_parquet_and_reads_every_file_of_a_folder(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(ALPACA * 10), folder / "a.parquet")
    write_jsonl(folder / "b.jsonl", CHAT)
    config, lines, _ = written([folder], folder=tmp_path)
    assert config.output == "runs/data" and "a.parquet: 400 rows; Alpaca" in lines and "b.jsonl: 9 rows; chat" in lines


def test_init_on_data_that_it_does_not_know_names_the_columns(tmp_path, capsys):
    data = write_jsonl(tmp_path / "o.jsonl", OTHER)
    assert cli.main(["init", str(data)]) == 2
    shown = capsys.readouterr()
    assert "columns: q, a and stars" in shown.err and "--set 'input.0.columns=" in shown.err and shown.out == ""


def test_init_prints_the_configuration_alone(tmp_path, capsys):
    assert cli.main(["init", str(write_jsonl(tmp_path / "a.jsonl", ALPACA))]) == 0
    shown = capsys.readouterr()
    assert yaml.safe_load(shown.out)["select"]["budget"] == "5%" and "letters" in shown.err


@pytest.mark.parametrize(
    ("words", "reading"),
    [
        (["c.yaml"], True),
        (["C.YML"], True),
        (["settings"], True),  # a file, and no kind of data
        (["none"], False),
        (["a.jsonl"], False),
        (["a.jsonl", "b.csv"], False),
        (["s3://bucket/a"], False),
        (["."], False),
    ],
)
def test_configurations_are_told_from_data(tmp_path, monkeypatch, words, reading):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings").write_text("input: a")
    assert config_or_data.is_config(words) is reading


def test_what_is_not_there_is_named_with_both_readings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in ("none.yaml", "none.jsonl"):
        with pytest.raises(BadRequest, match=rf"{word}: no such file.*is a configuration, any other is data"):
            config_or_data.load([word], [])
    with pytest.raises(BadRequest, match="one configuration, or data alone"):
        config_or_data.load(["a.jsonl", "c.yaml"], [])
    (tmp_path / "c.json").write_text(json.dumps({"input": "a", "output": "b", "seed": 1}))
    with pytest.raises(BadRequest, match="holds the keys of a configuration"):
        config_or_data.load(["c.json"], [])


@pytest.mark.parametrize("word", ["x" * 5000, "x" * 5000 + ".yaml", "~nobody-at-all/a.jsonl", "a\0b", "none/*.jsonl"])
def test_names_that_no_file_can_have_are_refused_in_words(word, capsys):
    assert cli.main(["init", word]) == 2
    assert capsys.readouterr().err.startswith("tss: ")


def test_credentials_in_the_name_of_data_are_neither_used_nor_shown(capsys):
    assert cli.main(["run", "s3://user:secret@bucket/a.jsonl"]) == 2
    shown = capsys.readouterr().err
    assert "a URL with credentials in it" in shown and "secret" not in shown


def test_data_of_another_machine_need_not_be_here(tmp_path):
    assert config_or_data.load(["/shared/none.jsonl"], [], here=False).output == "runs/none"


def test_flags_are_keys_and_are_named_where_they_are_wrong(tmp_path, capsys):
    data = str(write_jsonl(tmp_path / "a.jsonl", ALPACA))
    parsed = make_parser().parse_args(["run", data, "--embedder", "lexical", "--template", "plain", "--budget", "10%"])
    config = config_or_data.load(parsed.config, parsed.overrides)
    assert (config.embedder.model, config.scorer.template) == ("lexical", "plain")
    assert config.select.budget == {"token_fraction": 0.1}
    assert cli.main(["run", data, "--budget", "much"]) == 2
    assert "--budget: select.budget: found 'much': accepted: 10% or 0.1" in capsys.readouterr().err


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path):
    data = write_jsonl(tmp_path / "o.jsonl", OTHER)
    config = read_config.validate(
        {"input": {"path": str(data), "columns": {"instruction": "qq", "output": "a"}}, "output": "out"}, "test"
    )
    with pytest.raises(BadRequest, match=r"no column 'qq' \(instruction\), did you mean 'q'\?.* q, a and stars"):
        require_layouts(plan(config), 0.05)
    require_layouts(plan(config), 1.0)  # all rows may be lost, and more than those that were looked at may be good


@pytest.mark.parametrize(("bad", "good", "refused"), [(200, 0, True), (3, 0, True), (99, 1, False), (100, 50, True)])
def test_a_run_is_refused_where_none_of_the_first_rows_can_be_used(tmp_path, bad, good, refused):
    data = write_jsonl(tmp_path / "o.jsonl", [*OTHER[:bad], *ALPACA[:1] * good])
    config = read_config.validate({"input": str(data), "output": "out"}, "test")
    if refused:
        with pytest.raises(BadRequest, match="missing_field: columns: q, a and stars"):
            require_layouts(plan(config), 0.05)
    else:
        require_layouts(plan(config), 0.05)


def test_init_says_where_a_run_would_fail_for_rows_that_cannot_be_used(tmp_path):
    for bad, fails in ((1, False), (9, True)):
        data = write_jsonl(tmp_path / f"{bad}.jsonl", [*ALPACA, *OTHER[:bad]])
        _, lines, _ = written([data], folder=tmp_path)
        assert f"{bad} of the first {40 + bad} rows cannot be used" in lines
        assert ("a run fails where more than 5% of a file's rows cannot be used" in lines) == fails


def test_a_small_bad_file_among_good_ones_does_not_end_a_run(tmp_path):
    paths = [write_jsonl(tmp_path / "a.jsonl", ALPACA), write_jsonl(tmp_path / "b.jsonl", OTHER[:5])]
    config = read_config.validate({"input": [str(path) for path in paths], "output": "out"}, "test")
    require_layouts(plan(config), 0.05)
    with pytest.raises(BadRequest, match=r"b\.jsonl: none of its 5 rows"):
        require_layouts(plan(config), 0.04)


def test_the_look_is_bounded_in_rows_and_files(tmp_path):
    for number in range(70):
        write_jsonl(tmp_path / f"{number:02}.jsonl", OTHER[: 150 if number == 0 else 1])
    looks = first_rows(plan(read_config.validate({"input": str(tmp_path), "output": "out"}, "test")))
    assert len(looks) == 32 and looks[0].read == FIRST_ROWS and not looks[0].whole and looks[1].whole
    assert [look.chunk.source for look in looks[:4]] == ["00", "02", "04", "06"]


@pytest.mark.parametrize("verb", EXAMPLES)
def test_every_help_ends_with_an_example(capsys, verb):
    with pytest.raises(SystemExit):
        make_parser().parse_args([verb, "--help"])
    assert capsys.readouterr().out.partition("example:\n")[2].strip().startswith(f"tss {verb}")


def test_every_verb_has_an_example():
    assert EXAMPLES.keys() == cli._VERBS.keys()


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (
            ['{"q": "half', *OTHER],
            {"instruction": "qq", "output": "a"},
            "no column 'qq' .instruction., did you mean 'q'",
        ),
        (["{", '  "q": "x"', "}"] * 40, None, "for example line 1: malformed_json: .* a name that ends in .json"),
        (['["a", "b"]'], None, "its only row cannot be used: for example line 1: not_an_object: .* ends in .json"),
    ],
    ids=["one broken row", "one document", "an array"],
)
def test_what_no_row_of_can_be_read_is_refused_though_some_are_broken_as_well(tmp_path, rows, columns, words):
    data = write_jsonl(tmp_path / "o.jsonl", rows)
    asked = {"input": [{"path": str(data), "columns": columns}], "output": str(tmp_path / "out")}
    with pytest.raises(BadRequest, match=words):
        require_layouts(plan(read_config.validate(asked, "test")), 0.05)
