"""The nearest vectors are those of a plain sort, whatever the stretches; an inverted file misses few of them."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pools import unit

from operators.retrieval import gpu_tiles, nearest
from operators.retrieval.lists import find_centres, list_count, nearest_lists, probed_lists
from operators.retrieval.nearest import Nearest
from operators.retrieval.tiles import HOST

# The way of a GPU, on a CPU.
TILES = {"here": HOST, "torch": gpu_tiles.on_device("cpu")}
either = pytest.mark.parametrize("tiles", TILES.values(), ids=TILES)


def plain(query, pool, count):
    exact = (pool.astype(np.float64) * query.astype(np.float64)).sum(axis=1)
    order = sorted(range(len(pool)), key=lambda row: (-exact[row], row))[:count]
    return order, exact[order].tolist()


def found_by(asked, pool, count, cuts=(), order=None, settled=False, tiles=HOST, **options):
    search = Nearest(asked, count, tiles)
    stretches = list(zip([0, *cuts], [*cuts, len(pool)], strict=True))
    for start, stop in stretches if order is None else [stretches[i] for i in order]:
        stretch = pool[start:stop].copy()
        search.see(stretch, np.arange(start, stop), **options)
        if settled:
            search.settle()
            stretch[:] = np.nan  # it may go
    begins, rows, similarities, complete = search.end()
    parts = [slice(*ends) for ends in pairwise(begins.tolist())]
    return [(rows[part].tolist(), similarities[part].tolist()) for part in parts], complete.tolist()


@given(
    count=st.integers(1, 9),
    size=st.integers(1, 60),
    seed=st.integers(0, 5),
    cuts=st.lists(st.integers(0, 60), max_size=3),
    narrowest=st.sampled_from([1, 4, 128]),
    backwards=st.booleans(),
    settled=st.booleans(),
    tiles=st.sampled_from(list(TILES.values())),
)
def test_equals_a_plain_sort_with_ties(count, size, seed, cuts, narrowest, backwards, settled, tiles):
    pool = unit(np.random.default_rng(seed).integers(-1, 2, (size, 3)) + 0.01)  # few directions: many ties
    queries = pool[:: max(1, size // 7)]
    cuts = sorted(min(cut, size) for cut in cuts)
    before, nearest._NARROWEST = nearest._NARROWEST, narrowest
    order = range(len(cuts), -1, -1) if backwards else None
    given_, complete = found_by(queries, pool, count, cuts, order, settled, tiles)
    nearest._NARROWEST = before
    assert given_ == [plain(query, pool, count) for query in queries]
    assert complete == [size <= count] * len(queries)


@either
def test_more_queries_and_vectors_than_one_tile(tiles):
    rng = np.random.default_rng(3)
    pool = unit(rng.normal(size=(700, 16)))
    pool[100:120] = pool[0]  # exact ties
    given_, _ = found_by(pool[:50], pool, 30, [300], tiles=tiles._replace(cells=1 << 12))
    assert given_ == [plain(query, pool, 30) for query in pool[:50]]


@either
def test_what_may_not_be_taken_is_not_and_some_queries_may_look_elsewhere(tiles):
    pool = unit(np.random.default_rng(0).normal(size=(50, 4)))
    odd, _ = found_by(pool[:5], pool, 3, allow=lambda query, place, similarity: place % 2 == 1, tiles=tiles)
    assert all(row % 2 for rows, _ in odd for row in rows)
    some, complete = found_by(pool[:5], pool, 3, queries=np.array([1, 4]), tiles=tiles)
    assert [len(rows) for rows, _ in some] == [0, 3, 0, 0, 3] and complete == [True, False, True, True, False]
    assert some[4] == plain(pool[4], pool, 3)


@pytest.fixture(scope="module")
def clustered():
    rng = np.random.default_rng(1)
    topics = rng.normal(size=(40, 24))
    return unit(topics[rng.integers(0, 40, 4000)] + 0.6 * rng.normal(size=(4000, 24)))


def test_every_vector_is_in_the_list_of_its_nearest_centre(clustered):
    centres = find_centres(clustered[:2000], 60)
    lists = nearest_lists(clustered, centres)
    exact = clustered.astype(np.float64) @ centres.T.astype(np.float64)
    assert (exact.max(axis=1) - exact[np.arange(len(lists)), lists] < 1e-9).all()
    assert np.allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-6) and 30 < len(centres) <= 60
    assert np.bincount(lists).max() < 400  # of 4,000: they are balanced enough
    assert (probed_lists(clustered[:9], centres, 5)[:, 0] == lists[:9]).all()


def test_a_few_lists_hold_most_of_the_nearest(clustered):
    centres = find_centres(clustered[:2000], 60)
    lists, probed = nearest_lists(clustered, centres), probed_lists(clustered[:200], centres, 6)
    shares = [np.isin(lists[plain(clustered[i], clustered, 8)[0]], probed[i]).mean() for i in range(200)]
    assert np.mean(shares) > 0.9


@either
def test_centres_depend_on_the_sample_alone(clustered, tiles):
    assert np.array_equal(find_centres(clustered, 30), find_centres(clustered.copy(), 30, tiles))


def test_a_way_that_rounds_as_tf32_does_is_told_from_float32():
    assert gpu_tiles.exact_enough(TILES["torch"]) and gpu_tiles.exact_enough(HOST)

    def rounded(vectors):
        held = vectors.view(np.int32) + 0x1000 & ~0x1FFF  # ten bits of the fraction are left
        return held.view(np.float32)

    assert not gpu_tiles.exact_enough(HOST._replace(held=rounded))


def test_a_device_that_is_full_is_left_aside():
    def full(*_):
        raise RuntimeError("CUDA error: out of memory")

    assert not gpu_tiles.exact_enough(HOST._replace(held=full))
    with pytest.raises(RuntimeError, match="no kernel"):
        gpu_tiles.exact_enough(HOST._replace(reaching=lambda *_: (_ for _ in ()).throw(RuntimeError("no kernel"))))


@pytest.mark.parametrize("sample", [np.zeros((5, 3), np.float32), np.ones((4, 3), np.float32) / 3**0.5])
def test_vectors_without_any_difference_are_one_list_or_few(sample):
    centres = find_centres(sample, 3)
    assert 1 <= len(centres) <= 3 and nearest_lists(sample, centres).tolist() == [0] * len(sample)


def test_there_are_twice_as_many_lists_as_the_root():
    assert [list_count(count) for count in (1, 10_000, 1_000_000)] == [2, 200, 2000]
