"""`tss explain`: tokens add up to what was stored, a row is found by what a person types, no text of a corpus acts."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import byte_tokenizer, random_model
from published_runs import publish_rows, scored_row
from scored_runs import publish_scored, scored_by

from operators.hashing import content_hash
from operators.prompts.template import BUILT_IN
from operators.scoring.scores import tss_nce
from pipeline import cli, explain
from pipeline.inspection import explain_page, explain_words
from pipeline.runs.manifest import ScorerName, sealed
from pipeline.runs.open_run import read_manifest

CHAT = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Count the words.\n\na b"},
    {"role": "assistant", "content": "2"},
]
RECORDS = [
    {"instruction": "Sort the words.", "input": "b a", "output": "a b"},
    {"instruction": "Say it backwards.", "input": "", "output": "日本 <eos> é"},
    {"instruction": "Count the words.", "input": "a <bos> b", "output": "<script>alert(1)</script>\n\x1b[31m"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, model_folder):
    """A run whose first and last rows are selected, with a row that was rejected."""
    rejected = {
        "source": "a",
        "file": "/data/a.jsonl",
        "line": 9,
        "raw": json.dumps({"instruction": "Sort the words.", "input": "", "output": "too long"}),
        "reason": "too_long",
        "detail": "500 prompt tokens",
    }
    near = {
        "id": f"{7:032x}",
        "source": "a",
        "file": "/data/a.jsonl",
        "line": 8,
        "turn": None,
        "stayed": "s" * 32,
        "similarity": 0.97,
    }
    folder = tmp_path_factory.mktemp("explained")
    more = {"rejected": [rejected], "near_duplicates": [near], "select": {"temperature": 0}}
    return publish_scored(folder, model_folder, RECORDS, selected=[0, 2], **more)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    monkeypatch.setattr("ray.init", lambda *args, **kwargs: pytest.fail("Ray was started"))


def id_of(record):
    return content_hash(record["instruction"], record["input"], record["output"]).hex()


def explained(run, record, **model):
    return explain.explain(str(run), id_of(record), explain.Model(**model))


def require_sums(row):
    """The figures of tokens are those that the scores were made of."""
    tokens, stored = row.tokens, row.figures
    assert tokens is not None, row.without_tokens
    terms = np.array(tokens.differences).mean(axis=1)
    assert np.abs(terms - [each.difference for each in row.alternatives]).max() <= 1e-4
    assert np.abs(terms - tokens.terms).max() <= 1e-12 and tokens.gap <= 1e-4
    assert abs(sum(tokens.own) - stored["loglik_sum"]) <= 1e-4 * stored["n_target_tokens"]
    assert tokens.sum_gap == pytest.approx(abs(sum(tokens.own) - stored["loglik_sum"]))
    again = tss_nce(np.zeros(1), -terms[None, :], hardest=int(row.score["hardest"]), tau=row.score["tau"])
    assert again[0] == pytest.approx(stored["tss_nce"], abs=1e-3)
    assert len(tokens.ids) == stored["n_target_tokens"] == len(tokens.texts)
    assert "".join(tokens.texts[: len(tokens.texts) - tokens.end]) == row.output


@pytest.mark.parametrize("record", RECORDS)
def test_differences_of_tokens_make_up_the_terms_of_the_score(run, record):
    row = explained(run, record)
    require_sums(row)
    assert row.alternatives[0].origin == "generated" and len(row.alternatives) == 3


@pytest.mark.ray  # slow
@pytest.mark.parametrize(
    ("record", "scorer"),
    [
        ({"messages": CHAT}, {"template": "chat"}),
        ({"messages": CHAT}, {"template": "plain"}),
        (
            {"instruction": "Name the first letter.", "input": "b a " * 300, "output": "a b"},
            {"too_long": "truncate_input"},
        ),
        ({"instruction": "Sort the words.", "input": "", "output": "a b"}, {"append_eos": False}),
    ],
)
def test_the_sums_hold_under_every_template_and_policy(tmp_path, model_folder, record, scorer):
    made = publish_scored(tmp_path, model_folder, [record], scorer=scorer)
    row = explain.explain(str(made), "/data/a.jsonl:1", explain.Model())
    require_sums(row)
    assert row.figures["input_truncated"] == ("too_long" in scorer)


def test_another_model_is_refused_and_said(run, tmp_path):
    random_model("qwen").save_pretrained(tmp_path / "other")
    byte_tokenizer(bos=True).save_pretrained(tmp_path / "other")
    row = explained(run, RECORDS[0], name=str(tmp_path / "other"))
    assert row.tokens is None and "is not the one that scored this run" in row.without_tokens
    assert row.figures["loglik_sum"] is not None and len(row.alternatives) == 3


def test_the_same_model_elsewhere_is_the_same(run, tmp_path, model_folder):
    shutil.copytree(model_folder, tmp_path / "moved")
    require_sums(explained(run, RECORDS[0], name=str(tmp_path / "moved")))


def test_without_the_model_all_else_is_shown(tmp_path, capsys):
    rows = [scored_row(f"Do {number}.", n_prompt_tokens=3, n_target_tokens=2) for number in range(2)]
    run = publish_rows(tmp_path, rows, scorer={"model": str(tmp_path / "gone")})
    assert cli.main(["explain", str(run), rows[0]["id"]]) == 0
    shown = capsys.readouterr().out
    assert "is not at hand" in shown and "Do 0." in shown and "tss_pp 0.5" in shown
    assert cli.main(["explain", str(run), rows[0]["id"], "--no-model", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["tokens"] is None and plain["figures"]["tss_pp"] == 0.5 and plain["version"] == 1


def test_a_models_own_code_waits_for_a_word(tmp_path, model_folder):
    named = ScorerName(str(model_folder), "f", "float32", BUILT_IN["alpaca"], "h")
    settings = {"model": str(model_folder), "max_length": 400, "trust_remote_code": True}
    run = publish_rows(tmp_path, [scored_row()], scorer=settings, named=named)
    row = explain.explain(str(run), scored_row()["id"], explain.Model())
    assert "--trust-remote-code" in row.without_tokens
    trusted = explain.explain(str(run), scored_row()["id"], explain.Model(trust_remote_code=True))
    assert "is not the one that scored" in trusted.without_tokens  # it went on to the fingerprint


def test_a_row_that_is_encoded_otherwise_has_no_tokens(tmp_path, model_folder):
    def with_a_token_more(rows):
        return [{**row, "n_target_tokens": row["n_target_tokens"] + 1} for row in rows]

    rows, named, settings = scored_by(model_folder, RECORDS[:1])
    run = publish_rows(tmp_path, with_a_token_more(rows), scorer=settings, named=named)
    row = explained(run, RECORDS[0])
    assert row.tokens is None and "not encoded as when it was scored" in row.without_tokens


def test_a_row_is_found_by_the_beginning_of_its_id_and_by_its_place(run):
    id = id_of(RECORDS[1])
    for wanted in (id, id.upper(), id[:9], "a.jsonl:2", "/data/a.jsonl:2"):
        assert explain.explain(str(run), wanted, None).id == id


MISTYPED = id_of(RECORDS[0])[:-1] + ("0" if id_of(RECORDS[0])[-1] != "0" else "1")
REJECTED = content_hash("Sort the words.", "", "too long").hex()


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (MISTYPED, f"did you mean {id_of(RECORDS[0])}"),
        (REJECTED, "was rejected: too_long, 500 prompt tokens"),
        (REJECTED[:10], "was rejected: too_long"),
        (f"{7:032x}", f"near duplicate of {'s' * 32}, similarity 0.970"),
        ("a.jsonl:9", "was rejected: too_long"),
        ("a.jsonl:8", "near duplicate"),
        ("jsonl:1", "no row of the run was read there"),
        ("a.jsonl:77", "no row of the run was read there"),
        ("zz", "accepted: an id (32 hex digits"),
        (" ", "accepted: an id (32 hex digits"),
        ("f" * 33, "accepted: an id (32 hex digits"),
    ],
)
def test_what_is_no_scored_row_is_said(run, capsys, wanted, words):
    assert cli.main(["explain", str(run), wanted]) == 2
    shown = capsys.readouterr()
    assert words in shown.err and not shown.out


def test_an_ambiguous_beginning_names_the_rows(tmp_path, capsys):
    rows = [{**scored_row(f"Do {number}."), "id": f"{number:032x}"} for number in range(20)]
    run = publish_rows(tmp_path, rows)
    assert cli.main(["explain", str(run), "0000"]) == 2
    shown = capsys.readouterr().err
    assert "over 5 rows" in shown and f"{0:032x} ('Do 0.')" in shown


def test_duplicates_are_spoken_of(tmp_path, capsys):
    run = publish_rows(tmp_path, [scored_row()])
    manifest = read_manifest(str(run))
    counts = replace(manifest.counts, duplicates=3)
    (run / "manifest.json").write_text(sealed(replace(manifest, counts=counts)))
    assert cli.main(["explain", str(run), "b.jsonl:4"]) == 2
    assert "the run has 3 duplicates, which are counted and not listed" in capsys.readouterr().err


def test_a_damaged_part_is_named(tmp_path, capsys):
    run = publish_rows(tmp_path, [scored_row()])
    (part,) = (run / "scored").iterdir()
    data = bytearray(part.read_bytes())
    data[-20] ^= 255
    part.write_bytes(data)
    assert cli.main(["explain", str(run), scored_row()["id"], "--no-model"]) == 1
    assert part.name in capsys.readouterr().err


def test_a_page_shows_tokens_and_escapes_every_text(run, tmp_path, capsys):
    page = tmp_path / "row.html"
    assert cli.main(["explain", str(run), id_of(RECORDS[2]), "--html", str(page)]) == 0
    html = page.read_text()
    assert "<script" not in html and "&lt;script&gt;" in html and html.count('title="') >= len(RECORDS[2]["output"])
    assert "rgba(" in html and html.startswith("<!doctype html>") and "default-src &#39;none&#39;" not in html
    row = explained(run, RECORDS[2])
    assert "<script" not in row._repr_html_() and "<html" not in row._repr_html_()
    assert cli.main(["explain", str(run), id_of(RECORDS[2]), "--html", str(tmp_path / "file" / "x")]) == 0
    (tmp_path / "a-file").write_text("")
    assert cli.main(["explain", str(run), id_of(RECORDS[2]), "--html", str(tmp_path / "a-file" / "x")]) == 2
    assert "--html" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [(True, {}, True), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False), (False, {}, False)],
)
def test_colours_are_for_terminals_that_want_them(run, capsys, monkeypatch, terminal, environment, coloured):
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    assert cli.main(["explain", str(run), id_of(RECORDS[2])]) == 0
    shown = capsys.readouterr().out
    # A text of the corpus that would colour the terminal is shown as what it is.
    assert "\x1b[31m" not in shown and "\\x1b[31m" in shown
    assert ("\x1b[38;5;16;48;5;" in shown) == coloured and ("mean  " in shown) == (not coloured)


def test_shades_follow_the_differences(run):
    row = explained(run, RECORDS[0])
    for nats in (0.05, 0.3, 0.7, 1.5, 9.0):
        level = sum(nats >= edge for edge in explain_words.LEVELS)
        assert (explain_words._shade("x", nats) == "x") == (level == 0)
        assert level == 0 or explain_words._shade("x", nats) != explain_words._shade("x", -nats)
    table = explain_words.as_text(row).splitlines()
    means = [float(value) for value in table[-1].split()[1:]]
    assert np.allclose(means[1:], [each.difference for each in row.alternatives], atol=6e-4)
    assert means[0] == pytest.approx(row.figures["loglik_mean"], abs=6e-4)


def test_hardest_alternatives_are_marked_by_their_likelihood(run):
    row = explained(run, RECORDS[0])
    assert all(each.hardest for each in row.alternatives)  # fewer than `score.hardest`
    assert row.figures["tss_nce"] == pytest.approx(-np.log1p(sum(each.share for each in row.alternatives)))
    assert (row.file, row.line) == ("/data/a.jsonl", 1)


def test_a_row_without_alternatives_has_tokens_all_the_same(tmp_path, model_folder):
    rows, named, settings = scored_by(model_folder, RECORDS[:1], k=0)
    run = publish_rows(tmp_path, rows, scorer=settings, named=named)
    row = explained(run, RECORDS[0])
    assert row.tokens.differences == [] and abs(sum(row.tokens.own) - row.figures["loglik_sum"]) <= 1e-4
    assert "no alternatives" in row.standing.words or row.standing.selected
    assert "own" in explain_words.as_text(row) and "<html" in explain_page.page(row)
