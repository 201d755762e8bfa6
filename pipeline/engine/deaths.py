"""How often a task has ended its process. Ray tries it again for ever, and one that takes too much memory ends every process.

A task keeps its id when it is tried again. Before it works it leaves a mark in a folder of its machine, and removes that after,
so the marks that are left count the deaths there. To tell Ray how often would keep it from joining stages into one task.
"""

from __future__ import annotations

import functools
import inspect
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from pipeline.engine.attempts import GivenUp

AT_MOST = 9  # on one machine: others may have more memory, or the fault


def counted(function: Any) -> Any:
    """A function of tasks that raises GivenUp once its task has ended its process too often; its limit is the driver's."""
    limit = AT_MOST

    @functools.wraps(function)
    def tried(*arguments: Any, **settings: Any) -> Any:
        with _trying(function.__name__, limit):
            return function(*arguments, **settings)

    @functools.wraps(function)
    def tried_piece_by_piece(*arguments: Any, **settings: Any) -> Iterator[Any]:
        with _trying(function.__name__, limit):
            yield from function(*arguments, **settings)

    return tried_piece_by_piece if inspect.isgeneratorfunction(function) else tried


@contextmanager
def _trying(name: str, limit: int) -> Iterator[None]:
    context = ray.get_runtime_context()
    task, folder = context.get_task_id(), _folder(context.get_node_id())
    folder.mkdir(mode=0o700, exist_ok=True)
    deaths = len(list(folder.glob(f"{task}.*")))
    if deaths >= limit:
        raise GivenUp(
            f"its task {name} ended its process {deaths} times; is there too little memory? accepted: more "
            "memory, or less other work on this machine"
        )
    mark = folder / f"{task}.{uuid.uuid4().hex}"
    mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def forget() -> None:
    """Remove the marks of this machine, where Ray was started for one command."""
    shutil.rmtree(_folder(ray.get_runtime_context().get_node_id()), ignore_errors=True)


def _folder(node: str) -> Path:
    return Path(tempfile.gettempdir(), f"tss-tries-{node}")
