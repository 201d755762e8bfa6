"""One run under way, and how its stages run on Ray Data: datasets of items, batches as Arrow tables, errors as RunFailed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
import ray.data
from ray.exceptions import RayError

from pipeline import storage
from pipeline.config import Config
from pipeline.errors import DamagedInput, RunFailed
from pipeline.parts import DamagedPart, Record
from pipeline.progress import Reporter
from pipeline.resources import Pools, actor_pool

# In one task of a pass that reads a few columns of each part, which takes less than starting a worker for it.
_PARTS_TOGETHER = 8


@dataclass(frozen=True)
class Job:
    """One run under way: its folder for parts, its name, and what every stage needs."""

    config: Config
    work: str
    run: str
    pools: Pools
    reporter: Reporter
    fresh: bool = False  # leave what earlier runs have stored aside

    @property
    def index(self) -> str:
        """Folder of the instruction table, its embeddings and neighbours."""
        return storage.join(self.work, "index")


def items(values: list[Any], together: int = 1) -> Any:
    """A dataset of values as JSON in the column `item`, `together` of them (or fewer) in each block."""
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return ray.data.from_items(
        [{"item": text} for text in texts], override_num_blocks=max(1, -(-len(texts) // together))
    )


def mapped(dataset: Any, function: Any, **options: Any) -> Any:
    """`map_batches` over Arrow tables, by default a whole block at a time."""
    return dataset.map_batches(function, batch_format="pyarrow", **{"batch_size": None, **options})


def in_actors(dataset: Any, actor: type, settings: dict[str, Any], size: int, gpus: float) -> Any:
    """A dataset of the records that a pool of `size` actors makes of the rows of another, one row at a time."""
    return mapped(
        dataset,
        actor,
        fn_constructor_kwargs=settings,
        compute=actor_pool(size),
        batch_size=1,
        num_gpus=gpus or None,
    )


def over_parts(parts: list[Any], function: Any, **kwargs: Any) -> Any:
    """A light pass: `function` with these keyword arguments over recorded parts, several in a task."""
    return mapped(items(parts, _PARTS_TOGETHER), function, fn_kwargs=kwargs)


def stream(stage: str, dataset: Any) -> Iterator[Record]:
    """Run a stage; its records as they arrive. Whatever goes wrong in it becomes RunFailed with the cause in one line."""
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for text in batch["record"].to_pylist():
                yield json.loads(text)
    except RayError as error:
        raise _failed(stage, error) from error


def execute(stage: str, dataset: Any, tick: Callable[[Record], None] = lambda record: None) -> list[Record]:
    """Run a stage to its end and keep its records; `tick` sees each as it arrives."""
    records = []
    for record in stream(stage, dataset):
        tick(record)
        records.append(record)
    return records


def _failed(stage: str, error: BaseException) -> RunFailed:
    """What a stage that failed is for the driver."""
    chain = [error]
    while isinstance(deeper := getattr(chain[-1], "cause", None) or chain[-1].__cause__, BaseException):
        chain.append(deeper)
    damaged = any(isinstance(one, DamagedPart) for one in chain)
    return (DamagedInput if damaged else RunFailed)(stage, _cause(error))


def _cause(error: BaseException) -> str:
    """The last line of the deepest exception that says anything: Ray wraps, and some of its wrappers are empty."""
    cause = type(error).__name__
    deeper: Any = error
    while isinstance(deeper, BaseException):
        told = str(deeper).partition("Failed to apply UDF transform")[0]  # what follows is Ray's advice on retries
        lines = [line.strip() for line in told.splitlines() if line.strip()]
        cause, deeper = lines[-1] if lines else cause, getattr(deeper, "cause", None) or deeper.__cause__
    return cause[:1000]


def once(stage: str, function: Callable, *args: Any) -> Any:
    """Run a plain function in one task of the cluster: its memory is not the driver's."""
    try:
        return ray.get(ray.remote(num_cpus=1)(function).remote(*args))
    except RayError as error:
        raise _failed(stage, error) from error
