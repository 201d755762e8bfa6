"""Draws, weights, scores and quotas over any column, and clusters: each as its plain walk does it."""

import json
import math

import pytest
import reference
from conftest import write_jsonl
from small_runs import corpus, manifest_of, reselect, run, settings, table

from pipeline import cli
from pipeline.errors import BadRequest
from pipeline.runs.manifest import manifest_digest


@pytest.fixture(scope="module")
def done(ray_session, model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("draws")
    rows = corpus(60)
    for place, row in enumerate(rows):
        row["stars"] = [0, 1, 2.5, "many", None][place % 5]
        row["good"] = place % 2 == 0
    return run(folder / "out", [write_jsonl(folder / "rows.jsonl", rows)], model_folder)


def ids(folder):
    return [row["id"] for row in table(folder, "selected")]


def walked(rows, score, asked):
    costs = [{**row, "score": score(row), "cost": row["n_prompt_tokens"] + row["n_target_tokens"]} for row in rows]
    return reference.select(costs, asked)


def asked_of(folder):
    return manifest_of(folder)["budget"]["asked"]


@pytest.mark.parametrize("temperature", [0.02, 1, "infinite"])
def test_a_draw_is_that_of_the_twin(done, temperature):
    other = reselect(done, select__temperature=temperature, seed=4)
    number = math.inf if temperature == "infinite" else temperature

    def key(row):
        return reference.key(row["tss_pp"], reference.random_of(row["id"], 4), number)

    assert ids(other) == walked(table(done, "scored"), key, asked_of(other))
    overlap = manifest_of(other)["overlap"]
    assert overlap["scores"][:2] == [f"tss_pp at temperature {number:g}", "tss_pp"]
    assert overlap["rows"][0] == manifest_of(other)["counts"]["selected"]


def test_an_infinite_temperature_is_the_random_selector(done):
    drawn, chance = reselect(done, select__temperature="infinite"), reselect(done, select__score="random")
    assert ids(drawn) == ids(chance)


@pytest.mark.parametrize(
    "score, more",
    [
        ("tss_pp", {"scale": 2.0, "clip": 0.5}),
        ("tss", {"scale": 0.3, "clip": 1e6}),
        ("stars", {"scale": 1.0, "clip": 3.0}),
    ],
)
def test_weights_are_those_of_the_twin_and_1_on_average(done, score, more):
    other = reselect(done, select__score=score, score__weight_scale=more["scale"], score__weight_clip=more["clip"])
    rows = table(other, "scored")

    def value(row):
        stars = json.loads(row["extra"]).get("stars")
        return row[score] if score in row else stars if isinstance(stars, (int, float)) else None

    expected = reference.weights([value(row) for row in rows], **more)
    assert [row["weight"] is None for row in rows] == [weight is None for weight in expected]
    known = [(row["weight"], weight) for row, weight in zip(rows, expected, strict=True) if weight is not None]
    assert all(got == pytest.approx(weight, rel=1e-9) for got, weight in known) and len(known) > 20
    assert math.fsum(got for got, _ in known) / len(known) == pytest.approx(1)
    chosen = {row["id"]: row["weight"] for row in rows}
    assert all(row["weight"] == chosen[row["id"]] for row in table(other, "selected"))


def test_weights_of_scores_that_would_all_round_to_nothing(done):
    rows = table(reselect(done, select__score="tss_pp", score__weight_scale=1e5), "scored")
    weights = [row["weight"] for row in rows]
    assert math.fsum(weights) / len(weights) == pytest.approx(1) and max(weights) > 1


def test_a_column_of_the_rows_can_be_the_score(done):
    def stars(row):
        value = json.loads(row["extra"])["stars"]
        return value if isinstance(value, (int, float)) else None

    by_stars = reselect(done, select__score="stars", select__budget__token_fraction=0.9)
    rows = table(done, "scored")
    assert ids(by_stars) == walked(rows, stars, asked_of(by_stars)) and len(ids(by_stars)) == 36
    turned = reselect(done, select__score={"stars": -1}, select__budget__token_fraction=0.9)
    assert ids(turned) == walked(rows, lambda row: None if stars(row) is None else -stars(row), asked_of(turned))


def test_a_score_of_no_numbers_is_refused_before_anything_is_scored(done, model_folder, tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"instruction": "a b", "output": "c", "level": "high"}])
    for name, words in (("level", "none holds a number"), ("levle", "no column 'levle'")):
        with pytest.raises(BadRequest, match=rf"select.score.*{words}"):
            run(tmp_path / "out", [rows], model_folder, select__score=name)
    assert not list((tmp_path / "out").glob("runs/*")) and not list((tmp_path / "out").glob("likelihoods/*"))
    with pytest.raises(BadRequest, match=r"select\.score.*no numeric column 'instruction'"):
        settings(tmp_path, [rows], "model", select__score="instruction")
    with pytest.raises(BadRequest, match=r"select\.score: no row has a number in task"):
        reselect(done, select__score="task")


@pytest.mark.parametrize(
    "quota, group",
    [
        ({"stars": {"1": 0.5, "2.5": 0.25}}, lambda row: json.loads(row["extra"])["stars"]),
        ({"good": {True: 0.75}}, lambda row: json.loads(row["extra"])["good"]),
        ({"rank": {0: 0.4, 1: 0.6}}, lambda row: row["rank"]),
    ],
)
def test_a_quota_splits_the_budget_by_any_column(done, quota, group):
    other = reselect(done, select__quota=quota, select__budget__token_fraction=0.4)
    ((_, shares),), asked = quota.items(), asked_of(other)
    named = {name if isinstance(name, (bool, int)) else float(name): share for name, share in shares.items()}
    expected = set()
    for name, share in named.items():
        rows = [row for row in table(done, "scored") if group(row) == name and isinstance(group(row), (int, float))]
        expected |= set(walked(rows, lambda row: row["tss_pp"], int(asked * share + 1e-9)))
    left = 1 - sum(named.values())
    if left > 1e-9:
        rows = [row for row in table(done, "scored") if group(row) not in named]
        expected |= set(walked(rows, lambda row: row["tss_pp"], int(asked * left + 1e-9)))
    assert set(ids(other)) == expected


def test_clusters_are_of_instructions_and_can_be_capped(done):
    rows = table(done, "scored")
    by_instruction = {}
    for row in rows:
        by_instruction.setdefault(row["instruction"], set()).add(row["cluster"])
    assert all(len(clusters) == 1 for clusters in by_instruction.values())
    assert 1 < len({row["cluster"] for row in rows}) < len(by_instruction)
    capped = table(reselect(done, select__max_per={"cluster": 1}), "selected")
    assert len({row["cluster"] for row in capped}) == len(capped) > 1


def test_a_run_of_an_early_release_gives_the_new_columns(done, tmp_path, capsys):
    """Its constants were others under the same names, and it had no clusters."""
    before = json.loads((done / "manifest.json").read_text())
    old = {**before, "config": {**before["config"]}, "base": {**before["base"]}}
    old["config"]["score"] = old["base"]["score"] = {
        "hardest": 2,
        "tau": 1.0,
        "quality_weight": 0.5,
        "normalize": "token",
    }
    old["config"]["alternatives"] = {k: v for k, v in before["config"]["alternatives"].items() if k != "clusters"}
    try:
        (done / "manifest.json").write_text(json.dumps({**old, "digest": manifest_digest(old)}))
        assert cli.main(["select", str(done), "--quiet"]) == 0
        assert "alpha" in capsys.readouterr().out
        assert cli.main(["select", str(done), "--quiet", "--set", "select.max_per.cluster=1"]) == 2
        assert "needs the column cluster" in capsys.readouterr().err
        assert cli.main(["report", str(done)]) == 0
    finally:
        (done / "manifest.json").write_text(json.dumps(before))
