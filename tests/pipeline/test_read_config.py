"""A wrong configuration is answered with file, line, key, value and what is accepted."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import read_config
from pipeline.errors import BadRequest

GOOD = "input:\n  - path: a.jsonl\noutput: out\n"
BAD = [
    ("scorer:\n  modle: x\n", [], r"c.yaml:5: scorer.modle: unknown key; did you mean 'model'\?"),
    ("alternatives: {k: many}\n", [], r"c.yaml:4: alternatives.k: found 'many'"),
    ("alternatives: {k: 0}\n", [], r"alternatives.k: found 0: .*greater than or equal to 1"),
    ("scorer: {dtype: float8}\n", [], r"scorer.dtype: found 'float8'.*'bfloat16'"),
    ("select: {budget: {tokens: 0}}\n", [], r"select.budget: .*at least 1"),
    ("select: {budget: {tokens: 5, examples: 5}}\n", [], r"exactly one of tokens"),
    ("select: {budget: {rows: 5}}\n", [], r"exactly one of tokens"),
    ("select: {budget: {token_fraction: 1.5}}\n", [], r"above 0 and at most 1"),
    ("select: {budget: {tokens: -.inf}}\n", [], r"select.budget"),
    ("select: {score: instruction}\n", [], r"no numeric column 'instruction'; accepted: .*tss_pp"),
    ("select: {score: {tss: 1, ppl: 0}}\n", [], r"weights must be finite numbers other than 0"),
    ("select: {score: {tss: .inf}}\n", [], r"weights must be finite numbers other than 0"),
    ("select: {where: 'ppl <'}\n", [], r"select.where"),
    ("select: {where: 'source < 3'}\n", [], r"select.where: .*does not fit its columns"),
    ("select: {quota: {a: 0.7, b: 0.7}}\n", [], r"add up to at most 1"),
    (
        "scorer: {chat: {enable_thinking: false}}\n",
        [],
        r"found chat with template: alpaca; .* for template: chat alone",
    ),
    ("scorer: {template: chat, chat: {messages: []}}\n", [], r"scorer.chat"),
    (
        "scorer: {template: chat, chat: {tools: a}}\n",
        [],
        r"scorer.chat: .*'tools' is no variable that can be set; accepted",
    ),
    ("scorer: {template: chat, chat: {a b: 1}}\n", [], r"scorer.chat: .*'a b' is no variable"),
    ("scorer: {template: chat, chat: {a: .nan}}\n", [], r"scorer.chat: .*a: must be text, a finite number"),
    ("", ["scorer.k=3"], r"^--set: scorer.k: unknown key"),
    ("", ["nothing"], r"expected key=value"),
    ("", ["seed.x=3"], r"seed: found"),
    ("", ["input.3.path=b"], r"no place of a list of 1|holds a single value"),
    ("- broken\n", [], r"c.yaml:4:1: cannot be read as YAML: .*begun in line 1"),
    ("seed: {a: [1\n", [], r"c.yaml:5:1: cannot be read as YAML"),
    ("seed:\n\ta: 1\n", [], r"c.yaml:5:1: .*accepted: spaces before keys, no tabs"),
    (
        "embedder: lexical\n",
        [],
        r"embedder: found 'lexical'; did you mean embedder.model\? accepted: .*model, batch_size",
    ),
    ("select: [a]\n", [], r"select: found \['a'\]; accepted: keys below it, "),
]


@pytest.mark.parametrize(("more", "overrides", "words"), BAD)
def test_bad_requests(tmp_path, more, overrides, words):
    path = tmp_path / "c.yaml"
    path.write_text(GOOD + more)
    with pytest.raises(BadRequest, match=words):
        read_config.load(path, overrides)


@pytest.mark.parametrize(
    "text", ["", "just text", "[1, 2]", "output: x", "input: []\noutput: x", "input: [{source: a}]\noutput: x"]
)
def test_what_is_no_configuration(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(BadRequest):
        read_config.load(path, [])


def test_missing_file(tmp_path):
    with pytest.raises(BadRequest, match="no such file; accepted"):
        read_config.load(tmp_path / "none.yaml", [])
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(BadRequest, match=r"no such file \(did you mean '.*/mine.yaml'\?\); accepted"):
        read_config.load(tmp_path / "mien.yaml", [])


def test_overrides_and_short_forms(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("input: a.jsonl\noutput: out\nselect: {budget: {examples: 3}}\n")
    loaded = read_config.load(path, ["select.budget.tokens=1000", "scorer.dtype=float32", "input.0.source=mine"])
    assert loaded.input[0].path == "a.jsonl" and loaded.input[0].source == "mine" and loaded.scorer.dtype == "float32"
    assert loaded.select.budget == {"tokens": 1000}
    assert read_config.validate(loaded.model_dump(), "manifest") == loaded


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["input", "output", "select", "budget", "path", "x"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_any_data_is_a_configuration_or_a_bad_request(data):
    try:
        read_config.validate(data if isinstance(data, dict) else {"input": data, "output": "o"}, "here")
    except BadRequest as problem:
        assert str(problem)


@pytest.mark.parametrize(
    "text",
    [
        "input=s3://key:secret@bucket/x.jsonl",
        "input=s3://bucket/x.jsonl?access_key=secret",
        "input=[s3://key:secret@bucket",
        "scorer.model=https://key:secret@host/model",
        "scorer.template=s3://key:secret@host/m.jinja",
        "s3://key:secret@host=1",
    ],
)
def test_credentials_are_refused_and_not_shown(tmp_path, text):
    (tmp_path / "c.yaml").write_text(GOOD)
    with pytest.raises(BadRequest, match="credentials") as problem:
        read_config.load(tmp_path / "c.yaml", [text])
    assert "secret" not in str(problem.value)


def test_credentials_in_a_file_are_refused_and_not_shown(tmp_path):
    (tmp_path / "c.yaml").write_text(f"{GOOD}scorer: {{model: 'https://key:secret@host/model'}}\n")
    with pytest.raises(BadRequest, match=r"c.yaml: scorer.model: a URL with credentials") as problem:
        read_config.load(tmp_path / "c.yaml", [])
    assert "secret" not in str(problem.value)


def test_a_configuration_is_no_url():
    with pytest.raises(BadRequest, match="CONFIG: found a URL") as problem:
        read_config.load(Path("s3://key:secret@host/c.yaml"), [])
    assert "secret" not in str(problem.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("selct.mode=full", r"--set: selct: unknown key; did you mean 'select'\?"),
        ("select.budgt=5%", r"select.budgt: unknown key; did you mean 'budget'\?"),
        ("alternatives.generator.modle=x", r"generator.modle: unknown key; did you mean 'model'\?"),
        ("input.0.columns.instuction=x", r"columns.instuction: unknown key; did you mean 'instruction'\?"),
        ("template=chat", r"template: unknown key; did you mean 'scorer.template'\?"),
        ("budget=5%", r"budget: unknown key; did you mean 'select.budget'\?"),
        ("select.budget.token=5", r"did you mean 'tokens'\? accepted: exactly one of"),
    ],
)
def test_the_nearest_key_is_named_at_every_depth(override, words):
    data = read_config.override({"input": "a.jsonl", "output": "out"}, [override])
    with pytest.raises(BadRequest, match=words):
        read_config.validate(data, "test", overrides=[override])
