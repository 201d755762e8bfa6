"""Instructions that mean the same are of one cluster, and the same ones always are."""

import numpy as np

from operators.retrieval import clusters


def planted(groups, each, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, 16)) * 4
    points = np.repeat(centres, each, axis=0) + rng.normal(size=(groups * each, 16)) * 0.05
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def labels_of(points, count):
    return clusters.clusters_of(points, clusters.cluster_centres(points, count))


def test_planted_groups_are_found():
    labels = labels_of(planted(3, 40), 3)
    groups = labels.reshape(3, 40)
    assert labels.dtype == np.int32 and (groups == groups[:, :1]).all() and len(set(groups[:, 0])) == 3


def test_the_same_embeddings_give_the_same_clusters():
    rows = planted(9, 30, seed=1)
    assert np.array_equal(labels_of(rows, 7), labels_of(rows.copy(), 7))


def test_centres_of_a_sample_are_enough(monkeypatch):
    monkeypatch.setattr(clusters, "_ROWS_TOGETHER", 64)
    points = planted(3, 100)
    groups = clusters.clusters_of(points, clusters.cluster_centres(points[::3], 3)).reshape(3, 100)
    assert (groups == groups[:, :1]).all() and len(set(groups[:, 0])) == 3


def test_few_instructions_are_clusters_of_their_own():
    assert labels_of(planted(2, 2), 4).tolist() == [0, 1, 2, 3]
    assert labels_of(np.zeros((1, 3), dtype=np.float32), 1).tolist() == [0]


def test_equal_embeddings_do_no_harm():
    assert set(labels_of(np.ones((50, 4), dtype=np.float32), 5).tolist()) <= set(range(5))


def test_how_many_where_nobody_says():
    assert [clusters.auto_count(count) for count in (0, 1, 90, 20_000, 10**9)] == [1, 1, 7, 100, 1000]
