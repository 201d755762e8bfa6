"""Tallies and figures against slow twins over the rows; joined in any way, bounded, and of runs of earlier releases."""

import json
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_runs import publish_rows, scored_row

from operators.scoring.draw import keys_of
from operators.scoring.scores import ScoreSettings, tss_pp
from pipeline.report import figures, gather, make, rows, tally
from pipeline.report.scales import scale_of
from pipeline.report.shares import shares_of
from pipeline.runs import open_run
from pipeline.selection.overlap import COMPARED

SCORE = ScoreSettings(4, 0.5, 0.1, 1.0, 10.0)


def corpus(count, seed=0):
    rng = random.Random(seed)
    made = []
    for number in range(count):
        own = -rng.expovariate(1.0) - 0.01
        others = [own - rng.gauss(1, 1) for _ in range(rng.choice([0, 1, 4, 8]))]
        score = None
        if others:
            score = float(tss_pp(np.array([own]), np.array([others]), hardest=4, tau=0.5, alpha=0.1)[0])
        made.append(
            scored_row(
                f"Do {number}.",
                rng.choice(["", "this"]),
                "Done.",
                source=rng.choice("abc"),
                extra={"task": rng.choice(["x", "y"]), "stars": number % 5} if number % 4 else {},
                n_prompt_tokens=rng.randrange(1, 20),
                n_target_tokens=rng.randrange(1, 90),
                length=rng.randrange(1, 90),
                loglik_mean=own,
                alternatives=[
                    {"instruction": "o", "origin": "retrieved", "similarity": 0.1, "loglik_mean": other}
                    for other in others
                ],
                tss=None if score is None else score * 3,
                tss_pp=score,
                ppl=float(np.exp(-own)),
                ifd=float(np.exp(-2 - own)),
                random=rng.random(),
                cluster=rng.randrange(4),
            )
        )
    return made


EVERY = corpus(400)


def cost(row):
    return row["n_prompt_tokens"] + row["n_target_tokens"]


def slow_selection(some, score, temperature, room):
    """Ids of the longest prefix that fits."""
    known = [row for row in some if row["tss_pp"] is not None]
    keys = {
        row["id"]: float(keys_of(np.array([score(row)]), np.array([row["random"]]), temperature)[0]) for row in known
    }
    chosen, used = [], 0
    for row in sorted(known, key=lambda row: -keys[row["id"]]):
        used += cost(row)
        if used > room:
            break
        chosen.append(row["id"])
    return chosen


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    total = sum(map(cost, EVERY))
    chosen = slow_selection(EVERY, lambda row: row["tss_pp"], 0.5, int(total * 0.2))
    places = {row["id"]: number for number, row in enumerate(EVERY)}
    run = publish_rows(
        tmp_path_factory.mktemp("tally") / "out",
        EVERY,
        selected=[places[each] for each in chosen],
        part_rows=90,
        columns=["task", "stars"],
        select={"temperature": 0.5, "budget": {"token_fraction": 0.2}},
    )
    return run, open_run.read_manifest(str(run)), chosen


@pytest.fixture(scope="module")
def gathered(done):
    return gather.gather_here(done[1], str(done[0]))


def described(done, **more):
    known = {
        "temperature": 0.5, "budget": 0.2, "seed": 0, "unscaled": True, "in_float32": True, "alpha": 0.1, "tau": 0.5,
        "quantiles": [], "bounded": False, "simple": True,
    }  # fmt: skip
    return figures.Run(**{**known, **more})


def test_groups_are_counted(gathered, done):
    chosen = set(done[2])
    taken = [row for row in EVERY if row["id"] in chosen]
    shares = shares_of(gathered)
    by_column = {
        each.column: {group.name: (group.rows, group.selected) for group in each.groups} for each in shares.columns
    }
    assert set(by_column) == {"source", "task", "cluster", "length", "layout"}
    for column, value in {
        "source": lambda row: row["source"],
        "cluster": lambda row: str(row["cluster"]),
        "task": lambda row: json.loads(row["extra"]).get("task", "(none)"),
        "layout": lambda row: "instruction with input" if row["input"] else "instruction alone",
    }.items():
        every, some = Counter(map(value, EVERY)), Counter(map(value, taken))
        assert by_column[column] == {name: (count, some[name]) for name, count in every.items()}
    lengths = Counter(2 ** int(np.log2(row["length"])) for row in EVERY)
    assert sum(rows for rows, _ in by_column["length"].values()) == len(EVERY)
    assert by_column["length"]["32 to 63"][0] == lengths[32]
    assert shares.whole == len(chosen) / len(EVERY)


def test_extremes_are_those_of_all_rows(gathered):
    known = [row for row in EVERY if row["tss_pp"] is not None]
    best = sorted(known, key=lambda row: (-row["tss_pp"], row["id"]))[: tally.EXTREMES]
    worst = sorted(known, key=lambda row: (row["tss_pp"], row["id"]))[: tally.EXTREMES]
    assert gathered.tally["best"]["id"].to_pylist() == [row["id"] for row in best]
    assert gathered.tally["worst"]["id"].to_pylist() == [row["id"] for row in worst]


def test_borders_are_the_last_taken_and_the_first_left_out(gathered, done):
    shown = {
        kind: [row for row in gathered.material.rows if kind in row.kinds] for kind in ("last taken", "first left out")
    }
    assert {row.id for row in shown["last taken"]} == set(done[2][-rows.NEAR_THE_CUT :])
    wider = slow_selection(EVERY, lambda row: row["tss_pp"], 0.5, sum(map(cost, EVERY)))
    assert {row.id for row in shown["first left out"]} == set(wider[len(done[2]) :][: rows.NEAR_THE_CUT])
    ranks = {row.id: row.selection_rank for row in gathered.material.rows}
    assert all(ranks[each] == (done[2].index(each) if each in done[2] else None) for each in ranks)


def test_parts_join_in_any_order_and_travel(done):
    run, manifest, _ = done
    look = gather.look_of(manifest)
    looked = [
        tally.Looked(record.part, kind)
        for kind in (tally.SCORED, tally.SELECTION)
        for record in open_run.parts_of(str(run), manifest.files[kind])
    ]
    each = [tally.tally_of(one, look) for one in looked]
    whole = tally.joined(each)
    turned = tally.joined([tally.received(tally.sent(tally.joined(each[3:]))), *reversed(each[:3])])
    assert whole.keys() == turned.keys()
    for name in whole:
        names = ["id"] if "id" in whole[name].column_names else ["of", "column", "value"]
        keys = [(key, "ascending") for key in names]
        assert whole[name].sort_by(keys).equals(turned[name].sort_by(keys)), name


def test_a_tally_stays_small(done, monkeypatch):
    monkeypatch.setattr(tally, "SAMPLE", 50)
    monkeypatch.setattr(tally, "MOST_GROUPS", 10)
    found = gather.gather_here(done[1], str(done[0]))
    lowest = sorted(row["id"] for row in EVERY)[:50]
    assert found.tally["scored"]["id"].to_pylist() == lowest
    per_column = Counter((row["of"], row["column"]) for row in found.tally["groups"].to_pylist())
    assert max(per_column.values()) <= 10
    assert set(found.tally["selected"]["id"].to_pylist()) >= set(lowest) & set(done[2])


def test_moves_are_selections_of_their_own(gathered, done):
    made = figures.figures(gathered.tally, described(done))
    total = sum(map(cost, EVERY))
    own = set(done[2])
    assert {move.temperature for move in made.moves} == {0, 0.1, 0.25, 0.5, 1, np.inf}
    for move in made.moves:
        if np.isinf(move.temperature):
            continue
        chosen = set(slow_selection(EVERY, lambda row: row["tss_pp"], move.temperature, total * move.budget))
        assert move.rows == len(chosen)
        assert move.common == pytest.approx(len(chosen & own) / min(len(chosen), len(own)))
        lengths = [row["length"] for row in EVERY if row["id"] in chosen]
        assert move.medians["length"] == pytest.approx(np.median(lengths))


def test_halves_are_scores_by_half_of_the_alternatives(gathered):
    values = {row["id"]: row for row in gathered.tally["scored"].to_pylist()}
    for row in EVERY:
        others = [each["loglik_mean"] for each in row["alternatives"]]
        for name, half in (("half_a", others[::2]), ("half_b", others[1::2])):
            wanted = None
            if len(others) >= 2:
                wanted = float(
                    tss_pp(np.array([row["loglik_mean"]]), np.array([half]), hardest=4, tau=0.5, alpha=0.1)[0]
                )
            assert values[row["id"]][name] == (None if wanted is None else pytest.approx(wanted))


def test_the_end_is_that_of_the_selection(gathered, done):
    sure = figures.figures(gathered.tally, described(done)).sureness
    by_id = {row["id"]: row for row in EVERY}
    assert sure.last_score == by_id[done[2][-1]]["tss_pp"]
    assert sure.next_key < sure.last_key
    assert 0 <= sure.halves <= 1 and sure.rounding == pytest.approx(1e-4 * 4.1 / 0.5)
    assert figures.figures(gathered.tally, described(done, simple=False)).sureness is None


def test_of_a_bounded_selection_only_its_end_is_known(gathered, done):
    made = figures.figures(gathered.tally, described(done, bounded=True))
    assert made.moves == [] and made.sureness.halves is None
    assert made.sureness.last_score == figures.figures(gathered.tally, described(done)).sureness.last_score


def test_scores_of_an_early_release_are_not_halved(done):
    early = replace(done[1], config={**done[1].config, "score": {"hardest": 4, "tau": 0.5, "quality_weight": 0.1}})
    assert gather.gather_here(early, str(done[0])).tally["scored"]["half_a"].null_count == len(EVERY)
    assert "What half of the alternatives would have selected is not known" in make.report_again(early, str(done[0]))


def test_a_selection_by_rank_is_a_step_without_temperature(tmp_path):
    ranked = [row for row in sorted(EVERY, key=lambda row: -(row["tss_pp"] or -99)) if row["tss_pp"] is not None]
    run = publish_rows(tmp_path / "out", ranked[:100], selected=list(range(50)), select={"temperature": 0})
    manifest = open_run.read_manifest(str(run))
    made = figures.figures(gather.gather_here(manifest, str(run)).tally, make._run(manifest))
    assert [share for _, share in made.by_rank] == [1.0] * 10 + [0.0] * 10


def test_columns_of_an_earlier_release_may_be_missing(done, tmp_path):
    run = publish_rows(tmp_path / "out", EVERY[:50], selected=list(range(5)), columns=["task"])
    for kind in ("scored", "selected"):
        path = run / kind / "part-00000.parquet"
        table = pq.read_table(path)
        alternatives = [
            [{key: value for key, value in each.items() if key not in ("origin", "loglik_mean")} for each in row or []]
            for row in table["alternatives"].to_pylist()
        ]
        table = table.drop_columns(["ifd", "random", "cluster", "turn", "messages", "alternatives", "tss"])
        pq.write_table(table.append_column("alternatives", pa.array(alternatives)), path)
    manifest = open_run.read_manifest(str(run))
    text = make.report_again(manifest, str(run))
    assert "No row has a value of tss, ifd: it is not charted." in text and "not scored" in text


def test_scales_hold_all_values():
    rng = np.random.default_rng(0)
    for column, values in {
        "ppl": np.exp(rng.gamma(2, 1, 1000)),
        "ifd": np.exp(rng.normal(0, 2, 1000)),
        "tss_pp": -rng.gamma(1, 2, 1000),
        "tss": rng.normal(0, 10, 1000),
        "one value": np.full(10, 3.0),
        "zero": np.zeros(5),
    }.items():
        scale = scale_of(np.r_[values, np.nan], column)
        edges = scale.edges(20)
        assert (np.diff(edges) > 0).all() and np.allclose(scale.back(scale.forward(edges)), edges)
        inside = values[(values > edges[0]) & (values < edges[-1])]
        places = scale.bins_of(inside, 20)
        slack = 1e-9 * np.abs(edges).max()
        assert (inside >= edges[places] - slack).all() and (inside <= edges[places + 1] + slack).all()
        assert all(edges[0] <= tick <= edges[-1] for tick in scale.ticks())
    assert scale_of(np.array([np.nan]), "tss") is None


def test_what_is_compared_is_named():
    assert {"tss", "tss_pp", "ppl", "ifd"} <= set(figures.DISTRIBUTIONS) <= {name.strip("-") for name in COMPARED}
