"""Ray: the session, and how many actors with how much of a machine each stage gets."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from operators.text import first_line
from pipeline.config import Config
from pipeline.errors import BadRequest

# Ray itself needs free slots for reading, shuffling and writing beside the actors: with fewer than four, shuffles wait
# seconds for workers that come and go.
_LOCAL_SLOTS_AT_LEAST = 4
_NODE = "ray.io/node-id"  # a label that Ray gives to every node


@dataclass(frozen=True)
class Pools:
    """The two actor pools, each as (fewest, most) actors: equal numbers are a fixed size. `scorers_a_node` says how many
    scorers share the cores of a machine, where they compute on these."""

    scorers: tuple[int, int]
    embedders: tuple[int, int]
    gpus_per_scorer: float
    scorers_a_node: int
    embedders_a_node: int


def is_local(address: str | None) -> bool:
    """Whether Ray is started on this machine for one command, rather than a cluster joined."""
    return address is None and not os.environ.get("RAY_ADDRESS")


@contextmanager
def session(address: str | None) -> Iterator[None]:
    """Join the cluster at `address` (or that of RAY_ADDRESS), or start Ray on this machine; leave it as it was found."""
    local = is_local(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        _configure()
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        with _without_native_log(), _own_sigterm():
            if local:
                ray.init(num_cpus=max(_LOCAL_SLOTS_AT_LEAST, os.cpu_count() or 1), include_dashboard=False, **quiet)
            else:
                ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadRequest(f"ray.address: {address!r}: Ray could not be reached: {first_line(error)}") from error
    try:
        _configure()
        yield
    finally:
        ray.shutdown()


@contextmanager
def _without_native_log() -> Iterator[None]:
    """Keep the lines that Ray's native code prints while it starts off the screen; its errors are exceptions too."""
    sys.stderr.flush()
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Give SIGTERM back to the handler that it had: Ray's native code takes it, prints its stack and ends the process."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _configure() -> None:
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors come back as exceptions
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # else the cause of a failure is only in the text of a traceback


@dataclass(frozen=True)
class _Cluster:
    """Machines that may take work: nodes with CPUs, now, and GPUs, with those that an autoscaler may add."""

    nodes: int
    gpus: int

    @classmethod
    def now(cls) -> _Cluster:
        import ray

        gpus = int(ray.cluster_resources().get("GPU", 0))
        nodes = sum(node["Resources"].get("CPU", 0) > 0 for node in _alive())
        return cls(max(1, nodes), max(gpus, _most_gpus()))


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _most_gpus() -> int:
    """How many GPUs the cluster's autoscaler may bring it to; 0 without one."""
    # What Ray's own libraries ask, for want of a public way: autoscalers publish their groups of nodes there.
    from ray._private.state import state

    return int((state.get_max_resources_from_cluster_config() or {}).get("GPU", 0))


def _may_add_nodes_without_gpus() -> bool:
    from ray._private.state import state

    groups = getattr(state.get_cluster_config(), "node_group_configs", ())
    found = [(dict(group.resources), group.max_count) for group in groups]
    return any(most and resources.get("CPU") and not resources.get("GPU") for resources, most in found)


def pools(config: Config) -> Pools:
    """Pool sizes: on GPUs one scorer each, else one scorer a machine with all its cores, unless the configuration says more.

    GPUs that an autoscaler may add count: actors that wait for one are what makes it add them.
    """
    cluster, settings = _Cluster.now(), config.ray
    per_scorer = (1.0 if cluster.gpus else 0.0) if settings.gpus_per_scorer == "auto" else settings.gpus_per_scorer
    if per_scorer > cluster.gpus:
        raise BadRequest(
            f"ray.gpus_per_scorer: {per_scorer:g} wanted, and the cluster has {cluster.gpus} GPUs; set it to auto or 0"
        )
    scorers = _range(settings.scorers, max(1, int(cluster.gpus / per_scorer)) if per_scorer else cluster.nodes)
    if per_scorer and scorers[0] * per_scorer > cluster.gpus:
        raise BadRequest(
            f"ray.scorers: {scorers[0]} scorers of {per_scorer:g} GPUs each do not fit on {cluster.gpus} GPUs"
        )
    embedders = _range(settings.embedders, cluster.nodes)
    return Pools(
        scorers=scorers,
        embedders=embedders,
        gpus_per_scorer=float(per_scorer),
        scorers_a_node=-(-scorers[1] // cluster.nodes),
        embedders_a_node=-(-embedders[1] // cluster.nodes),
    )


def _range(asked: int | list[int] | str, otherwise: int) -> tuple[int, int]:
    if isinstance(asked, list):
        return asked[0], asked[1]
    size = otherwise if isinstance(asked, str) else asked
    return size, size


def no_more_than(sizes: tuple[int, int], work: int) -> tuple[int, int]:
    """The sizes of a pool that has `work` things to do: no more actors than these."""
    return max(1, min(sizes[0], work)), max(1, min(sizes[1], work))


def threads_here(actors: int) -> int:
    """Threads for one of `actors` that share this worker's machine: by its cores, or fewer where Ray was given fewer."""
    import ray

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = ray.get_runtime_context().get_node_id()
    given = next((node["Resources"].get("CPU", 0) for node in _alive() if node["NodeID"] == here), 0)
    return max(1, min(cores, int(given) or cores) // actors)


def actor_pool(sizes: tuple[int, int]) -> Any:
    """A pool of fixed size, which never waits for an autoscaler's guess, or one that Ray Data scales within a range."""
    import ray.data

    fewest, most = sizes
    if fewest == most:
        return ray.data.ActorPoolStrategy(size=most)
    return ray.data.ActorPoolStrategy(min_size=fewest, max_size=most)


# A label that every node has, with a value that none has: a selector that any node satisfies.
ANYWHERE = {_NODE: "!none"}


def off_gpus() -> dict[str, str]:
    """A label selector for work that needs no GPU: nodes without any, as long as the cluster has (or may add) some.

    By what nodes are, not by a label that somebody has to set. Nodes are named that it must not use, so those that join later
    may take work.
    """
    nodes = [node for node in _alive() if node["Resources"].get("CPU", 0) > 0]
    with_gpus = [node["NodeID"] for node in nodes if node["Resources"].get("GPU", 0) > 0]
    if not with_gpus or (len(with_gpus) == len(nodes) and not _may_add_nodes_without_gpus()):
        return {}
    return {_NODE: f"!in({','.join(sorted(with_gpus))})"}


def scorer_dtype(config: Config, sizes: Pools) -> str:
    """The dtype that `auto` means on the machines that will score: asked of a GPU there, where scorers have one, and one that
    is not up yet has to come up for that."""
    import ray

    def resolve() -> str:
        from operators.models import resolve_dtype

        return str(resolve_dtype("auto", "cuda")).removeprefix("torch.")

    if config.scorer.dtype != "auto":
        return config.scorer.dtype
    if not sizes.gpus_per_scorer:
        return "float32"
    return ray.get(ray.remote(num_gpus=sizes.gpus_per_scorer)(resolve).remote())
