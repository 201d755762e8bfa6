"""How many actors a cluster gets, and where work may go: by what its nodes are, and what its autoscaler may add."""

import pytest
import ray
from ray._private.state import state
from ray.core.generated import autoscaler_pb2
from runs import settings

from pipeline.errors import BadRequest
from pipeline.resources import no_more_than, off_gpus, pools


def node(name, cpus=0.0, gpus=0.0, alive=True):
    resources = {key: value for key, value in {"CPU": cpus, "GPU": gpus}.items() if value}
    return {"NodeID": name, "Alive": alive, "Resources": resources}


HEAD = node("head")
CPUS = [node("cpu1", 8), node("cpu2", 8)]
GPUS = [node("gpu2", 4, 2), node("gpu1", 4, 2)]


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of some nodes, and groups (CPUs, GPUs, most nodes) of an autoscaler."""

    def of(nodes, groups=()):
        config = autoscaler_pb2.ClusterConfig()
        for cpus, gpus, most in groups:
            group = config.node_group_configs.add(max_count=most)
            group.resources.update({"CPU": cpus, "GPU": gpus})
        alive = [one for one in nodes if one["Alive"]]
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(
            ray, "cluster_resources", lambda: {"GPU": sum(one["Resources"].get("GPU", 0) for one in alive)}
        )
        monkeypatch.setattr(state, "get_cluster_config", lambda: config if groups else None)

    return of


def sizes(tmp_path, **more):
    return pools(settings(tmp_path / "out", [tmp_path / "rows.jsonl"], tmp_path, **more))


def test_without_gpus_each_machine_that_takes_work_has_one_scorer(cluster, tmp_path):
    cluster([HEAD, *CPUS, node("gone", 8, alive=False)])
    found = sizes(tmp_path)
    assert found.scorers == found.embedders == (2, 2)
    assert found.gpus_per_scorer == 0 and found.scorers_a_node == 1
    assert sizes(tmp_path, ray__scorers=5).scorers_a_node == 3


def test_each_gpu_has_one_scorer_or_as_many_as_fit(cluster, tmp_path):
    cluster([HEAD, *CPUS, *GPUS])
    assert sizes(tmp_path).scorers == (4, 4)
    assert sizes(tmp_path, ray__gpus_per_scorer=0.25).scorers == (16, 16)
    assert sizes(tmp_path, ray__gpus_per_scorer=2).scorers == (2, 2)
    assert sizes(tmp_path, ray__gpus_per_scorer=0).scorers == (4, 4)  # one for each machine
    assert sizes(tmp_path, ray__scorers=[1, 9]).scorers == (1, 9)  # more may join


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"ray__scorers": 5}, "ray.scorers: 5 scorers of 1 GPUs each do not fit on 4 GPUs"),
        ({"ray__scorers": [5, 6]}, "ray.scorers: 5 scorers of 1 GPUs each do not fit on 4 GPUs"),
        ({"ray__gpus_per_scorer": 8}, "ray.gpus_per_scorer: 8 wanted, and the cluster has 4 GPUs"),
    ],
)
def test_what_can_never_start_is_refused(cluster, tmp_path, more, told):
    cluster([HEAD, *CPUS, *GPUS])
    with pytest.raises(BadRequest, match=told):
        sizes(tmp_path, **more)


def test_gpus_that_an_autoscaler_may_add_count(cluster, tmp_path):
    cluster([HEAD, CPUS[0]], groups=[(0, 0, 1), (8, 0, 4), (8, 1, 6)])
    found = sizes(tmp_path)
    assert found.scorers == (6, 6) and found.gpus_per_scorer == 1
    with pytest.raises(BadRequest, match="7 scorers of 1 GPUs each do not fit on 6 GPUs"):
        sizes(tmp_path, ray__scorers=7)


def test_work_without_gpus_goes_where_none_are(cluster):
    cluster([HEAD, *CPUS])
    assert off_gpus() == {}
    cluster([HEAD, *CPUS, *GPUS, node("gone", 8, 1, alive=False)])
    assert off_gpus() == {"ray.io/node-id": "!in(gpu1,gpu2)"}
    cluster([HEAD, *GPUS])  # there is nowhere else
    assert off_gpus() == {}
    cluster([HEAD, *GPUS], groups=[(4, 2, 2)])
    assert off_gpus() == {}
    cluster([HEAD, *GPUS], groups=[(4, 2, 2), (8, 0, 4)])  # there may be
    assert off_gpus() == {"ray.io/node-id": "!in(gpu1,gpu2)"}


def test_a_pool_is_no_larger_than_its_work():
    assert no_more_than((4, 4), 3) == (3, 3)
    assert no_more_than((1, 8), 3) == (1, 3)
    assert no_more_than((4, 4), 0) == (1, 1)
