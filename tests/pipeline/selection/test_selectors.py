"""Every baseline selects as its own walk does, any two of them are compared, and the report says so."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import write_jsonl
from reference import select as slow_select
from report_pages import require_inert
from small_runs import corpus, reselect, run, table

from pipeline import cli
from pipeline.report import make
from pipeline.report.gather import gather_here
from pipeline.runs import open_run
from pipeline.runs.manifest import ReportFile, manifest_digest, opened
from pipeline.selection import overlap
from pipeline.storage.files import digest_of

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\u202e"
BASELINES = ["random", "length", "ppl", "ifd", "ifd_loss", "tss", "tss_nce", "tss_pp"]


@pytest.fixture(scope="module")
def done(ray_session, model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("selectors")
    rows = [*corpus(50), *({"instruction": f"{HOSTILE} {i}", "output": f"{HOSTILE} {i}"} for i in range(4))]
    return run(folder / "out", [write_jsonl(folder / "rows.jsonl", rows)], model_folder)


def cost(row):
    return row["n_prompt_tokens"] + row["n_target_tokens"]


def selected_by(rows, score, budget):
    return slow_select([{**row, "score": score(row), "cost": cost(row)} for row in rows], budget)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_selects_as_its_walk(done, name):
    other, rows = reselect(done, select__score=name), table(done, "scored")
    asked = json.loads((other / "manifest.json").read_text())["budget"]["asked"]
    assert [row["id"] for row in table(other, "selected")] == selected_by(rows, lambda row: row[name], asked)


def test_weights_turn_and_combine_baselines(done):
    rows = table(done, "scored")
    turned = reselect(done, select__score={"ppl": -1})
    asked = json.loads((turned / "manifest.json").read_text())["budget"]["asked"]
    assert [row["id"] for row in table(turned, "selected")] == selected_by(rows, lambda row: -row["ppl"], asked)
    both = reselect(done, select__score={"tss_pp": 1, "length": 0.5, "random": -0.25})
    values = {name: np.array([row[name] for row in rows], dtype=float) for name in ("tss_pp", "length", "random")}
    standard = {name: (value - value.mean()) / value.std() for name, value in values.items()}
    mixed = standard["tss_pp"] + 0.5 * standard["length"] - 0.25 * standard["random"]
    place = {row["id"]: number for number, row in enumerate(rows)}
    assert [row["id"] for row in table(both, "selected")] == selected_by(
        rows, lambda row: mixed[place[row["id"]]], asked
    )


def test_random_follows_the_seed_and_length_the_output(done):
    rows = {row["id"]: row for row in table(done, "scored")}
    assert all(row["length"] == row["n_target_tokens"] for row in rows.values())
    same, other = ({row["id"]: row["random"] for row in table(reselect(done, seed=seed), "scored")} for seed in (0, 1))
    assert same == {one: row["random"] for one, row in rows.items()} and all(same[one] != other[one] for one in rows)


def test_the_seed_of_a_selection_does_not_stay(done, capsys):
    output = str(done.parents[1])
    seeds = []
    for more in (["--set", "seed=5"], []):
        assert cli.main(["select", output, "--quiet", *more]) == 0
        run_folder = done.parents[1] / json.loads((done.parents[1] / "latest.json").read_text())["run"]
        seeds.append(json.loads((run_folder / "manifest.json").read_text())["seed"])
    assert seeds == [5, 0]


def test_overlap_is_that_of_sets(done):
    where = "stars >= 1"
    other = reselect(done, select__score={"tss": 1, "ifd": -0.5}, select__where=where, select__max_per={"stars": 3})
    manifest = json.loads((other / "manifest.json").read_text())
    found, asked = manifest["overlap"], manifest["budget"]["asked"]
    assert found["scores"] == ["+1 tss -0.5 ifd", *overlap.COMPARED]
    rows = table(done, "scored")
    columns = {name: np.array([row[name] for row in rows]) for name in ("tss", "ifd")}

    def standard(row, name):
        return (row[name] - columns[name].mean()) / columns[name].std()

    walks = [lambda row: standard(row, "tss") - 0.5 * standard(row, "ifd")]  # without the cap
    walks += [
        (lambda row, name=name: -row[name[1:]]) if name[0] == "-" else (lambda row, name=name: row[name])
        for name in overlap.COMPARED
    ]
    eligible = [row for row in rows if (json.loads(row["extra"]).get("stars") or 0) >= 1]
    chosen = [set(selected_by(eligible, walk, asked)) for walk in walks]
    assert found["rows"] == [len(one) for one in chosen] and len(chosen[0]) > manifest["counts"]["selected"]
    for i, one in enumerate(chosen):
        for j, two in enumerate(chosen):
            assert found["jaccard"][i][j] == pytest.approx(len(one & two) / len(one | two))


def test_overlap_of_the_runs_own_score_is_with_its_selection(done):
    manifest = json.loads((done / "manifest.json").read_text())
    assert manifest["overlap"]["scores"][0] == "tss_pp"
    assert manifest["overlap"]["rows"][0] == manifest["counts"]["selected"]


def test_bounded_rows_are_left_out_of_what_needs_their_score(ray_session, model_folder, tmp_path):
    corpus_file = write_jsonl(tmp_path / "c.jsonl", corpus(60, seed=3))
    settings = {"select__budget__examples": 4, "alternatives__k": 6}
    bounded = run(tmp_path / "b", [corpus_file], model_folder, select__mode="bounded", **settings)
    full = run(tmp_path / "f", [corpus_file], model_folder, **settings)
    few, all_ = (json.loads((one / "manifest.json").read_text()) for one in (bounded, full))
    assert few["counts"]["bounded"] > 0 and "tss" not in few["overlap"]["scores"]
    names = [name for name in all_["overlap"]["scores"] if name not in ("tss", "tss_nce")]
    assert few["overlap"]["scores"] == names
    other = json.loads((reselect(bounded, select__mode="full", select__score="ppl") / "manifest.json").read_text())
    assert not {"tss", "tss_nce", "tss_pp"} & set(other["overlap"]["scores"])
    places = [all_["overlap"]["scores"].index(name) for name in names]
    assert few["overlap"]["jaccard"] == [[all_["overlap"]["jaccard"][i][j] for j in places] for i in places]


def test_the_report_page_escapes_every_text(done):
    manifest = json.loads((done / "manifest.json").read_text())
    manifest["scores"]["best"] = manifest["scores"]["worst"] = [[1.5, "0" * 32, HOSTILE, HOSTILE]]
    (source,) = manifest["counts"]["sources"]
    manifest["counts"]["sources"] = {HOSTILE: {**manifest["counts"]["sources"][source], "rejected": {HOSTILE: 2}}}
    manifest["config"]["select"]["where"] = HOSTILE
    manifest["scorer"]["model"] = manifest["run"] = HOSTILE
    manifest["timings"][HOSTILE] = 1.0
    manifest["overlap"]["scores"][0] = HOSTILE
    poisoned = opened(json.dumps({**manifest, "digest": manifest_digest(manifest)}).encode())
    page = require_inert(make.report_without_rows(poisoned, HOSTILE))
    assert page.text.count("<script>alert('x')</script>") >= 12
    poisoned.config["select"]["where"] = None  # the rows are looked at by it
    assert require_inert(make.report_again(poisoned, str(done))).text.count("<script>alert('x')</script>") >= 12


def test_the_report_page_shows_the_run(done):
    text = (done / "report.html").read_text(encoding="utf-8")
    page = require_inert(text)
    manifest = open_run.read_manifest(str(done))
    assert done.name in page.text and f"{manifest.counts.selected:,} of" in page.text
    best = [row.id for row in gather_here(manifest, str(done)).material.rows if "best" in row.kinds]
    assert best[:5] == [row[1] for row in manifest.scores["best"]] and all(each in text for each in best)
    assert all(name in page.text for name in overlap.COMPARED)


def test_the_manifest_lists_the_page_that_the_rows_give_again(done):
    data, manifest = (done / "report.html").read_bytes(), open_run.read_manifest(str(done))
    assert manifest.report == ReportFile("report.html", len(data), digest_of(data))
    before = {name: seconds for name, seconds in manifest.timings.items() if name != "report"}
    assert make.report_again(replace(manifest, timings=before, report=None), str(done)).encode() == data


def test_report_prints_a_published_run_again(done, capsys, tmp_path):
    assert cli.main(["report", str(done)]) == 0
    shown = capsys.readouterr().out
    manifest = json.loads((done / "manifest.json").read_text())
    assert f"{manifest['counts']['read']:,} read" in shown and str(done / "report.html") in shown
    lines = shown.splitlines()
    first = lines[next(place for place, line in enumerate(lines) if line.startswith("overlap of")) + 2]
    assert first.split()[2:] == [f"{value:.2f}" for value in manifest["overlap"]["jaccard"][0]]
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "latest.json" in capsys.readouterr().err


def test_filters_know_ranks_over_all_scored_rows(done, monkeypatch):
    rows = table(done, "scored")
    where = "rank_of(tss_pp) < 0.4 and 0.1 <= percentile(ppl) < 0.9 and percentile(stars) >= 0.3"
    other = reselect(done, select__where=where, select__budget={"example_fraction": 1.0})
    stars = [(json.loads(row["extra"]) or {}).get("stars") for row in rows]
    count = sum(star is not None for star in stars)

    def beyond(values, value, higher):
        return sum((other > value if higher else other < value) for other in values if other is not None)

    wanted = set()
    for row, star in zip(rows, stars, strict=True):
        of_score = beyond([other["tss_pp"] for other in rows], row["tss_pp"], True)
        of_ppl = beyond([other["ppl"] for other in rows], row["ppl"], False)
        of_stars = -1 if star is None else beyond(stars, star, False)
        if 10 * of_score < 4 * len(rows) and len(rows) <= 10 * of_ppl < 9 * len(rows) and 10 * of_stars >= 3 * count:
            wanted.add(row["id"])
    assert {row["id"] for row in table(other, "selected")} == wanted and 3 < len(wanted) < len(rows) / 2
    assert json.loads((other / "manifest.json").read_text())["config"]["select"]["where"] == where


def test_a_dry_run_says_what_a_selection_would_take_and_publishes_nothing(done, capsys):
    output = done.parents[1]
    where = "stars >= 1 and (ppl < 300 or stars == 2) and not rank > 1"
    asked = ["select", str(output), "--quiet", "--budget", "20%", "--set", f'select.where="{where}"']
    before = sorted(output.rglob("*"))
    assert cli.main([*asked, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert sorted(output.rglob("*")) == before
    assert cli.main([*asked, "--label", "few stars"]) == 0
    assert "label        few stars" in capsys.readouterr().out
    other = output / json.loads((output / "latest.json").read_text())["run"]
    manifest, chosen = json.loads((other / "manifest.json").read_text()), table(other, "selected")
    assert manifest["label"] == "few stars"
    (source,) = manifest["counts"]["sources"]
    tokens, rows = sum(cost(row) for row in chosen), table(done, "scored")
    assert (
        f"budget       {manifest['budget']['asked']:,} tokens asked, {tokens:,} used by {len(chosen):,} selected"
        in shown
    )
    assert f"sources      {source}: {len(chosen):,} of {len(rows):,} scored rows, {tokens:,} tokens" in shown
    scores = [row["tss_pp"] for row in chosen]
    assert (
        f"of rank {len(chosen) - 1:,}, has tss_pp {scores[-1]:.4g}; all that are taken have {min(scores):.4g}" in shown
    )
    stars = [(json.loads(row["extra"]) or {}).get("stars") for row in rows]
    fails = [
        [not (star or 0) >= 1 for star in stars],
        [not (row["ppl"] < 300 or star == 2) for row, star in zip(rows, stars, strict=True)],
        [not (row["rank"] is not None and not row["rank"] > 1) for row in rows],
    ]
    for number, condition in enumerate(("stars >= 1", "ppl < 300 or stars == 2", "not rank > 1")):
        alone = sum(every[number] and sum(every) == 1 for every in zip(*fails, strict=True))
        assert f"{condition}: {sum(fails[number]):,} scored rows do not pass, {alone:,} of them for this alone" in shown
