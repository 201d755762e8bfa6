"""How many actors with how much of a machine each stage gets, and where its work may go."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from pipeline.config import Config, Ray
from pipeline.engine.session import is_local
from pipeline.errors import BadRequest

_NODE = "ray.io/node-id"  # a label that Ray gives to every node
_ROLE = "task-specificity/role"  # one that whoever makes a node may give it; `gpu` keeps work without GPUs away
_SEARCHES_A_GPU = 4  # which share it: half of a search is work of the CPU


@dataclass(frozen=True)
class Pools:
    """The two actor pools, each as (fewest, most) actors: equal numbers are a fixed size. `scorers_a_node` says how many
    scorers share the cores of a machine, where they compute on these. `gpus_per_search` is what a task that compares many
    embeddings has of a GPU, 0 where none is up."""

    scorers: tuple[int, int]
    embedders: tuple[int, int]
    gpus_per_scorer: float
    gpus_per_search: float
    scorers_a_node: int
    embedders_a_node: int


@dataclass(frozen=True)
class _Cluster:
    """Machines that take work now: those for work without GPUs, and GPUs of all."""

    nodes: int
    plain_nodes: int
    gpus_by_node: list[float]

    @classmethod
    def now(cls) -> _Cluster:
        taking = _taking_work()
        plain = [node for node in taking if not _gpus_of(node)]
        return cls(max(1, len(taking)), max(1, len(plain or taking)), [_gpus_of(node) for node in _alive()])

    @property
    def gpus(self) -> int:
        return int(sum(self.gpus_by_node))

    def scorers(self, gpus_each: float) -> int:
        """Scorers for which there is room: the GPUs of each are of one machine."""
        if gpus_each < 1:
            return self.gpus * int(1 / gpus_each)
        return sum(int(gpus // gpus_each) for gpus in self.gpus_by_node)


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _taking_work() -> list[dict[str, Any]]:
    return [node for node in _alive() if node["Resources"].get("CPU", 0) > 0]


def nodes_that_work() -> list[str]:
    """Ids of the machines that take work."""
    return [node["NodeID"] for node in _taking_work()]


def _gpus_of(node: dict[str, Any]) -> float:
    return float(node["Resources"].get("GPU", 0))


def pools(config: Config) -> Pools:
    """Pool sizes: on GPUs one scorer each, else one scorer a machine with all its cores, unless the configuration says more.

    What is asked for in numbers may be more than a cluster has now: scorers that wait for a GPU are what makes an autoscaler
    add it, and no cluster says what its autoscaler may add. On this machine alone nothing will come: raises BadRequest.
    """
    cluster, settings = _Cluster.now(), config.ray
    per_scorer = (1.0 if cluster.gpus else 0.0) if settings.gpus_per_scorer == "auto" else settings.gpus_per_scorer
    if config.scorer.engine == "server":  # which has GPUs, if any has: one process asks it
        if settings.gpus_per_scorer not in ("auto", 0):
            raise BadRequest(
                f"ray.gpus_per_scorer: found {settings.gpus_per_scorer:g} with scorer.engine: server, which needs none here; "
                "accepted: auto or 0"
            )
        per_scorer, otherwise = 0.0, 1
    else:
        require_gpus(settings, cluster.gpus)
        otherwise = max(1, cluster.scorers(per_scorer)) if per_scorer else cluster.nodes
    scorers = _range(settings.scorers, otherwise)
    embedders = _range(settings.embedders, cluster.plain_nodes)
    return Pools(
        scorers=scorers,
        embedders=embedders,
        gpus_per_scorer=float(per_scorer),
        gpus_per_search=min(float(per_scorer), 1 / _SEARCHES_A_GPU) if cluster.gpus else 0.0,
        scorers_a_node=-(-scorers[1] // cluster.nodes),
        embedders_a_node=-(-embedders[1] // cluster.plain_nodes),
    )


def require_gpus(settings: Ray, gpus: int) -> None:
    """Raise BadRequest where more is asked for than the GPUs of this machine, and no other will come."""
    per_scorer = (1.0 if gpus else 0.0) if settings.gpus_per_scorer == "auto" else settings.gpus_per_scorer
    if not per_scorer or not is_local(settings.address):
        return
    if per_scorer > gpus:
        raise BadRequest(
            f"ray.gpus_per_scorer: {per_scorer:g} wanted, and this machine has {gpus} GPUs; set it to auto or 0"
        )
    fewest, _ = _range(settings.scorers, max(1, int(gpus / per_scorer)))
    if fewest * per_scorer > gpus:
        raise BadRequest(
            f"ray.scorers: {fewest} scorers of {per_scorer:g} GPUs each do not fit on {gpus} GPUs of this machine; set "
            f"it to auto, or to at most {int(gpus / per_scorer)}"
        )


def gpus_awaited(sizes: Pools) -> str:
    """What scoring will run on, in words, where the cluster as it is now leaves a question."""
    cluster, each = _Cluster.now(), sizes.gpus_per_scorer
    asked = sizes.scorers[0] * each
    if asked > cluster.gpus:
        return f"; scorers ask for {asked:g} GPUs, {cluster.gpus} are up: the others have to join, as an autoscaler makes them"
    if each and sizes.scorers[0] > (room := cluster.scorers(each)):
        return (
            f"; of {sizes.scorers[0]} scorers with {each:g} GPUs of one machine each {room} have room on the machines that "
            "are up: others have to join, as an autoscaler makes them"
        )
    return ""


def _range(asked: int | list[int] | str, otherwise: int) -> tuple[int, int]:
    if isinstance(asked, list):
        return asked[0], asked[1]
    size = otherwise if isinstance(asked, str) else asked
    return size, size


def no_more_than(sizes: tuple[int, int], work: int) -> tuple[int, int]:
    """The sizes of a pool that has `work` things to do: no more actors than these."""
    return max(1, min(sizes[0], work)), max(1, min(sizes[1], work))


def threads_here(actors: int, gpus: float = 0.0) -> int:
    """Threads for one of `actors` that share this worker's machine: by its cores, or fewer where Ray was given fewer. Actors
    that hold `gpus` each are as many as this machine's GPUs are enough for."""
    import ray

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    node_id = ray.get_runtime_context().get_node_id()
    here: dict[str, Any] = next((node for node in _alive() if node["NodeID"] == node_id), {"Resources": {}})
    given = here["Resources"].get("CPU", 0)
    if gpus:
        actors = int(_gpus_of(here) / gpus)
    return max(1, min(cores, int(given) or cores) // max(1, actors))


def actor_pool(sizes: tuple[int, int]) -> Any:
    """A pool of fixed size, which never waits for an autoscaler's guess, or one that Ray Data scales within a range."""
    import ray.data

    fewest, most = sizes
    if fewest == most:
        return ray.data.ActorPoolStrategy(size=most)
    return ray.data.ActorPoolStrategy(min_size=fewest, max_size=most)


# What any node satisfies. Ray Data joins the selectors of a stage and of all stages by their labels, so each that `off_gpus`
# may name needs another value here.
ANYWHERE = {_NODE: "!none", _ROLE: "!none"}


def off_gpus() -> dict[str, str]:
    """A label selector for work that needs no GPU: other nodes than those with GPUs, unless all that take work have some.

    Nodes that are up are named; those that join later, which this selector does not know yet, are told by a label of theirs
    (`cluster/` gives it to them).
    """
    taking = _taking_work()
    with_gpus = sorted(node["NodeID"] for node in taking if _gpus_of(node))
    if taking and len(with_gpus) == len(taking):
        return {}
    return {_ROLE: "!gpu", **({_NODE: f"!in({','.join(with_gpus)})"} if with_gpus else {})}
