"""Bounded selection on Ray: the ids of full scoring, in the same order, for less; and honest about what it left out."""

import json

import pytest
from conftest import write_jsonl
from small_runs import corpus, reselect, run, settings, table

from pipeline.errors import BadRequest
from pipeline.retrieval import blocks
from pipeline.selection import bounded


@pytest.fixture(scope="module")
def both(ray_session, model_folder, tmp_path_factory):
    """The same corpus scored in full and bounded, over several blocks."""
    folder = tmp_path_factory.mktemp("bounded")
    path = write_jsonl(folder / "rows.jsonl", corpus(240, seed=3))
    more = {"alternatives__k": 9, "score__hardest": 2, "select__budget__token_fraction": 0.1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_TOKENS", 20_000)
        patch.setattr(bounded, "PILOT_SHARE", 1 / 6)
        full = run(folder / "full", [path], model_folder, **more)
        some = run(folder / "some", [path], model_folder, select__mode="bounded", **more)
    return full, some


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_selects_the_same_rows_for_less(both):
    full, some = both
    assert [row["id"] for row in table(some, "selected")] == [row["id"] for row in table(full, "selected")]
    assert manifest(some)["pairs"]["computed"] < 0.8 * manifest(full)["pairs"]["computed"]
    assert manifest(some)["budget"] == manifest(full)["budget"]


def test_draws_are_the_same_rows_for_less(both, ray_session, model_folder, tmp_path):
    full, _ = both
    path = write_jsonl(tmp_path / "rows.jsonl", corpus(240, seed=3))
    more = {"alternatives__k": 9, "score__hardest": 2, "select__budget__token_fraction": 0.1}
    more["select__temperature"] = 0.05
    some = run(tmp_path / "some", [path], model_folder, select__mode="bounded", **more)
    drawn = reselect(full, select__temperature=0.05)
    ids = [row["id"] for row in table(some, "selected")]
    assert ids == [row["id"] for row in table(drawn, "selected")]
    assert ids != [row["id"] for row in table(full, "selected")]
    assert manifest(some)["pairs"]["computed"] < manifest(full)["pairs"]["computed"]


def test_rows_left_out_say_so(both):
    full, some = both
    expected = {row["id"]: row for row in table(full, "scored")}
    rows = table(some, "scored")
    last = min(row["tss_pp"] for row in table(some, "selected"))
    left = [row for row in rows if row["tss_pp_bound"] is not None]
    counts = manifest(some)["counts"]
    assert len(rows) == len(expected) and 0 < len(left) == counts["bounded"] == counts["unscored"]
    for row in rows:
        true = expected[row["id"]]
        assert row["loglik_mean"] == pytest.approx(true["loglik_mean"], abs=1e-4)
        assert row["ifd"] == pytest.approx(true["ifd"], abs=1e-4)
        if row["tss_pp_bound"] is None:
            assert row["tss_pp"] == pytest.approx(true["tss_pp"], abs=1e-4)
        else:
            assert row["tss_pp"] is row["tss"] is row["rank"] is None
            assert true["tss_pp"] - 1e-4 <= row["tss_pp_bound"] < last
            assert any(one["loglik_mean"] is None for one in row["alternatives"])
    assert all(row["tss_pp_bound"] is None for row in expected.values())


def test_selecting_anew_is_refused_where_the_bounds_do_not_reach(both):
    _, some = both
    smaller = reselect(some, select__budget__token_fraction=0.05)
    ids = [row["id"] for row in table(some, "selected")]
    assert [row["id"] for row in table(smaller, "selected")] == ids[: manifest(smaller)["counts"]["selected"]]
    by_ppl = reselect(some, select__mode="full", select__score="ppl", select__budget__token_fraction=0.9)
    assert manifest(by_ppl)["counts"]["selected"] > len(ids)
    with pytest.raises(
        BadRequest, match=r"'token_fraction': 0.9.* rows without a tss_pp could be selected.*mode: full"
    ):
        reselect(some, select__budget__token_fraction=0.9)
    for more in ({"select__score": "tss"}, {"select__max_per": {"source": 3}}):
        with pytest.raises(BadRequest, match=r"found (score: tss|max_per: .*), which needs the tss_pp of all rows"):
            reselect(some, select__mode="full", **more)


def test_a_poor_pilot_costs_rounds_and_no_row(ray_session, model_folder, both, tmp_path, monkeypatch):
    full, _ = both
    path = write_jsonl(tmp_path / "rows.jsonl", corpus(240, seed=3))
    monkeypatch.setattr(bounded, "PILOT_SHARE", 1e-9)  # an empty pilot says nothing, or
    monkeypatch.setattr(bounded, "_DEVIATIONS", -2.0)  # a threshold far too high
    rounds = []
    score_blocks = bounded.score_blocks
    monkeypatch.setattr(bounded, "score_blocks", lambda *a: rounds.append(a[-1].name) or score_blocks(*a))
    more = {"alternatives__k": 9, "score__hardest": 2, "select__budget__token_fraction": 0.1}
    for share in (1e-9, 1 / 8):
        monkeypatch.setattr(bounded, "PILOT_SHARE", share)
        some = run(tmp_path / "some", [path], model_folder, select__mode="bounded", **more)
        assert [row["id"] for row in table(some, "selected")] == [row["id"] for row in table(full, "selected")]
    assert rounds.count("again") >= 1


@pytest.mark.parametrize(
    "more",
    [
        {"select__score": "tss"},
        {"select__max_per": {"source": 3}},
        {"select__quota": {"rows": 0.5}},
        {"select__where": "rank == 0"},
    ],
)
def test_what_bounds_cannot_decide_is_refused_at_the_door(more):
    with pytest.raises(BadRequest, match=r"found mode: bounded with .*; bounded serves score: tss_pp"):
        settings("out", ["rows.jsonl"], "model", select__mode="bounded", **more)
