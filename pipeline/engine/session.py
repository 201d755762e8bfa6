"""Ray itself: started on this machine for one command, or a cluster that is joined."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from operators.error_text import first_line, one_line
from pipeline.errors import BadRequest, RunFailed
from pipeline.interruption import Interruption, keep_handlers, restore_handlers

# Ray itself needs free slots for reading, shuffling and writing beside the actors: with fewer than four, shuffles wait
# seconds for workers that come and go.
_LOCAL_SLOTS_AT_LEAST = 4
_NO_PROGRESS, _NO_PROGRESS_SECONDS = "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S", 24 * 3600
# How often Ray tries a task again that its memory monitor has ended: for ever, if nobody says less. Pauses double from 1 s.
_MEMORY_TRIES, _MEMORY_TRIES_AT_MOST = "RAY_task_oom_retries", 8
_ADDRESS = "RAY_ADDRESS"
_CONNECT_SECONDS = 10.0
# What Ray maps: its share of memory for objects, and what its processes map beside that (8 GiB were needed, 5 did not do).
_OBJECT_STORE_SHARE, _ADDRESS_SPACE_BYTES = 0.3, 8 << 30
_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # the longest path that a Unix socket can have
_BELOW_FOLDER_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")  # of Ray's longest


def is_local(address: str | None) -> bool:
    """Whether Ray is started on this machine for one command, rather than a cluster joined."""
    return (address or os.environ.get(_ADDRESS) or "local") == "local"


@contextmanager
def session(address: str | None) -> Iterator[None]:
    """Join the cluster at `address` (or that of RAY_ADDRESS), or start Ray on this machine; leave it as it was found. Raises
    BadRequest, within a minute where there is no cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(_MEMORY_TRIES, str(_MEMORY_TRIES_AT_MOST))
    import ray

    if ray.is_initialized():
        _configure()
        yield
        return
    with _started() if is_local(address) else _joined(address):
        _configure()
        yield


@contextmanager
def _started() -> Iterator[None]:
    """Ray on this machine, for this command alone."""
    from pipeline.engine import deaths

    _require_address_space()
    with _session_folder() as folders:
        cpus = max(_LOCAL_SLOTS_AT_LEAST, os.cpu_count() or 1)
        # "local": without an address Ray joins whatever cluster it finds on this machine, of whomever.
        with _initialised(
            "Ray could not be started on this machine",
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            **folders,
        ):
            try:
                yield
            finally:
                deaths.forget()


def _require_address_space() -> None:
    """Raise BadRequest where a process may have less address space than Ray maps: it would end without a word."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    needed = int(_OBJECT_STORE_SHARE * psutil.virtual_memory().total) + _ADDRESS_SPACE_BYTES
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise BadRequest(
            f"Ray cannot start: `ulimit -v` allows {limit >> 20:,} MiB of address space to a process, and Ray maps about "
            f"{needed >> 20:,} MiB on this machine, most of it for shared objects; accepted: as much, or no limit "
            "(a control group limits memory itself, as in containers and under Slurm)"
        )


@contextmanager
def _session_folder() -> Iterator[dict[str, str]]:
    """Settings for the folder of Ray's session: a short one of this command, where the usual one is too long for the sockets in
    it. Schedulers set such a TMPDIR; what does not fit into memory is kept there all the same, as it may be of any size."""
    usual = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", "ray")
    if len(os.fsencode(usual)) + _BELOW_FOLDER_BYTES <= _SOCKET_BYTES:
        yield {}
        return
    try:
        short = tempfile.mkdtemp(prefix="tss-ray-", dir="/tmp")
    except OSError as error:
        raise BadRequest(
            f"TMPDIR or RAY_TMPDIR: {str(usual.parent)!r} is too long for Ray's sockets, and /tmp takes no folder ({error}); "
            "set RAY_TMPDIR to a folder with a short path"
        ) from error
    try:
        yield {"_temp_dir": short, "object_spilling_directory": str(usual)}
    finally:
        shutil.rmtree(short, ignore_errors=True)


@contextmanager
def _joined(address: str | None) -> Iterator[None]:
    """The cluster at an address, or at that of RAY_ADDRESS."""
    from_environment = address in (None, "auto") and os.environ.get(_ADDRESS)
    key, value = (_ADDRESS, from_environment) if from_environment else ("ray.address", address)
    _require_listening(key, str(value))
    # Ray would look for a cluster twenty times, for half a minute each; it takes these seconds as the number of times.
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
    with _initialised(f"{key}: {value!r}: Ray could not be reached", address=address):
        yield


def _require_listening(key: str, address: str) -> None:
    """Raise BadRequest where nothing takes connections at HOST:PORT or ray://HOST:PORT; others are Ray's to resolve."""
    accepted = f"accepted: HOST:PORT of the head of a cluster that runs, or no {key}, to start Ray on this machine"
    scheme, _, place = address.rpartition("://")
    if scheme in ("http", "https"):
        raise BadRequest(f"{key}: {address!r} is the address of a dashboard, as `tss submit` takes it; {accepted}")
    host, _, port = place.rpartition(":")
    host = host.strip("[]")
    if scheme in ("", "ray") and host and port.isdecimal():
        from ray.util import get_node_ip_address

        # In place of the loopback, Ray takes the address of this machine.
        hosts = [host, get_node_ip_address()] if host in ("127.0.0.1", "localhost", "::1") else [host]
        refusals = [_refusal(name, int(port)) for name in hosts]
        if all(refusals):
            raise BadRequest(f"{key}: no cluster answers at {address!r} ({refusals[0]}); {accepted}")


def _refusal(host: str, port: int) -> str:
    """Why no connection can be made; empty where one can."""
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError, OverflowError) as error:  # the last two: what is no name, or no port
        return first_line(error)
    return ""


@contextmanager
def _initialised(otherwise: str, **settings: Any) -> Iterator[None]:
    """`ray.init` until the context ends; raises BadRequest that begins with `otherwise`."""
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        with without_native_log(), _handlers_kept():
            ray.init(logging_level=logging.ERROR, log_to_driver=False, **settings)
    except SystemExit as exit:  # how Ray's own handler of SIGTERM ends a process
        Interruption.signals += 1
        raise KeyboardInterrupt from exit
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise BadRequest(f"{otherwise}: {one_line(error)}") from error
    except Exception as error:  # Ray raises plain ones where its processes do not come up
        raise RunFailed(
            "start",
            f"{otherwise}: {one_line(error)}; is memory short, or the folder of RAY_TMPDIR (default: /tmp) full?",
        ) from error
    try:
        Interruption.require_going()  # a signal that came within a callback of Ray, which swallows it
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
def _handlers_kept() -> Iterator[None]:
    """Let signals have the handlers that they had: Ray would take SIGTERM while it starts, and nobody would count it."""
    from ray._private import utils

    handlers = keep_handlers()
    take = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = take
        if threading.current_thread() is threading.main_thread():
            restore_handlers(handlers)


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
