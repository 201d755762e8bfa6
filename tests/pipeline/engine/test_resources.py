"""How many actors a cluster gets, and where work may go."""

import pytest
import ray
from small_runs import settings

from pipeline.engine import resources
from pipeline.engine.resources import no_more_than, off_gpus, pools
from pipeline.errors import BadRequest


def node(name, cpus=0.0, gpus=0.0, alive=True):
    resources = {key: value for key, value in {"CPU": cpus, "GPU": gpus}.items() if value}
    return {"NodeID": name, "Alive": alive, "Resources": resources}


HEAD = node("head")
CPUS = [node("cpu1", 8), node("cpu2", 8)]
GPUS = [node("gpu2", 4, 2), node("gpu1", 4, 2)]


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of some nodes that is joined, or Ray on this machine alone."""

    def of(nodes, *, joined=True):
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        monkeypatch.setattr(resources, "is_local", lambda address: not joined)

    return of


def sizes(tmp_path, **more):
    return pools(settings(tmp_path / "out", [tmp_path / "rows.jsonl"], tmp_path, **more))


def test_without_gpus_each_machine_that_takes_work_has_one_scorer(cluster, tmp_path):
    cluster([HEAD, *CPUS, node("gone", 8, alive=False)])
    planned = sizes(tmp_path)
    assert planned.scorers == planned.embedders == (2, 2)
    assert planned.gpus_per_scorer == 0 and planned.scorers_a_node == 1
    assert sizes(tmp_path, ray__scorers=5).scorers_a_node == 3


def test_each_gpu_has_one_scorer_or_as_many_as_fit(cluster, tmp_path):
    cluster([HEAD, *CPUS, *GPUS])
    assert sizes(tmp_path).scorers == (4, 4)
    assert sizes(tmp_path, ray__gpus_per_scorer=0.25).scorers == (16, 16)
    assert sizes(tmp_path, ray__gpus_per_scorer=2).scorers == (2, 2)
    assert sizes(tmp_path, ray__gpus_per_scorer=0).scorers == (4, 4)  # one for each machine
    assert sizes(tmp_path, ray__scorers=[1, 9]).scorers == (1, 9)  # more may join


def test_a_search_shares_a_gpu_that_is_up(cluster, tmp_path):
    cluster([HEAD, *CPUS])
    assert sizes(tmp_path).gpus_per_search == sizes(tmp_path, ray__gpus_per_scorer=1).gpus_per_search == 0
    cluster([HEAD, *CPUS, *GPUS])
    for asked, share in (("auto", 0.25), (2, 0.25), (0.1, 0.1), (0, 0)):
        assert sizes(tmp_path, ray__gpus_per_scorer=asked).gpus_per_search == share


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ray__scorers": 5}, "ray.scorers: 5 scorers of 1 GPUs each do not fit on 4 GPUs"),
        ({"ray__scorers": [5, 6]}, "ray.scorers: 5 scorers of 1 GPUs each do not fit on 4 GPUs"),
        ({"ray__gpus_per_scorer": 8}, "ray.gpus_per_scorer: 8 wanted, and this machine has 4 GPUs"),
    ],
)
def test_what_can_never_start_on_one_machine_is_refused(cluster, tmp_path, more, words):
    cluster([node("here", 16, 4)], joined=False)
    with pytest.raises(BadRequest, match=words):
        sizes(tmp_path, **more)


def test_on_a_cluster_scorers_may_wait_for_gpus_that_join(cluster, tmp_path):
    cluster([HEAD, CPUS[0]])
    planned = sizes(tmp_path, ray__gpus_per_scorer=0.5, ray__scorers=6)
    assert planned.scorers == (6, 6) and planned.gpus_per_scorer == 0.5
    assert "scorers ask for 3 GPUs, 0 are up" in resources.gpus_awaited(planned)
    cluster([HEAD, *CPUS, *GPUS])
    assert resources.gpus_awaited(planned) == ""


def test_several_gpus_of_a_scorer_are_of_one_machine(cluster, tmp_path):
    cluster([HEAD, *(node(f"gpu{number}", 4, 3) for number in range(2))])
    assert sizes(tmp_path, ray__gpus_per_scorer=2).scorers == (2, 2)
    cluster([HEAD, *(node(f"gpu{number}", 4, 1) for number in range(4))])
    planned = sizes(tmp_path, ray__gpus_per_scorer=2)
    assert planned.scorers == (1, 1)
    assert "1 scorers with 2 GPUs of one machine each 0 have room" in resources.gpus_awaited(planned)


def test_embedders_share_the_machines_that_they_may_use(cluster, tmp_path):
    cluster([HEAD, CPUS[0], *GPUS])
    assert sizes(tmp_path).embedders == (1, 1)
    planned = sizes(tmp_path, ray__embedders=3)
    assert planned.embedders_a_node == 3
    cluster([HEAD, *GPUS])
    assert sizes(tmp_path).embedders == (2, 2)


def test_work_without_gpus_goes_where_none_are(cluster):
    later = {"task-specificity/role": "!gpu"}  # nodes that join
    cluster([HEAD, *CPUS])
    assert off_gpus() == later
    cluster([HEAD, *CPUS, *GPUS, node("gone", 8, 1, alive=False)])
    assert off_gpus() == {"ray.io/node-id": "!in(gpu1,gpu2)", **later}
    cluster([HEAD, *GPUS])  # there is nowhere else
    assert off_gpus() == {}
    cluster([HEAD])  # nothing is up: whatever joins for this work is to have none
    assert off_gpus() == later


def test_a_pool_is_no_larger_than_its_work():
    assert no_more_than((4, 4), 3) == (3, 3)
    assert no_more_than((1, 8), 3) == (1, 3)
    assert no_more_than((4, 4), 0) == (1, 1)
