"""The whole flow on Ray: accounts, values of the twins, invariance, selection, publishing."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import torch
from conftest import byte_tokenizer, random_model, write_jsonl
from reference import alternatives as slow_alternatives
from reference import cap as slow_cap
from reference import fold, loglik
from reference import select as slow_select
from reference import tss as slow_tss
from reference import tss_pp as slow_tss_pp
from small_runs import corpus, reselect, run, settings, table

from operators.hashing import content_hash
from operators.prompts.template import from_text
from operators.prompts.tokenise import Encoder
from operators.retrieval.embedder import LexicalEmbedder, embed_folded
from operators.retrieval.instruction_table import instruction_key
from operators.schema import REJECTED, SCORED, SELECTED
from pipeline import cli, flow, read_config
from pipeline.config import Score
from pipeline.engine import job
from pipeline.engine.progress import Reporter
from pipeline.errors import BadRequest, RunFailed
from pipeline.retrieval import blocks
from pipeline.runs import open_run

BAD_ROWS = [
    "{not json",
    b'{"instruction": "\xff", "output": "Y"}',
    "[1, 2]",
    {"instruction": "I"},
    {"text": "I"},
    {"instruction": "I", "output": ""},
    {"instruction": " ", "output": "Y"},
    {"instruction": 3, "output": "Y"},
    {"instruction": "I", "output": "Y " * 400},
    '{"instruction": "I", "output": NaN}',
    {"messages": [{"role": "user", "content": "I"}]},
    '{"instruction": "I", "output": "\\ud800"}',
    {"instruction": "I", "input": {"a": 1}, "output": "Y"},
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rows = corpus()
    first = write_jsonl(folder / "first.jsonl", [*rows[:20], *BAD_ROWS, rows[3], *rows[20:40]])
    second = write_jsonl(folder / "second.jsonl", [rows[5], rows[5], *rows[40:]])
    return [first, second]


@pytest.fixture(scope="module")
def done(ray_session, files, model_folder, tmp_path_factory):
    """A run over several blocks of rows, with every kind of bad row and with duplicates in and between files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_TOKENS", 2000)
        return run(tmp_path_factory.mktemp("out"), files, model_folder)


def test_accounts_add_up_with_every_kind_of_bad_row(done, files):
    counts = json.loads((done / "manifest.json").read_text())["counts"]
    lines = sum(bool(line.strip()) for path in files for line in path.read_bytes().split(b"\n"))
    distinct = len({content_hash(row["instruction"], row["input"], row["output"]) for row in corpus()})
    assert counts["read"] == lines == sum(counts["rejected"].values()) + counts["duplicates"] + counts["scored"]
    assert counts["scored"] == distinct and counts["rejected"] == {
        "malformed_json": 2,
        "invalid_utf8": 1,
        "not_an_object": 1,
        "missing_field": 2,
        "empty_output": 1,
        "empty_instruction": 1,
        "wrong_type": 2,
        "too_long": 1,
        "no_assistant_turn": 1,
        "invalid_unicode": 1,
    }
    for name in ("read", "duplicates", "scored", "selected"):
        assert counts[name] == sum(source[name] for source in counts["sources"].values())


def test_rejected_rows_name_their_line_and_keep_what_stood_there(done, files):
    rejected = table(done, "rejected")
    lines = files[0].read_bytes().split(b"\n")
    assert len(rejected) == len(BAD_ROWS) and all(row["detail"] for row in rejected)
    for row in rejected:
        assert row["file"] == str(files[0]) and row["source"] == "first"
        json.loads(row["raw"]) if row["reason"] != "malformed_json" or row["raw"][0] == '"' else None
        if row["reason"] in ("empty_output", "too_long", "missing_field"):
            assert json.loads(row["raw"]) == json.loads(lines[row["line"] - 1])


def test_schemas_and_names(done):
    for kind, schema in (("scored", SCORED), ("selected", SELECTED), ("rejected", REJECTED)):
        assert pq.read_schema(next((done / kind).glob("part-*.parquet"))).equals(schema)
    assert sorted(path.name for path in done.iterdir()) == [
        "README.md",
        "config.yaml",
        "manifest.json",
        "rejected",
        "report.html",
        "scored",
        "selected",
    ]
    assert json.loads((done.parents[1] / "latest.json").read_text())["run"] == f"runs/{done.name}"
    assert not (done.parents[1] / ".work").exists()


def test_the_output_loads_as_a_dataset(done):
    selected = datasets.load_dataset(str(done), "selected", split="train")
    assert datasets.load_dataset(str(done), "scored", split="train").num_rows == len(table(done, "scored"))
    assert selected["selection_rank"][:3] == [0, 1, 2] and selected.num_rows == len(table(done, "selected"))


def test_every_score_follows_from_the_twins(done):
    """Texts, alternatives, likelihoods, scores: all recomputed from the rows with the plainest code."""
    scored = table(done, "scored")
    manifest = json.loads((done / "manifest.json").read_text())
    tokenizer, model = byte_tokenizer(bos=True), random_model("llama")
    encoder = Encoder(tokenizer, from_text("manifest", manifest["scorer"]["template_text"]), True, 200)
    rows = [{"task": json.loads(row["extra"]).get("task"), **row} for row in scored]
    texts = sorted({fold(row["instruction"]) for row in rows})
    pool = [
        {"text": text, "hash": instruction_key(text), "vector": vector}
        for text, vector in zip(texts, embed_folded(LexicalEmbedder(), texts), strict=True)
    ]
    for row in rows[:25]:
        expected, skipped = slow_alternatives(row, rows, pool, 3, 0.95)
        assert [one["instruction"] for one in row["alternatives"]] == expected and row["paraphrases_skipped"] == skipped
        (target,) = encoder.targets([row["output"]])
        own = loglik(model, encoder.prompt(row["instruction"], row["input"]), target) / len(target)
        others = [loglik(model, encoder.prompt(text, row["input"]), target) / len(target) for text in expected]
        empty = loglik(model, [tokenizer.bos_token_id], target) / len(target)
        assert np.allclose(
            [row["loglik_mean"], row["loglik_empty_mean"], *(one["loglik_mean"] for one in row["alternatives"])],
            [own, empty, *others],
            atol=1e-4,
        )
        sums = own * len(target), [other * len(target) for other in others]
        assert row["tss"] == pytest.approx(slow_tss(*sums), abs=3e-4 * len(target))
        score = Score()
        assert row["tss_pp"] == pytest.approx(
            slow_tss_pp(own, others, score.hardest, score.tau, score.alpha), abs=3e-4 / score.tau
        )
        assert row["n_prompt_tokens"] == len(encoder.prompt(row["instruction"], row["input"])) and row[
            "n_target_tokens"
        ] == len(target)
        assert row["id"] == content_hash(row["instruction"], row["input"], row["output"]).hex()


def selectable(done, score="tss_pp", cost=lambda row: row["n_prompt_tokens"] + row["n_target_tokens"]):
    return [
        {**row, **json.loads(row["extra"]), "score": row[score], "cost": cost(row)} for row in table(done, "scored")
    ]


def test_the_selection_is_that_of_the_walk(done):
    rows = selectable(done)
    budget = json.loads((done / "manifest.json").read_text())["budget"]
    assert budget["asked"] == int(0.3 * sum(row["cost"] for row in rows)) and budget["unit"] == "tokens"
    selected = table(done, "selected")
    assert [row["id"] for row in selected] == slow_select(rows, budget["asked"])
    assert [row["selection_rank"] for row in selected] == list(range(len(selected)))
    assert budget["used"] == sum(row["n_prompt_tokens"] + row["n_target_tokens"] for row in selected) <= budget["asked"]


def test_the_first_of_two_duplicates_is_kept(done):
    counts = json.loads((done / "manifest.json").read_text())["counts"]["sources"]
    assert counts["second"]["duplicates"] >= 2
    twice = corpus()[5]
    one = content_hash(twice["instruction"], twice["input"], twice["output"]).hex()
    assert [row["source"] for row in table(done, "scored") if row["id"] == one] == ["first"]


def test_pairs_are_accounted_for(done):
    manifest = json.loads((done / "manifest.json").read_text())
    wanted = sum(2 + row["n_alternatives"] for row in table(done, "scored"))
    assert manifest["pairs"]["computed"] + manifest["pairs"]["reused"] == wanted and manifest["pairs"]["reused"] > 0


@pytest.mark.parametrize(
    "more",
    [
        {"ray__read_blocks": 1, "scorer__batch_tokens": 512},
        {"ray__read_blocks": 16, "scorer__batch_tokens": 4096, "ray__scorers": 2, "ray__embedders": 2},
    ],
)
def test_nothing_but_the_corpus_moves_a_score(done, request, model_folder, tmp_path, monkeypatch, more):
    if "ray__scorers" in more:
        request.getfixturevalue("scorer_actors")
        monkeypatch.setattr(blocks, "BLOCK_TOKENS", 2000)  # several blocks, so that both actors have work
    rows = corpus()
    random.Random(str(more)).shuffle(rows)
    path = write_jsonl(tmp_path / "shuffled.jsonl", rows)
    other = run(tmp_path / "out", [path], model_folder, **more)
    expected = {row["id"]: row for row in table(done, "scored")}
    got = {row["id"]: row for row in table(other, "scored")}
    assert got.keys() == expected.keys()
    for one, row in got.items():
        for name in ("loglik_mean", "loglik_empty_mean", "tss", "tss_pp", "ppl", "ifd"):
            assert row[name] == pytest.approx(expected[one][name], abs=1e-4 * max(1, abs(expected[one][name]))), name
        assert [a["instruction"] for a in row["alternatives"]] == [
            a["instruction"] for a in expected[one]["alternatives"]
        ]
    assert [row["id"] for row in table(other, "selected")] == [row["id"] for row in table(done, "selected")]


def test_reselecting_needs_no_model_and_keeps_the_old_run(done):
    before = (done / "manifest.json").read_bytes()
    other = reselect(done, select__budget__examples=7, score__hardest=1, score__alpha=0.0)
    rows = table(other, "scored")
    for row in rows:
        own, others = row["loglik_mean"], [one["loglik_mean"] for one in row["alternatives"]]
        assert row["tss_pp"] == pytest.approx(slow_tss_pp(own, others, 1, Score().tau, 0.0), abs=1e-9)
    assert [row["id"] for row in table(other, "selected")] == slow_select(selectable(other, cost=lambda row: 1), 7)
    manifest = json.loads((other / "manifest.json").read_text())
    assert (
        manifest["pairs"]["computed"] == 0 and manifest["parent"] == done.name and manifest["counts"]["selected"] == 7
    )
    assert len(table(other, "rejected")) == len(BAD_ROWS) and (done / "manifest.json").read_bytes() == before


def test_caps_keep_the_best_of_each_group(done):
    for column in ("instruction", "stars"):
        other = reselect(done, select__max_per={column: 2}, select__budget__token_fraction=0.5)
        asked = json.loads((other / "manifest.json").read_text())["budget"]["asked"]
        assert [row["id"] for row in table(other, "selected")] == slow_select(
            slow_cap(selectable(done), column, 2), asked
        )


def test_quotas_split_the_budget(done):
    other = reselect(done, select__quota={"second": 0.25}, select__budget__tokens=600, select__cost="output")
    rows = selectable(done, cost=lambda row: row["n_target_tokens"])
    expected = [
        one
        for source, room in (("second", 150), ("first", 450))
        for one in slow_select([r for r in rows if r["source"] == source], room)
    ]
    assert {row["id"] for row in table(other, "selected")} == set(expected)


def test_filters_and_weighted_scores(done):
    other = reselect(
        done,
        select__where="ifd < 1 and stars >= 2 and source == 'first'",
        select__score={"tss": 1, "ifd": -0.5},
        select__budget__examples=6,
    )
    rows = selectable(done)
    columns = {name: np.array([row[name] for row in rows]) for name in ("tss", "ifd")}
    standard = {name: (values - values.mean()) / values.std() for name, values in columns.items()}
    for place_, row in enumerate(rows):
        row["score"], row["cost"] = standard["tss"][place_] - 0.5 * standard["ifd"][place_], 1
    kept = [row for row in rows if row["ifd"] < 1 and row["stars"] >= 2 and row["source"] == "first"]
    assert [row["id"] for row in table(other, "selected")] == slow_select(kept, 6)


def test_each_selection_starts_from_the_settings_of_the_run(done, capsys):
    output = str(done.parents[1])
    nothing = ["select", output, "--quiet", "--set", "select.where='rank < 0'", "--set", "score.hardest=1"]
    before = (done.parents[1] / "latest.json").read_bytes()
    assert cli.main(nothing) == 2
    assert "nothing would be selected: no row has a score and passes the filters" in capsys.readouterr().err
    assert (done.parents[1] / "latest.json").read_bytes() == before
    assert cli.main([*nothing, "--allow-empty"]) == 0
    shown = capsys.readouterr().out
    assert "where rank < 0" in shown and "hardest 1" in shown and "no row has a score and passes the filters" in shown
    assert cli.main(["select", output, "--quiet"]) == 0
    last = done.parents[1] / json.loads((done.parents[1] / "latest.json").read_text())["run"]
    assert [row["id"] for row in table(last, "selected")] == [row["id"] for row in table(done, "selected")]


def test_a_budget_above_the_corpus_takes_everything_and_says_so(done):
    known = open_run.read_manifest(str(done))
    summary = flow.select(
        read_config.validate(read_config.override(known.config, ["select.budget.tokens=10000000"]), "test"),
        str(done),
        Reporter(quiet=True),
    )
    assert (
        len(table(Path(summary.run), "selected")) == len(table(done, "scored"))
        and "covers the whole corpus" in summary.text
    )


def test_a_budget_below_the_best_row_takes_nothing_and_says_so(done):
    known = open_run.read_manifest(str(done))
    summary = flow.select(
        read_config.validate(read_config.override(known.config, ["select.budget.tokens=1"]), "test"),
        str(done),
        Reporter(quiet=True),
        publishing=job.Publishing(allow_empty=True),
    )
    assert table(Path(summary.run), "selected") == [] and "no row fits: the best one alone costs more" in summary.text
    assert pq.read_schema(Path(summary.run) / "selected" / "part-00000.parquet").equals(SELECTED)


def test_unknown_columns_are_named_before_any_scoring(done, files, model_folder, tmp_path):
    with pytest.raises(BadRequest, match=r"no column 'pll'; accepted: .*stars"):
        run(tmp_path / "out", files, model_folder, select__where="pll < 3")
    assert not (tmp_path / "out").exists()


def test_many_output_files_keep_one_ranking(done, monkeypatch):
    monkeypatch.setattr("pipeline.selection.passes.ROWS_PER_FILE", 5)
    other = reselect(done, select__budget__token_fraction=0.6)
    assert len(list((other / "selected").glob("*.parquet"))) > 2
    assert [row["selection_rank"] for row in table(other, "selected")] == list(range(len(table(other, "selected"))))
    asked = json.loads((other / "manifest.json").read_text())["budget"]["asked"]
    assert [row["id"] for row in table(other, "selected")] == slow_select(selectable(done), asked)


def test_no_block_of_a_shuffle_is_cut_by_size(done, monkeypatch):
    # Smaller than any file of the selection; a session sets its own.
    monkeypatch.setattr(ray.data.DataContext.get_current(), "target_max_block_size", 1 << 10)
    monkeypatch.setattr("pipeline.selection.passes.ROWS_PER_FILE", 5)
    other = reselect(done, select__budget__token_fraction=0.6)
    assert [row["selection_rank"] for row in table(other, "selected")] == list(range(len(table(other, "selected"))))


def test_a_block_in_pieces_ends_the_run():
    with pytest.raises(RunFailed, match="came in pieces"):
        job.by_block("place", [SimpleNamespace(block=number) for number in (1, 0, 1)])


def test_all_rows_rejected_publishes_nothing(ray_session, model_folder, tmp_path):
    path = write_jsonl(tmp_path / "bad.jsonl", BAD_ROWS)
    with pytest.raises(
        RunFailed, match=r"13 rows read, none can be scored .*malformed_json 2.* All rejected rows are in "
    ):
        run(tmp_path / "out", [path], model_folder)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["failures"]
    (kept,) = (tmp_path / "out" / "failures").iterdir()
    assert len(table(kept.parent, kept.name)) == 13 and kept.name.endswith("-rejected")


def test_one_instruction_alone_has_no_scores_and_is_never_selected(ray_session, model_folder, tmp_path):
    path = write_jsonl(
        tmp_path / "one.jsonl", [{"instruction": "Sort.", "input": "b a", "output": f"a b {i}"} for i in range(4)]
    )
    asked = settings(tmp_path / "out", [path], model_folder, select__budget__token_fraction=1.0)
    with pytest.raises(RunFailed, match="nothing would be selected: no row has a score"):
        flow.run(asked, Reporter(quiet=True))
    done = Path(flow.run(asked, Reporter(quiet=True), publishing=job.Publishing(allow_empty=True)).run)
    counts = json.loads((done / "manifest.json").read_text())["counts"]
    assert counts["scored"] == counts["unscored"] == 4 and counts["selected"] == 0
    assert all(row["tss_pp"] is None and row["n_alternatives"] == 0 and row["ppl"] > 0 for row in table(done, "scored"))


def test_what_the_model_gives_no_number_for_is_rejected(ray_session, tmp_path):
    model, tokenizer = random_model("llama"), byte_tokenizer(bos=True)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("Z")] = float("nan")
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = corpus(8)
    path = write_jsonl(tmp_path / "a.jsonl", [*rows, {**rows[0], "output": "Zz"}, {**rows[0], "output": "aZz"}])
    done = run(tmp_path / "out", [path], tmp_path / "model")
    counts = json.loads((done / "manifest.json").read_text())["counts"]
    assert counts["rejected"] == {"not_finite": 2} and counts["scored"] == counts["read"] - counts["duplicates"] - 2
    rejected = table(done, "rejected")
    assert [row["line"] for row in sorted(rejected, key=lambda row: row["line"])] == [9, 10]
    assert all(row["file"] == str(path) and json.loads(row["raw"])["output"].endswith("Zz") for row in rejected)


def test_a_pool_file_replaces_the_pool(ray_session, model_folder, tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", corpus(6))
    (tmp_path / "pool.txt").write_text("Sing it loud.\nDraw a house.\n")
    done = run(tmp_path / "out", [path], model_folder, alternatives__pool=str(tmp_path / "pool.txt"))
    for row in table(done, "scored"):
        assert {one["instruction"] for one in row["alternatives"]} == {"Sing it loud.", "Draw a house."}
