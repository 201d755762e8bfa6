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

from operators.error_text import first_line
from pipeline.config import Config
from pipeline.errors import BadRequest

# Ray itself needs free slots for reading, shuffling and writing beside the actors: with fewer than four, shuffles wait
# seconds for workers that come and go.
_LOCAL_SLOTS_AT_LEAST = 4
_NODE = "ray.io/node-id"  # a label that Ray gives to every node
_NO_PROGRESS, _NO_PROGRESS_SECONDS = "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S", 24 * 3600
_ROLE = "task-specificity/role"  # one that whoever makes a node may give it; `gpu` keeps work without GPUs away


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
        with without_native_log(), _own_sigterm():
            if local:
                # "local": without an address Ray joins whatever cluster it finds on this machine, of whomever.
                cpus = max(_LOCAL_SLOTS_AT_LEAST, os.cpu_count() or 1)
                ray.init("local", num_cpus=cpus, include_dashboard=False, **quiet)
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
def without_native_log() -> Iterator[None]:
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
    # A block that a shuffle brings together is one file and has one number: never cut it by size.
    context.target_max_block_size = None
    # Ray gives up on a stage after half an hour without a finished block: on a CPU a scorer may take longer for one, and so may
    # machines that have to join first.
    if _NO_PROGRESS not in os.environ:
        context.execution_no_progress_timeout_s = _NO_PROGRESS_SECONDS


@dataclass(frozen=True)
class _Cluster:
    """Machines that take work now: those for work without GPUs, and GPUs of all."""

    nodes: int
    plain_nodes: int
    gpus: int

    @classmethod
    def now(cls) -> _Cluster:
        taking = _taking_work()
        plain = [node for node in taking if not _gpus_of(node)]
        return cls(max(1, len(taking)), max(1, len(plain or taking)), int(sum(map(_gpus_of, _alive()))))


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
    here = is_local(settings.address)
    if per_scorer > cluster.gpus and here:
        raise BadRequest(
            f"ray.gpus_per_scorer: {per_scorer:g} wanted, and this machine has {cluster.gpus} GPUs; set it to auto or 0"
        )
    scorers = _range(settings.scorers, max(1, int(cluster.gpus / per_scorer)) if per_scorer else cluster.nodes)
    if per_scorer and scorers[0] * per_scorer > cluster.gpus and here:
        raise BadRequest(
            f"ray.scorers: {scorers[0]} scorers of {per_scorer:g} GPUs each do not fit on {cluster.gpus} GPUs"
        )
    embedders = _range(settings.embedders, cluster.plain_nodes)
    return Pools(
        scorers=scorers,
        embedders=embedders,
        gpus_per_scorer=float(per_scorer),
        scorers_a_node=-(-scorers[1] // cluster.nodes),
        embedders_a_node=-(-embedders[1] // cluster.plain_nodes),
    )


def told(sizes: Pools) -> str:
    """What scoring will run on, in words, where the cluster as it is now leaves a question."""
    gpus = _Cluster.now().gpus
    asked = sizes.scorers[0] * sizes.gpus_per_scorer
    if asked > gpus:
        return f"; scorers ask for {asked:g} GPUs, {gpus} are up: the others have to join, as an autoscaler makes them"
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
