"""Names of files, a configuration and a model are a stranger's: whatever they hold becomes a bad request."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from conftest import byte_tokenizer, random_model, write_jsonl
from hostile_inputs import GOOD, deep
from hypothesis import example, given
from hypothesis import strategies as st

from operators.prompts import render_process
from operators.prompts.load_tokenizer import load_tokenizer
from operators.scoring import models
from pipeline import cli, config, read_config
from pipeline.errors import BadRequest
from pipeline.reading import chunks
from pipeline.reading.pool_file import read_pool_file
from pipeline.runs.output import check_output

# Files and folders


@pytest.mark.parametrize(
    "path", ["~nobody-of-this-name/x", "x" * 5000, "x" * 5000 + "*", "[", "://", "/dev/zero", "file://x"]
)
def test_paths_that_are_none(path):
    with pytest.raises(BadRequest, match=r"^input\.0\.path"):
        chunks.plan(read_config.validate({"input": path, "output": "o"}, "test"))


@pytest.mark.parametrize(
    "path", ["~nobody-of-this-name/x", "x" * 5000, "/dev/null/x", pytest.param("s3://x", marks=pytest.mark.ray)]
)
def test_outputs_that_are_none(path):
    with pytest.raises(BadRequest, match=r"^output"):
        check_output(path)


def test_a_file_name_that_is_not_text_is_refused(tmp_path):
    name = b"\xff.jsonl".decode("utf-8", "surrogateescape")
    write_jsonl(tmp_path / name, [GOOD])
    for path in (tmp_path, tmp_path / "*"):
        with pytest.raises(BadRequest, match=r"^input\.0\.path"):
            chunks.plan(read_config.validate({"input": str(path), "output": "o"}, "test"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", deep(100_000)),
        ("a.jsonl", '{"instruction": "\\ud800"}'),
        ("a.jsonl", "[1]"),
        ("a.csv", 'instruction\n"' + "x" * (17 << 20) + '"\n'),
        ("a.txt", ""),
        ("a.parquet", "PAR1"),
    ],
)
def test_pool_files_that_are_none(tmp_path, name, data):
    (tmp_path / name).write_text(data)
    with pytest.raises(BadRequest, match=r"^alternatives\.pool"):
        read_pool_file(str(tmp_path / name))


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
    monkeypatch.setattr("pipeline.runs.output.session", lambda address: pytest.fail("work began"))
    HOSTILE_MODELS[words](own_model)
    assert model_request(own_model, tmp_path) == 2
    shown = capsys.readouterr().err
    assert any(word in shown for word in words.split("|")) and "Traceback" not in shown
    assert not (own_model / "ran").exists() and not (tmp_path / "out").exists()


@pytest.mark.ray  # slow
def test_a_chat_template_that_loops_is_a_bad_request(own_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.runs.output.session", lambda address: pytest.fail("work began"))
    tokenizer = byte_tokenizer(bos=True)
    tokenizer.chat_template = LOOP
    tokenizer.save_pretrained(own_model)
    monkeypatch.setattr(render_process, "SECONDS", 0.5)
    assert model_request(own_model, tmp_path, template="chat") == 2
    assert "scorer.template: template 'chat' did not finish within 0.5 s on a row of " in capsys.readouterr().err


def test_a_template_file_that_loops_is_a_bad_request(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.runs.output.session", lambda address: pytest.fail("work began"))
    monkeypatch.setattr(render_process, "SECONDS", 0.5)
    (tmp_path / "t.jinja").write_text(LOOP)
    assert model_request(model_folder, tmp_path, template=str(tmp_path / "t.jinja")) == 2
    assert "did not finish within 0.5 s on a row of " in capsys.readouterr().err


def test_a_name_that_no_folder_can_have_is_a_bad_request(tmp_path, capsys):
    assert model_request("./" + "x" * 5000, tmp_path) == 2
    assert "File name too long" in capsys.readouterr().err
    with pytest.raises(models.ModelProblem):
        load_tokenizer("./none")
