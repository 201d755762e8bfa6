"""Near duplicates and excluded texts in whole runs: what stays, what is listed, and that nothing else decides it."""

import json
import random
from pathlib import Path

import pytest
from conftest import write_jsonl
from reference import near_duplicates as slow_near_duplicates
from small_runs import corpus, manifest_of, refresh, reselect, run, settings, table

from operators.hashing import content_hash
from operators.schema import NEAR_DUPLICATES, SCORED
from pipeline.engine.progress import Reporter
from pipeline.errors import BadRequest, RunFailed
from pipeline.reading import near_duplicates as stage
from pipeline.request import requested
from pipeline.runs import accounts, open_run
from pipeline.runs.report import of_run

NEAR, LENGTH = 0.8, 512
QUESTION = "Which of these rivers is the longest one in all of southern Europe, from source to mouth?"
WORDS = [
    "river",
    "stone",
    "apple",
    "forest",
    "quick",
    "lantern",
    "cloud",
    "bright",
    "walking",
    "seven",
    "of",
    "the",
    "a",
    "in",
]


def planted(seed=0, groups=8):
    """Rows of a small corpus, and groups of rows that differ in a word or two."""
    rng, rows = random.Random(seed), corpus(40)
    for group in range(groups):
        words = rng.choices(WORDS, k=50)
        for _ in range(3):
            changed = [*words]
            changed[rng.randrange(50)] = "changed"
            row = {
                "instruction": f"Tell story number {group} of the {words[0]}.",
                "input": "",
                "output": " ".join(changed),
            }
            rows.append(row)
    rng.shuffle(rows)
    return rows


def twin(rows_of_inputs, threshold=NEAR):
    """The rows that go by the slow twin, of inputs in order."""
    distinct = {}
    for index, rows in enumerate(rows_of_inputs):
        for row in rows:
            key = content_hash(row["instruction"], row["input"], row["output"]).hex()
            distinct.setdefault(key, {**row, "id": key, "input_index": index})
    return slow_near_duplicates(list(distinct.values()), threshold)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rows = planted()
    first, second = rows[:35], [*rows[35:], rows[40], rows[2], *rows[35:64:4]]
    return [write_jsonl(folder / "first.jsonl", first), write_jsonl(folder / "second.jsonl", second)], (first, second)


@pytest.fixture(scope="module")
def done(ray_session, inputs, model_folder, tmp_path_factory):
    """A run whose parts, groups of pairs and listed parts are small, so that there are many of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "GROUP_CHARS", 5000)
        patch.setattr(stage, "PUBLISHED_ROWS", 4)
        folder = tmp_path_factory.mktemp("out")
        asked = {"dedup__near": NEAR, "scorer__max_length": LENGTH, "ray__read_blocks": 6}
        return run(folder, inputs[0], model_folder, **asked)


def test_the_rows_that_go_are_those_of_the_slow_twin_and_are_listed(done, inputs):
    expected, listed = twin(inputs[1]), table(done, "near_duplicates")
    assert len(expected) >= 10
    assert {row["id"]: (row["stayed"], row["similarity"]) for row in listed} == expected
    scored = {row["id"] for row in table(done, "scored")}
    every = {content_hash(row["instruction"], row["input"], row["output"]).hex() for rows in inputs[1] for row in rows}
    assert scored == every - expected.keys() and {row["stayed"] for row in listed} <= scored
    for row in listed:
        texts = json.loads(Path(row["file"]).read_text().split("\n")[row["line"] - 1])
        assert content_hash(texts["instruction"], texts["input"], texts["output"]).hex() == row["id"]
        assert row["source"] in row["file"]


def test_the_account_adds_up_by_source_and_in_all(done, inputs):
    counts, gone = manifest_of(done)["counts"], twin(inputs[1])
    assert counts["near_duplicates"] == len(gone) == len(table(done, "near_duplicates"))
    assert counts["duplicates"] == sum(map(len, inputs[1])) - len(gone) - counts["scored"] > 5
    for rows in (counts, *counts["sources"].values()):
        lost = sum(rows["rejected"].values())
        assert rows["read"] == lost + rows["duplicates"] + rows["near_duplicates"] + rows["scored"]
    by_source = {
        name: sum(row["source"] == name for row in table(done, "near_duplicates")) for name in counts["sources"]
    }
    assert by_source == {name: rows["near_duplicates"] for name, rows in counts["sources"].items()}
    account = manifest_of(done)["near_duplicates"]
    assert account["compared"] >= account["similar"] >= len(gone) and account["crowded"] == 0


def test_what_people_read_says_it(done):
    near = manifest_of(done)["counts"]["near_duplicates"]
    assert f" duplicates, {near} near duplicates, " in of_run(str(done)).text
    assert "| near duplicates |" in (done / "README.md").read_text()
    assert "<th>near duplicates</th>" in (done / "report.html").read_text()
    assert set(NEAR_DUPLICATES.names) == set(table(done, "near_duplicates")[0])


def test_neither_order_nor_parts_decide(done, inputs, model_folder, tmp_path):
    rng, paths = random.Random(3), []
    for number, rows in enumerate(inputs[1]):
        paths.append(write_jsonl(tmp_path / f"{number}.jsonl", rng.sample(rows, len(rows))))
    again = run(tmp_path / "out", paths, model_folder, dedup__near=NEAR, scorer__max_length=LENGTH)
    columns = ("id", "stayed", "similarity")
    some, others = (
        {tuple(row[name] for name in columns) for row in table(one, "near_duplicates")} for one in (done, again)
    )
    assert some == others
    assert [row["id"] for row in table(done, "selected")] == [row["id"] for row in table(again, "selected")]


def test_a_run_without_the_near_duplicates_in_its_input_scores_the_same(done, inputs, model_folder, tmp_path):
    gone = twin(inputs[1])
    left = [
        row
        for rows in inputs[1]
        for row in rows
        if content_hash(row["instruction"], row["input"], row["output"]).hex() not in gone
    ]
    clean = run(tmp_path / "out", [write_jsonl(tmp_path / "a.jsonl", left)], model_folder, scorer__max_length=LENGTH)
    some, others = ({row["id"]: row for row in table(one, "scored")} for one in (done, clean))
    assert some.keys() == others.keys()
    for key, row in some.items():
        assert row["alternatives"] == others[key]["alternatives"] and row["tss_pp"] == pytest.approx(
            others[key]["tss_pp"]
        )
    plain = manifest_of(clean)
    assert not (clean / "near_duplicates").exists() and "near_duplicates" not in plain["files"]
    assert "near_duplicates" not in plain and plain["counts"]["near_duplicates"] == 0


def test_another_selection_keeps_the_list_and_the_account(done):
    chosen = reselect(done, select__budget__token_fraction=0.1)
    assert table(chosen, "near_duplicates") == table(done, "near_duplicates")
    assert manifest_of(chosen)["counts"]["near_duplicates"] == manifest_of(done)["counts"]["near_duplicates"]
    assert manifest_of(chosen)["near_duplicates"] == manifest_of(done)["near_duplicates"]


def test_a_refresh_equals_a_run_from_scratch(ray_session, model_folder, tmp_path):
    asked = {"dedup__near": NEAR, "scorer__max_length": LENGTH}
    rows = planted(seed=5)
    path = write_jsonl(tmp_path / "rows.jsonl", rows[:45])
    run(tmp_path / "out", [path], model_folder, **asked)
    write_jsonl(path, rows[3:])
    second = refresh(tmp_path / "out", [path], model_folder, **asked)
    scratch = run(tmp_path / "scratch", [path], model_folder, **asked)
    assert table(second, "near_duplicates") == table(scratch, "near_duplicates") != []
    assert manifest_of(second)["counts"] == manifest_of(scratch)["counts"]
    assert [row["id"] for row in table(second, "selected")] == [row["id"] for row in table(scratch, "selected")]
    third = refresh(tmp_path / "out", [path], model_folder, **asked)
    assert "near" not in manifest_of(third)["timings"]  # nothing has changed
    assert table(third, "near_duplicates") == table(second, "near_duplicates")
    none = refresh(tmp_path / "out", [path], model_folder, scorer__max_length=LENGTH)
    assert manifest_of(none)["counts"]["near_duplicates"] == 0 and "score" in manifest_of(none)["timings"]


def test_a_run_that_was_interrupted_gives_what_an_uninterrupted_one_does(
    ray_session, model_folder, tmp_path, monkeypatch
):
    path = write_jsonl(tmp_path / "rows.jsonl", planted(seed=6))
    asked = {"dedup__near": NEAR, "scorer__max_length": LENGTH}
    with monkeypatch.context() as patch:
        patch.setattr(accounts, "add_scored", _broken)
        with pytest.raises(RunFailed, match="broken off"):
            run(tmp_path / "out", [path], model_folder, **asked)
    resumed = run(tmp_path / "out", [path], model_folder, **asked)
    scratch = run(tmp_path / "scratch", [path], model_folder, **asked)
    assert manifest_of(resumed)["pairs"]["resumed"] > 0
    for kind in ("near_duplicates", "scored", "selected"):
        assert table(resumed, kind) == table(scratch, kind) != []
    assert manifest_of(resumed)["counts"] == manifest_of(scratch)["counts"]


def _broken(*given):
    raise RunFailed("accounts", "broken off")


def test_contaminated_rows_are_rejected_and_end_no_run(ray_session, model_folder, tmp_path):
    rows = corpus(12)
    bad = [{"instruction": "Answer.", "input": f"{QUESTION} {i}", "output": "The Po."} for i in range(20)]
    path = write_jsonl(tmp_path / "rows.jsonl", [*rows, *bad])
    texts = tmp_path / "bench.txt"
    texts.write_text(f"first line of it\n{QUESTION}\n")
    asked = {"exclude": str(texts), "max_rejected_fraction": 0.0}
    first = run(tmp_path / "out", [path], model_folder, **asked)
    assert manifest_of(first)["counts"]["rejected"] == {"contaminated": 20}
    assert all(row["detail"].startswith(f"{texts}:2: it shares 13 words: which of") for row in table(first, "rejected"))
    (named,) = manifest_of(first)["excluded"]
    assert (named["path"], named["ngram"], named["texts"]) == (str(texts), 13, 2)
    assert "bench.txt" in (first / "README.md").read_text() and "bench.txt" in (first / "report.html").read_text()
    texts.write_text("another text without those words in it\n")
    second = refresh(tmp_path / "out", [path], model_folder, **asked)
    assert manifest_of(second)["counts"]["rejected"] == {}
    write_jsonl(path, [*rows, {"instruction": "", "output": "x"}])
    with pytest.raises(RunFailed, match=r"1 of 13 rows rejected \(empty_instruction 1\)"):
        refresh(tmp_path / "out", [path], model_folder, **asked)


def test_a_wrong_file_is_refused_before_any_work(model_folder, tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", corpus(4))
    config = settings(tmp_path / "out", [path], model_folder, exclude=str(tmp_path / "none.jsonl"))
    with (
        pytest.raises(BadRequest, match=r"none\.jsonl': no such file"),
        requested("run", config, Reporter(quiet=True), False),
    ):
        pass
    assert not (tmp_path / "out").exists()


def test_manifests_of_before_are_read(done, tmp_path):
    manifest = json.loads((done / "manifest.json").read_text())
    for rows in (manifest["counts"], *manifest["counts"]["sources"].values()):
        del rows["near_duplicates"]
    del manifest["near_duplicates"], manifest["files"]["near_duplicates"], manifest["config"]["dedup"]
    del manifest["config"]["exclude"]
    from pipeline.runs.manifest import manifest_digest, opened

    manifest["digest"] = manifest_digest(manifest)
    assert opened(json.dumps(manifest).encode()).counts.near_duplicates == 0
    assert open_run.read_manifest(str(done)).near_duplicates is not None and SCORED.names
