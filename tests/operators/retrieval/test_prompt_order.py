"""Orders of instructions: permutations that bring together what is alike and what shares prompts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from operators.retrieval.prompt_order import neighbourhood_order, shared_order


@given(st.integers(0, 60), st.integers(1, 5), st.booleans())
def test_is_a_permutation(count, dimensions, equal):
    points = np.zeros((count, dimensions)) if equal else np.random.default_rng(count).normal(size=(count, dimensions))
    order = neighbourhood_order(points.astype(np.float32))
    assert sorted(order.tolist()) == list(range(count))
    assert order.tolist() == neighbourhood_order(points.astype(np.float32)).tolist()


def test_clusters_stay_together():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(16, 20)) * 10
    cluster = rng.permutation(np.repeat(np.arange(16), 32))
    order = neighbourhood_order((centres[cluster] + rng.normal(size=(512, 20)) * 0.1).astype(np.float32))
    changes = int((np.diff(cluster[order]) != 0).sum())
    assert changes == 15  # in a random order, about 480


@given(st.integers(0, 40), st.integers(1, 6), st.integers(0, 3), st.integers(1, 200))
def test_shared_order_is_a_permutation(count, k, seed, width):
    rng = np.random.default_rng(seed)
    prompts = [np.unique([i, *rng.integers(0, count, k)]) for i in range(count)]
    order = shared_order(rng.permutation(count), prompts, rng.integers(0, 50, count), width)
    assert sorted(order.tolist()) == list(range(count))


def test_blocks_ask_for_few_prompts():
    # Groups whose members ask for each other's prompts, in a base order that scatters them.
    rng = np.random.default_rng(0)
    members = rng.permutation(400).reshape(20, 20)
    prompts = [np.zeros(0, dtype=np.int64)] * 400
    for group in members:
        for one in group:
            prompts[one] = np.unique([one, *rng.choice(group, 8)])
    order = shared_order(np.arange(400), prompts, np.full(400, 10), 200)  # blocks of 20
    asked = [len(np.unique(np.concatenate([prompts[i] for i in order[at : at + 20]]))) for at in range(0, 400, 20)]
    assert np.mean(asked) < 24  # in the base order, about 100
