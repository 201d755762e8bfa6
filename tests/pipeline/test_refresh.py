"""A corpus that has changed: what a run from scratch would give, for the pairs that are new alone."""

import json
import random
import shutil

import numpy as np
import pytest
from conftest import byte_tokenizer, write_jsonl
from report_pages import require_inert
from small_runs import corpus, refresh, run, settings, table

from operators.prompts.template import from_text
from operators.prompts.tokenise import Encoder
from operators.scoring.score_rows import pair_digest
from pipeline import cli
from pipeline.errors import BadRequest
from pipeline.report.rows import CHANGED
from pipeline.retrieval import blocks
from pipeline.runs.changes import NOTHING_NEW
from pipeline.runs.summary import Summary


@pytest.fixture(scope="module", autouse=True)
def several_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_TOKENS", 4000)
        yield


def manifest(done):
    return json.loads((done / "manifest.json").read_text())


def changed(rows):
    """Rows added, edited and deleted, new instructions among them, in another order."""
    edited = [
        {**row, "output": row["output"] + "!"} if i in (3, 17) else row for i, row in enumerate(rows) if i not in (5, 8)
    ]
    new = [{"instruction": "Say it louder.", "input": "a b c", "output": f"A B C {i}"} for i in range(3)]
    rows = [*edited, *new, *corpus(4, seed=9)]
    random.Random(1).shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def runs(ray_session, model_folder, tmp_path_factory):
    """A run, its refresh on a changed corpus, and a run from scratch on that; then a refresh without a change."""
    folder = tmp_path_factory.mktemp("refresh")
    path = write_jsonl(folder / "rows.jsonl", corpus(50))
    first = run(folder / "out", [path], model_folder)
    write_jsonl(path, changed(corpus(50)))
    second = refresh(folder / "out", [path], model_folder)
    scratch = run(folder / "scratch", [path], model_folder)
    kept = shutil.copytree(first, folder / "kept" / first.name)
    third = refresh(folder / "out", [path], model_folder, keep_runs=2)
    return kept, second, scratch, third


def pairs_of(done):
    """The distinct pairs that the rows of a run ask for, encoded anew."""
    tokenizer, known = byte_tokenizer(bos=True), manifest(done)
    encoder = Encoder(tokenizer, from_text("manifest", known["scorer"]["template_text"]), True, 200)
    pairs = set()
    for row in table(done, "scored"):
        (target,) = encoder.targets([row["output"]])
        prompts = [[tokenizer.bos_token_id], encoder.prompt(row["instruction"], row["input"])]
        prompts += [encoder.prompt(one["instruction"], row["input"]) for one in row["alternatives"]]
        pairs |= {pair_digest(*map(np.array, (prompt, target))) for prompt in prompts}
    return pairs


def test_a_refresh_equals_a_run_from_scratch(runs):
    _, second, scratch, _ = runs
    got, expected = ({row["id"]: row for row in table(done, "scored")} for done in (second, scratch))
    assert got.keys() == expected.keys()
    for key, row in got.items():
        for name in ("loglik_mean", "loglik_empty_mean", "tss", "tss_pp", "ifd"):
            assert row[name] == pytest.approx(expected[key][name], abs=1e-4)
        assert [one["instruction"] for one in row["alternatives"]] == [
            one["instruction"] for one in expected[key]["alternatives"]
        ]
    assert [row["id"] for row in table(second, "selected")] == [row["id"] for row in table(scratch, "selected")]
    for name in ("counts", "budget"):
        assert manifest(second)[name] == manifest(scratch)[name]


def test_only_pairs_that_are_new_are_computed(runs):
    first, second, scratch, _ = runs
    new = len(pairs_of(second) - pairs_of(first))
    computed = manifest(second)["pairs"]["computed"]
    assert (
        new <= computed <= 1.1 * new < 0.5 * manifest(scratch)["pairs"]["computed"]
    )  # equal ones of two blocks count twice
    assert manifest(second)["pairs"]["stored"] > 0


def test_what_has_changed_is_counted(runs):
    first, second, _, _ = runs
    for kind in ("scored", "selected"):
        before, after = ({row["id"]: row for row in table(done, kind)} for done in (first, second))
        stayed = before.keys() & after.keys()
        moved = sum(before[one].get("selection_rank") != after[one].get("selection_rank") for one in stayed)
        expected = {"entered": len(after) - len(stayed), "left": len(before) - len(stayed), "stayed": len(stayed)}
        assert manifest(second)["changes"][kind] == {**expected, "moved": moved} and len(before) > len(stayed) > 0
    assert manifest(second)["since"] == first.name and "changes" not in manifest(first)


def test_the_report_of_a_refresh_shows_rows_that_have_moved(runs):
    first, second, _, _ = runs
    text = (second / "report.html").read_text(encoding="utf-8")
    page = require_inert(text)
    assert manifest(second)["report"]["problem"] is None and f"Changes since {first.name}" in page.text
    before, now = ({row["id"] for row in table(done, "selected")} for done in (first, second))
    kinds = [each["data-value"].split(", ") for _, each in page.tags if each.get("data-label") == "shown as"]
    for kind, moved in (("entered", now - before), ("left", before - now)):
        assert sum(kind in each for each in kinds) == min(len(moved), CHANGED) and all(
            f"id {each}." in page.text for each in sorted(moved)[:CHANGED]
        )


def test_without_a_change_nothing_is_computed_and_a_new_version_is_published(runs):
    _, second, _, third = runs
    known = manifest(third)
    assert known["pairs"]["computed"] == known["scorer"]["loaded"] == 0 and "score" not in known["timings"]
    assert table(third, "scored") == table(second, "scored") and table(third, "selected") == table(second, "selected")
    assert known["counts"] == manifest(second)["counts"]
    rows = len(table(second, "scored"))
    assert known["changes"]["scored"] == {"entered": 0, "left": 0, "stayed": rows, "moved": 0}
    assert json.loads((third.parents[1] / "latest.json").read_text())["run"] == f"runs/{third.name}"
    assert {path.name for path in second.parent.iterdir()} == {second.name, third.name}  # keep_runs: 2


def test_the_exit_status_says_whether_rows_entered_or_left(runs, model_folder, tmp_path, capsys, monkeypatch):
    """Of a first run, a refresh with changes and one without: 0, 0, 3; and 0 of each where nobody asked."""
    config = tmp_path / "c.yaml"
    config.write_text(settings(tmp_path / "out", [tmp_path / "rows.jsonl"], model_folder).model_dump_json())
    first, second, _, third = runs
    for done, status in ((first, 0), (second, 0), (third, NOTHING_NEW)):
        monkeypatch.setattr("pipeline.flow.refresh", lambda *_, done=done, **__: Summary(str(done), "done"))
        assert cli.main(["refresh", str(config), "--exit-code"]) == status
        assert cli.main(["refresh", str(config)]) == 0
        assert capsys.readouterr().out == "done\ndone\n"


def test_a_refresh_without_a_change_is_checked_as_any_run(runs, model_folder):
    *_, third = runs
    path = third.parents[2] / "rows.jsonl"
    with pytest.raises(BadRequest, match="no column 'strs'"):
        refresh(third.parents[1], [path], model_folder, select__where="strs > 3")
    assert json.loads((third.parents[1] / "latest.json").read_text())["run"] == f"runs/{third.name}"


def test_folders_of_others_are_left_alone(runs, model_folder):
    *_, third = runs
    other = third.parent / "events"
    other.mkdir()
    done = refresh(third.parents[1], [third.parents[2] / "rows.jsonl"], model_folder, keep_runs=1)
    assert sorted(path.name for path in third.parent.iterdir()) == sorted([third.name, done.name, "events"])


def test_a_damaged_last_run_does_not_keep_a_refresh_from_being_made(runs, model_folder):
    _, _, scratch, third = runs
    output = third.parents[1]
    last = output / json.loads((output / "latest.json").read_text())["run"]
    for path in (last / "scored").iterdir():
        path.write_bytes(path.read_bytes()[:-100])
    done = refresh(output, [third.parents[2] / "rows.jsonl"], model_folder)
    assert manifest(done)["pairs"]["computed"] == 0 and manifest(done)["changes"] is None
    assert [row["id"] for row in table(done, "selected")] == [row["id"] for row in table(scratch, "selected")]
