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

from pipeline.config import Config
from pipeline.errors import BadRequest

# Ray itself needs free slots for reading, shuffling and writing beside the actors: with fewer than four, shuffles wait
# seconds for workers that come and go.
_LOCAL_SLOTS_AT_LEAST = 4


@dataclass(frozen=True)
class Pools:
    """Sizes of the two actor pools; `threads` is what one CPU actor may use of its machine."""

    scorers: int
    embedders: int
    gpus_per_scorer: float
    gpus_per_embedder: float
    threads_per_scorer: int
    threads_per_embedder: int


@contextmanager
def session(address: str | None) -> Iterator[None]:
    """Join the cluster at `address` (or that of RAY_ADDRESS), or start Ray on this machine; leave it as it was found."""
    local = address is None and not os.environ.get("RAY_ADDRESS")
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
        raise BadRequest(f"ray.address: {address!r}: Ray could not be reached: {str(error).splitlines()[0]}") from error
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


def pools(config: Config) -> Pools:
    """Pool sizes: on GPUs one scorer each, else one scorer a machine with all its cores, unless the configuration says more."""
    import ray

    gpus = int(ray.cluster_resources().get("GPU", 0))
    nodes = max(1, sum(node["Alive"] for node in ray.nodes()))
    settings = config.ray
    per_scorer = (1.0 if gpus else 0.0) if settings.gpus_per_scorer == "auto" else float(settings.gpus_per_scorer)
    if per_scorer > gpus:
        raise BadRequest(
            f"ray.gpus_per_scorer: {per_scorer:g} wanted, and the cluster has {gpus} GPUs; set it to auto or 0"
        )
    if settings.scorers == "auto":
        scorers = max(1, int(gpus / per_scorer)) if per_scorer else nodes
    else:
        scorers = settings.scorers
    if per_scorer and scorers * per_scorer > gpus:
        raise BadRequest(f"ray.scorers: {scorers} scorers of {per_scorer:g} GPUs each do not fit on {gpus} GPUs")
    embedders = nodes if settings.embedders == "auto" else settings.embedders
    return Pools(
        scorers=scorers,
        embedders=embedders,
        gpus_per_scorer=per_scorer,
        gpus_per_embedder=0.0,
        threads_per_scorer=_threads(scorers, nodes),
        threads_per_embedder=_threads(embedders, nodes),
    )


def _threads(actors: int, nodes: int) -> int:
    return max(1, (os.cpu_count() or 1) // -(-actors // nodes))


def actor_pool(size: int) -> Any:
    """A pool of fixed size: it never waits for an autoscaler's guess."""
    import ray.data

    return ray.data.ActorPoolStrategy(size=size)


def scorer_dtype(config: Config, sizes: Pools) -> str:
    """The dtype that `auto` means on the machines that will score: asked of a GPU there, where scorers have one."""
    import ray

    def resolve() -> str:
        from operators.models import resolve_dtype

        return str(resolve_dtype(config.scorer.dtype, "cuda" if sizes.gpus_per_scorer else "cpu")).removeprefix(
            "torch."
        )

    if config.scorer.dtype != "auto" or not sizes.gpus_per_scorer:
        return resolve()
    return ray.get(ray.remote(num_gpus=sizes.gpus_per_scorer)(resolve).remote())
