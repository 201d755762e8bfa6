"""Actors of small runs as tasks of workers that are up already: a process that has imported torch is most of what they cost.

The same classes do the same work; what only a process of its own can show is tested with the fixture `actors`.
"""

from __future__ import annotations

import json
from typing import Any

from pipeline.engine.job import mapped

_instances: dict[str, Any] = {}  # of this worker process


def in_tasks(
    dataset: Any, actor: type, settings: dict[str, Any], sizes: tuple[int, int], gpus: float = 0.0, **more: bool
) -> Any:
    """As `pipeline.engine.job.in_actors`."""
    return mapped(dataset, through, fn_kwargs={"actor": actor, "settings": settings}, batch_size=1, counts_deaths=True)


def through(batch: Any, *, actor: type, settings: dict[str, Any]) -> Any:
    """What an actor makes of a batch; the newest of each kind stays."""
    key = json.dumps([actor.__name__, settings], sort_keys=True, default=repr)
    if key not in _instances:
        for other in [one for one in _instances if json.loads(one)[0] == actor.__name__]:
            del _instances[other]
        _instances[key] = actor(**settings)
    return _instances[key](batch)
