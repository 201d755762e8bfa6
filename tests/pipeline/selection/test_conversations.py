"""Whole conversations are selected as the plain walk over them selects, wherever their turns lie."""

import random
from dataclasses import asdict

import hypothesis
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_dataset import in_this_process
from published_runs import publish_rows, scored_row
from reference import key, random_of
from reference import select_conversations as slow_select
from small_runs import settings

from operators.hashing import content_hash
from operators.schema import SCORED, from_rows
from pipeline import flow
from pipeline.engine.job import Job
from pipeline.engine.progress import Reporter
from pipeline.errors import BadRequest
from pipeline.selection import choose, conversations, overlap, passes
from pipeline.selection.ranking import UNITS, Ranking, block_path, read_scored
from pipeline.storage.parts import read_table, write_part, write_table
from pipeline.storage.records import BlockPart

SCORE = st.one_of(st.none(), st.sampled_from([0.0, 1.0, -1.5]), st.floats(-100, 100))
FEW = hypothesis.settings(max_examples=25)
# Conversation (0: none), score, tokens, stars, ppl.
ROWS = st.lists(
    st.tuples(st.integers(0, 5), SCORE, st.integers(1, 9), st.sampled_from("ab"), st.integers(1, 9)),
    min_size=1,
    max_size=24,
)


def rows_of(drawn):
    return [
        {
            "id": content_hash("row", str(number)).hex(),
            "source": "s",
            "conversation": content_hash(str(conversation)).hex() if conversation else None,
            "turn": number if conversation else None,
            "tss_pp": score,
            "ppl": float(ppl),
            "random": random_of(content_hash("row", str(number)).hex(), 7),
            "n_prompt_tokens": tokens,
            "n_target_tokens": 1,
            "instruction": group,
            "extra": "{}",
        }
        for number, (conversation, score, tokens, group, ppl) in enumerate(drawn)
    ]


def job_of(folder, **select):
    asked = {"select__unit": "conversation", "select__score": "tss_pp", "seed": 7, "input__0__turns": "each"}
    config = settings(folder, ["x.jsonl"], "m", **asked, **{f"select__{name}": value for name, value in select.items()})
    return Job(config, str(folder), "run", None, Reporter(quiet=True))


def parts_of(folder, rows, blocks, seed):
    """The rows in any order in so many blocks."""
    mixed = random.Random(seed).sample(rows, len(rows))
    cut = [mixed[block::blocks] for block in range(blocks)]
    return [
        BlockPart(block, write_part(f"{folder}/scored", from_rows(part, SCORED), SCORED))
        for block, part in enumerate(cut)
    ]


def selected(chosen):
    return [row for part in chosen.parts for row in read_table(part.part.path).to_pylist()]


def costed(rows, score=lambda row: row["tss_pp"]):
    return [{**row, "score": score(row), "cost": row["n_prompt_tokens"] + 1} for row in rows]


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """Selects in this process: (rows, blocks, settings) -> the selection, or its overlap with others."""

    def select(rows, blocks=2, seed=0, compared=False, **asked):
        folder = tmp_path_factory.mktemp("conversations")
        with pytest.MonkeyPatch.context() as patch:
            in_this_process(patch)
            patch.setattr(passes, "ROWS_PER_FILE", 5)
            job, parts = job_of(folder, **asked), parts_of(folder, rows, blocks, seed)
            chosen = choose.select(job, parts, {})
            return overlap.overlap(job, parts, chosen, 0) if compared else chosen

    return select


@FEW
@pytest.mark.ray  # slow
@given(ROWS, st.integers(1, 5), st.integers(0, 9), st.integers(1, 150), st.sampled_from(["mean", "min"]))
def test_equals_the_walk_over_conversations(fast, drawn, blocks, seed, budget, how):
    rows = rows_of(drawn)
    chosen = fast(rows, blocks, seed, budget={"tokens": budget}, unit_score=how)
    taken = selected(chosen)
    assert [row["id"] for row in taken] == slow_select(costed(rows), budget, how)
    assert [row["selection_rank"] for row in taken] == list(range(len(taken)))
    assert chosen.used == sum(row["n_prompt_tokens"] + 1 for row in taken) <= budget


@FEW
@pytest.mark.ray  # slow
@given(ROWS, st.integers(1, 4), st.integers(1, 150), st.integers(1, 3))
def test_filter_cap_and_budget_are_of_conversations(fast, drawn, blocks, budget, n):
    rows = rows_of(drawn)
    asked = {"where": "ppl < 8", "max_per": {"instruction": n}, "budget": {"tokens": budget}}
    chosen = fast(rows, blocks, **asked)
    passing = costed(rows, lambda row: row["tss_pp"] if row["ppl"] < 8 else None)
    assert [row["id"] for row in selected(chosen)] == slow_select(passing, budget, most=("instruction", n))


@FEW
@pytest.mark.ray  # slow
@given(ROWS, st.integers(1, 4), st.integers(2, 60))
def test_a_quota_splits_the_budget_by_the_first_turns(fast, drawn, blocks, budget):
    rows = rows_of(drawn)
    chosen = fast(rows, blocks, quota={"instruction": {"a": 0.5}}, budget={"tokens": budget})
    leads = {}
    for row in rows:
        leads.setdefault(row["conversation"] or row["id"], row["instruction"])
    expected = set()
    for group in "ab":
        of_group = [row for row in costed(rows) if leads[row["conversation"] or row["id"]] == group]
        expected |= set(slow_select(of_group, budget // 2))
    assert {row["id"] for row in selected(chosen)} == expected


@FEW
@pytest.mark.ray  # slow
@given(ROWS, st.integers(1, 4), st.integers(1, 20), st.sampled_from([0.5, "infinite"]))
def test_a_draw_is_of_conversations(fast, drawn, blocks, budget, temperature):
    rows = rows_of(drawn)
    chosen = fast(rows, blocks, temperature=temperature, budget={"examples": budget})
    units = {}
    for row in rows:
        units.setdefault(row["conversation"] or row["id"], []).append(row)
    keys = {}
    for name, turns in units.items():
        if all(row["tss_pp"] is not None for row in turns):
            mean = sum(row["tss_pp"] for row in turns) / len(turns)
            keys[name] = key(mean, random_of(name, 7), float(str(temperature).replace("infinite", "inf")))
    left, expected = budget, []
    for name in sorted(keys, key=lambda name: (-keys[name], name)):
        if len(units[name]) > left:
            break
        left -= len(units[name])
        expected += [row["id"] for row in units[name]]
    assert [row["id"] for row in selected(chosen)] == expected


@FEW
@pytest.mark.ray  # slow
@given(ROWS, st.integers(1, 4), st.integers(1, 100))
def test_every_score_is_compared_over_conversations(fast, drawn, blocks, budget):
    rows = rows_of(drawn)
    compared = fast(rows, blocks, compared=True, budget={"tokens": budget})
    taken = set(slow_select(costed(rows), budget))
    assert compared.scores[0] == "tss_pp" and compared.rows[0] == len(taken)
    walks = {
        "ppl": lambda row: row["ppl"],
        "-ppl": lambda row: -row["ppl"],
        "random": lambda row: random_of(row["conversation"] or row["id"], 7),
    }
    for name, score in walks.items():
        other, place = set(slow_select(costed(rows, score), budget)), compared.scores.index(name)
        assert compared.rows[place] == len(other)
        expected = len(taken & other) / len(taken | other) if taken | other else None
        assert compared.jaccard[0][place] == expected


def test_a_conversation_counts_once_under_a_cap(fast):
    rows = rows_of([(number % 5 + 1, float(number % 5), 3, "a", 1) for number in range(40)])
    chosen = fast(rows, blocks=3, max_per={"instruction": 2}, budget={"example_fraction": 1.0})
    assert [row["id"] for row in selected(chosen)] == slow_select(costed(rows), 10**6, most=("instruction", 2))
    assert len(selected(chosen)) == 2 * 8


def test_turns_meet_across_the_partitions_of_a_shuffle(ray_session, tmp_path):
    rows = rows_of([(number % 30, float(number % 7), 3, "ab"[number % 2], 1) for number in range(160)])
    parts = parts_of(tmp_path, rows, 48, 1)
    job = job_of(tmp_path, max_per={"instruction": 8}, budget={"tokens": 300})
    chosen = choose.select(job, parts, {})
    expected = slow_select(costed(rows), 300, most=("instruction", 8))
    assert [row["id"] for row in selected(chosen)] == expected and len(expected) > 40


def test_a_random_filter_draws_conversations(fast):
    rows = rows_of([(number % 6, 1.0, 3, "a", 1) for number in range(60)])
    chosen = fast(rows, where="random < 0.5", budget={"example_fraction": 1.0})
    drawn = [row["id"] for row in rows if random_of(row["conversation"] or row["id"], 7) < 0.5]
    assert {row["id"] for row in selected(chosen)} == set(drawn) and 0 < len(drawn) < 60


def test_rows_without_any_conversation_are_refused(tmp_path, monkeypatch):
    in_this_process(monkeypatch)
    alone, chat = (parts_of(tmp_path, rows_of([(number, 1.0, 1, "a", 1)] * 3), 2, 0) for number in (0, 1))
    conversations.require_conversations(alone + chat)
    with pytest.raises(BadRequest, match=r"select.unit: found conversation, and no row of this run has one"):
        conversations.require_conversations(alone)


@pytest.mark.parametrize("published", [True, False])
def test_inputs_that_give_no_conversations_are_refused_before_any_work(tmp_path, published):
    asked = settings(tmp_path / "out", ["x.jsonl"], "m", select__unit="conversation")
    with pytest.raises(BadRequest, match=r"select.unit: .* no input has turns: each"):
        if published:
            run = publish_rows(tmp_path / "out", [scored_row()])
            flow.select(asked, str(run), Reporter(quiet=True))
        else:
            flow.run(asked, Reporter(quiet=True))


def test_bounded_selection_refuses_conversations(tmp_path):
    with pytest.raises(BadRequest, match=r"mode: bounded with unit: conversation; bounded serves .* unit: example"):
        settings(tmp_path, ["x.jsonl"], "m", select__unit="conversation", select__mode="bounded")


def test_a_ranking_over_conversations_travels_to_tasks():
    ranking = Ranking("ppl", {}, "total", None, units="folder", unit_score=2, unit_groups=["task"])
    assert Ranking(**asdict(ranking)) == ranking


def test_a_block_without_what_holds_of_its_conversations_is_not_taken_for_all(tmp_path):
    (part,) = parts_of(tmp_path, rows_of([(1, 1.0, 1, "a", 1)] * 3), 1, 0)
    write_table(block_path(str(tmp_path), 0), pa.Table.from_pylist([], schema=UNITS))
    with pytest.raises(RuntimeError, match="block 0 has 3 rows, and 0 of them came with a conversation"):
        read_scored(part, Ranking("ppl", {}, "total", None, units=str(tmp_path)))
