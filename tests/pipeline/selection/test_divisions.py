"""However rows are divided into parts, and parts into tasks, selections are those of the walk, to the bit."""

import math
import random
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import reference
from conftest import write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from small_runs import corpus, manifest_of, reselect, run, table

from operators.hashing import content_hash
from operators.schema import SCORED
from operators.selection import budget
from pipeline.engine import job, light_pass
from pipeline.retrieval import blocks
from pipeline.selection import passes, search, weigh
from pipeline.selection.ranking import WHOLE, Ranking
from pipeline.selection.search import Search, advanced, asked
from pipeline.storage.parts import read_table, write_table
from pipeline.storage.records import BlockPart, from_json, to_json

SCORE = st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.0, 1.0 + 2**-50, -1e300]), st.floats(-1e3, 1e3))
ROWS = st.lists(st.tuples(SCORE, st.integers(1, 50), st.sampled_from("abc")), max_size=24)
RNG = st.integers(0, 1 << 32).map(random.Random)
FEW = settings(max_examples=20)


def rows_of(drawn):
    return [
        {
            "id": content_hash(str(number)).hex(),
            "tss_pp": score,
            "ppl": float(cost),
            "n_prompt_tokens": cost,
            "n_target_tokens": 1,
            "source": source,
            "extra": "{}",
        }
        for number, (score, cost, source) in enumerate(drawn)
    ]


@pytest.fixture(scope="module")
def divided(tmp_path_factory):
    """Rows written as parts of random sizes, and the batches of tasks that have some of them each."""

    def divide(rows, rng):
        folder, parts, batches = tmp_path_factory.mktemp("parts"), [], []
        rows = rng.sample(rows, len(rows))
        while rows or not parts:
            size = rng.randint(0 if parts else 4, 12)
            written = write_table(str(folder / f"{len(parts)}.parquet"), pa.Table.from_pylist(rows[:size], SCORED))
            rows = rows[size:]
            parts.append(BlockPart(len(parts), written))
        left = list(parts)
        while left:
            size = rng.randint(1, 4)
            batches.append(pa.table({"item": [to_json(part) for part in left[:size]]}))
            left = left[size:]
        return rng.sample(batches, len(batches))

    return divide


def only(kind, batch):
    """The one record of a task."""
    (record,) = batch["record"].to_pylist()
    return from_json(kind, record)


def ends_of(batches, searches, rng):
    """What `find_ends` finds, where the histograms of tasks are added up in any groups."""
    first = True
    while any(search.open() for search in searches):
        sums = [passes.histogram_of_parts(batch, searches=asked(searches)) for batch in batches]
        meeting = rng.randint(1, len(sums))
        sums = [passes.add_up(pa.concat_tables(sums[:meeting])), *sums[meeting:]]
        searches, first = advanced(searches, passes.add_up(pa.concat_tables(sums)), first), False
    return searches


def walk(rows, score, room):
    costs = [{**row, "score": score(row), "cost": row["n_prompt_tokens"] + 1} for row in rows]
    return reference.select(costs, room)


@FEW
@given(ROWS, st.integers(0, 700), RNG)
def test_searches_and_overlap_are_those_of_the_walk(divided, drawn, room, rng):
    rows = rows_of(drawn)
    batches = divided(rows, rng)
    scores = {"tss_pp": lambda row: row["tss_pp"], "ppl": lambda row: row["ppl"]}
    rankings = [Ranking(name, {}, "total", "source != 'c'" if name == "ppl" else None) for name in scores]
    ends = ends_of(batches, [Search(ranking, {WHOLE: budget.Cut((), room)}) for ranking in rankings], rng)
    known = [[row for row in rows if row[name] is not None] for name in scores]
    known[1] = [row for row in known[1] if row["source"] != "c"]
    expected = [walk(mine, score, room) for mine, score in zip(known, scores.values(), strict=True)]
    assert [search.cuts[WHOLE].units for search in ends] == [len(ids) for ids in expected]
    assert [search.eligible for search in ends] == [len(mine) for mine in known]
    searches = [search.ends() for search in ends]
    common = sum(
        np.array(only(passes.CommonRows, passes.overlap_of_parts(batch, searches=searches))) for batch in batches
    )
    assert common.tolist() == [[len(set(one) & set(other)) for other in expected] for one in expected]


@FEW
@given(ROWS, st.integers(0, 700), st.integers(1, 6), RNG)
def test_the_chosen_rows_and_their_files_are_the_same(divided, tmp_path_factory, drawn, room, every, rng):
    rows = rows_of(drawn)
    batches, folder = divided(rows, rng), str(tmp_path_factory.mktemp("work"))
    shares = {"=a": budget.Cut((), room // 2), WHOLE: budget.Cut((), room - room // 2)}
    ranking = Ranking("tss_pp", {}, "total", None, quota="source", shares=list(shares))
    (ends,) = ends_of(batches, [Search(ranking, shares)], rng)
    chosen = [
        only(passes.Chosen, passes.choose_of_parts(batch, **ends.ends(), work=folder, every=every)) for batch in batches
    ]
    taken = [row for record in chosen for part in record.parts for row in read_table(part.path).to_pylist()]
    known = [row for row in rows if row["tss_pp"] is not None]
    mine, others = ([row for row in known if (row["source"] == "a") == own] for own in (True, False))
    expected = [
        *walk(mine, lambda row: row["tss_pp"], room // 2),
        *walk(others, lambda row: row["tss_pp"], room - room // 2),
    ]
    assert sorted(row["id"] for row in taken) == sorted(expected)
    assert sum((Counter(record.sources) for record in chosen), Counter()) == Counter(row["source"] for row in taken)
    ranked = sorted(taken, key=lambda row: (-(row["tss_pp"] + 0.0), row["id"]))
    sample = [row["id"] for row in ranked if int(row["id"][16:], 16) % every == 0]
    boundaries = sorted(key for record in chosen for key in record.sample)
    assert [key.ljust(48, "0")[16:] for key in boundaries] == sample
    parts = [pa.table({"item": [to_json(part) for part in record.parts]}) for record in chosen if record.parts]
    counts = sum(
        (np.array(only(passes.FileRows, passes.count_files(batch, boundaries=boundaries))) for batch in parts), 0
    )
    files = [table for batch in parts for table in passes.file_of_rows(batch, boundaries=boundaries)]
    by_id = {row["id"]: row["output_file"] for part in files for row in part.to_pylist()}
    ids = [row["id"] for row in ranked]
    assert [by_id[id] for id in ids] == [sum(ids.index(edge) <= place for edge in sample) for place in range(len(ids))]
    assert not ids or counts.tolist() == np.bincount(list(by_id.values()), minlength=len(sample) + 1).tolist()


@FEW
@given(ROWS, st.floats(0.01, 100.0), RNG)
def test_weights_and_moments_do_not_move_by_a_bit(divided, drawn, scale, rng):
    rows = rows_of(drawn)
    score = weigh.Score("tss_pp", {}, scale, 5.0)

    def gathered(batches):
        records = [only(weigh.Weights, weigh.weights_of_parts(batch, score=score)) for batch in batches]
        columns = [
            only(weigh.ColumnMoments, weigh.moments_of_parts(batch, names=["tss_pp", "ppl"])) for batch in batches
        ]
        merged = [weigh.moments.merge(record.columns[place] for record in columns) for place in (0, 1)]
        sums = weigh.add(record.sums for record in records)
        return sum(record.rows for record in records), sums, [(one.count, one.mean, one.deviation) for one in merged]

    count, sums, merged = gathered(divided(rows, rng))
    assert (count, sums, merged) == gathered(divided(rows, rng))
    known = [row for row in rows if row["tss_pp"] is not None]
    assert count == len(known)
    if known:
        logs = [min(scale * row["tss_pp"], math.log(5.0)) for row in known]
        top = max(logs)
        expected = top + math.log(math.fsum(math.exp(log - top) for log in logs))
        assert weigh.log_of(sums) == pytest.approx(expected, rel=1e-12, abs=1e-12)
        for (_, mean, deviation), name in zip(merged, ("tss_pp", "ppl"), strict=True):
            values = np.array([row[name] for row in known])
            assert mean == pytest.approx(values.mean(), rel=1e-9, abs=1e-12 * np.abs(values).max())
            largest = max(1.0, np.abs(values).max())  # numpy's own would overflow
            assert deviation / largest == pytest.approx((values / largest).std(), rel=1e-9, abs=1e-7)


@FEW
@given(ROWS, st.integers(0, 700), RNG)
def test_totals_and_what_bounds_reach_add_up(divided, drawn, room, rng):
    rows = [{**row, "tss_pp_bound": 0.25 if row["tss_pp"] is None else None} for row in rows_of(drawn)]
    batches = divided(rows, rng)
    totals = [only(passes.Totals, passes.totals_of_parts(batch, cost="total")) for batch in batches]
    assert sum(record.rows for record in totals) == len(rows)
    assert sum(record.total for record in totals) == sum(row["n_prompt_tokens"] + 1 for row in rows)
    ranking = Ranking("tss_pp", {}, "total", None, by_bound=True)
    (ends,) = ends_of(batches, [Search(ranking, {"asked": budget.Cut((), room)})], rng)
    reached = [only(passes.Reached, passes.reach_of_parts(batch, **ends.ends(), threshold=0.2)) for batch in batches]
    unscored = {row["id"] for row in rows if row["tss_pp"] is None}
    assert sum(sum(record.open.values()) for record in reached) == len(unscored)
    assert sum(len(batch) for batch in batches) == sum(len(record.open) for record in reached)
    taken = walk(rows, lambda row: 0.25 if row["tss_pp"] is None else row["tss_pp"], room)
    ranked = walk(rows, lambda row: 0.25 if row["tss_pp"] is None else row["tss_pp"], 10**9)
    assert sum(record.without_score for record in reached) == len(unscored & set(ranked[: len(taken) + 1]))


def test_a_run_of_many_small_parts_and_tasks_is_that_of_few(ray_session, model_folder, tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", [*corpus(60), *corpus(40, seed=2)])
    more = {"select__score": {"tss_pp": 1, "ifd": -0.5}, "select__max_per": {"source": 50, "stars": 4}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_TOKENS", 2000)
        few = run(tmp_path / "few", [rows], model_folder, **more)
        patch.setattr(weigh, "BYTES_PER_PART", 1)
        patch.setattr(job, "PARTS_TOGETHER", 1)
        patch.setattr(light_pass, "_ROWS_HERE", 0)  # all in tasks
        patch.setattr(job, "_ROWS_TOGETHER", 1)
        patch.setattr(search, "_ROWS_FOR_DRIVER", 1)
        patch.setattr(search, "_SHARES", 3)
        patch.setattr(job, "SHUFFLE_ROWS", 30)
        many = run(tmp_path / "many", [rows], model_folder, **more)
        again = reselect(few, select__budget={"token_fraction": 0.5})
    assert len(manifest_of(few)["files"]["scored"]) == 1 < len(manifest_of(many)["files"]["scored"])
    for kind in ("scored", "selected"):
        assert table(many, kind) == table(few, kind) and table(few, kind)
    for key in ("budget", "eligible", "scores", "overlap", "counts"):
        assert manifest_of(many)[key] == manifest_of(few)[key]
    assert table(reselect(many, select__budget={"token_fraction": 0.5}), "selected") == table(again, "selected")
