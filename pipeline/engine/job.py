"""One run under way, and how its stages run on Ray Data: datasets of items, batches as Arrow tables, errors as RunFailed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.data import Dataset
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, WorkerCrashedError
from ray.util.annotations import RayDeprecationWarning
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from operators.error_text import first_line
from pipeline.config import Config
from pipeline.engine.deaths import counted
from pipeline.engine.progress import Reporter
from pipeline.engine.resources import ANYWHERE, Pools, actor_pool, nodes_that_work, off_gpus
from pipeline.engine.same_code import guarded
from pipeline.errors import BadRequest, DamagedInput, RunFailed
from pipeline.storage import urls
from pipeline.storage.parts import DamagedPart
from pipeline.storage.records import BlockPart, records_of, to_json

R = TypeVar("R")
# How often an actor starts again, as Ray would do for ever. Rows that end its process are found by halving, some fifteen deaths
# each; one that cannot even start dies as often in half an hour.
STARTS_AFTER_DEATH = 300
# In one task of a pass that reads a few columns of each part: so many parts take less than starting a worker for them, and so
# do more of them while they hold no more than so many rows.
PARTS_TOGETHER = 8
_ROWS_TOGETHER = 100_000
_MOST_TOGETHER = 256
SHUFFLE_ROWS = 250_000  # of a few columns, in one block of a shuffle
SHUFFLE_BYTES = 64 << 20  # of rows in one block of a shuffle
TEXT_PER_PARQUET_BYTE = 4  # what compressed text takes in memory


@dataclass(frozen=True)
class Publishing:
    """How a run is published: under a label of the user's own, also where its selection is empty, and with the key by which the
    same request is known again without Ray (`unchanged.py`)."""

    label: str = ""
    allow_empty: bool = False
    key: str = ""


AS_USUAL = Publishing()


@dataclass(frozen=True)
class Job:
    """One run under way: its folder for parts, its name, and what every stage needs."""

    config: Config
    work: str
    run: str
    pools: Pools
    reporter: Reporter
    fresh: bool = False  # leave what earlier runs have stored aside
    publishing: Publishing = AS_USUAL

    @property
    def index(self) -> str:
        """Folder of the instruction table, its embeddings and neighbours."""
        return urls.join(self.work, "index")


def items(values: Sequence[Any], together: int = 1) -> Dataset:
    """A dataset of records, or of values that JSON knows, in the column `item`, `together` of them (or fewer) in each block.
    What follows runs on machines without GPUs, as far as there are any (`in_actors` says otherwise)."""
    _keep_off_gpus()
    return ray.data.from_items(
        [{"item": to_json(value)} for value in values], override_num_blocks=max(1, -(-len(values) // together))
    )


def _keep_off_gpus() -> None:
    ray.data.DataContext.get_current().execution_options.label_selector = off_gpus()


def packed(
    values: Sequence[R], size: Callable[[R], int], room: int, together: int = 1000, *, fewest: int = 1
) -> Dataset:
    """As `items`: in each block so many values as have `room` of size, or `fewest` that may have more, and at most
    `together`."""
    packs: list[list[R]] = []
    left = 0
    for value in values:
        full = size(value) > left and len(packs[-1]) >= fewest if packs else True
        if full or len(packs[-1]) == together:
            packs.append([])
            left = room
        packs[-1].append(value)
        left -= size(value)
    _keep_off_gpus()
    # A row for each pack: a dataset of tables would look at each of them in a task of its own before anything is asked of it.
    rows = [{"item": [to_json(value) for value in pack]} for pack in packs or [[]]]
    return mapped(ray.data.from_items(rows, override_num_blocks=len(rows)), _unpacked, counts_deaths=True)


def _unpacked(batch: pa.Table) -> pa.Table:
    return pa.table({"item": batch["item"].combine_chunks().flatten().cast(pa.string())})


def mapped(dataset: Dataset, function: Callable[..., Any], *, counts_deaths: bool = False, **options: Any) -> Dataset:
    """`map_batches` over Arrow tables, by default a whole block at a time; workers refuse other code than this process has.
    `counts_deaths` says of a function that it ends by itself what ends its process again and again."""
    sent = guarded(function if counts_deaths else counted(function))
    return dataset.map_batches(sent, batch_format="pyarrow", **{"batch_size": None, **options})


def _placed_on(gpus: float) -> dict[str, Any]:
    """Options of tasks or actors each of which has so many GPUs, where it has any."""
    return {"num_gpus": gpus, "label_selector": ANYWHERE} if gpus else {}


def in_actors(
    dataset: Dataset,
    actor: type,
    settings: dict[str, Any],
    sizes: tuple[int, int],
    gpus: float = 0.0,
    *,
    joined: bool = False,
) -> Dataset:
    """A dataset of the records that a pool of (fewest, most) actors makes of the rows of another, one row at a time; with
    `gpus`, each where it has so many. `joined` says that Ray may join them with what comes before, whose tries are counted."""
    placed = _placed_on(gpus)
    if not joined:
        placed["max_restarts"] = STARTS_AFTER_DEATH
    placed |= {"fn_constructor_kwargs": settings, "compute": actor_pool(sizes), "batch_size": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # Ray has no other way to say how often, up to 2.63
        return mapped(dataset, actor, counts_deaths=True, **placed)


class _Applied:
    """Actor: a function of batches, with what its process keeps from one to the next."""

    def __init__(self, *, function: Callable[..., pa.Table], settings: dict[str, Any]):
        self._function, self._settings = counted(function), settings

    def __call__(self, batch: pa.Table) -> pa.Table:
        return self._function(batch, **self._settings)


def mapped_on_gpus(
    dataset: Dataset, function: Callable[..., pa.Table], settings: dict[str, Any], gpus: float
) -> Dataset:
    """As `mapped`, of a function of any records, which is told `gpus`; with some, by actors that have so many each, as many as
    there is room for on those that are free now. A task with a GPU would be a process of its own, and would load everything
    anew."""
    settings = {**settings, "gpus": gpus}
    if not gpus:
        return mapped(dataset, function, fn_kwargs=settings)
    most = max(1, int(ray.available_resources().get("GPU", 0.0) / gpus))
    return in_actors(dataset, _Applied, {"function": function, "settings": settings}, (1, most), gpus)


def over_parts(parts: Sequence[Any], function: Callable[..., Any], **kwargs: Any) -> Dataset:
    """What `function` with these keyword arguments makes of recorded parts, several in a task and so many more as are small:
    where a shuffle follows. What stands alone is a `light_pass`."""
    return mapped(in_packs(parts), function, fn_kwargs=kwargs)


def in_packs(parts: Sequence[Any]) -> Dataset:
    """Recorded parts, so many together as one task passes over."""
    return packed(parts, _rows_of, _ROWS_TOGETHER, _MOST_TOGETHER, fewest=PARTS_TOGETHER)


def _rows_of(value: Any) -> int:
    """Rows of a recorded part, or of what names it; where nobody has counted them, as many as fill a task."""
    return int(getattr(getattr(value, "part", value), "rows", _ROWS_TOGETHER))


def shuffles_of(parts: Sequence[BlockPart]) -> int:
    """Into how many blocks a few columns of all rows of these parts are shuffled."""
    return max(1, -(-sum(record.part.rows for record in parts) // SHUFFLE_ROWS))


def tables(stage: str, dataset: Dataset) -> Iterator[pa.Table]:
    """Run a stage; the tables of its blocks as they arrive. Whatever goes wrong in it becomes RunFailed with the cause in one
    line."""
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except (RayError, ExecutionTimeoutError) as error:
        raise failed(stage, error) from error


def stream(stage: str, kind: type[R], dataset: Dataset) -> Iterator[R]:
    """Run a stage; its records as they arrive. Raises RunFailed as `tables` does."""
    for table in tables(stage, dataset):
        yield from records_of(kind, table, "record")


def execute(stage: str, kind: type[R], dataset: Dataset, tick: Callable[[R], None] = lambda record: None) -> list[R]:
    """Run a stage to its end and keep its records; `tick` sees each as it arrives."""
    records = []
    for record in stream(stage, kind, dataset):
        tick(record)
        records.append(record)
    return records


class OfBlock(Protocol):
    """A record that says which block it is of."""

    @property
    def block(self) -> int:
        """The number of the block."""


B = TypeVar("B", bound=OfBlock)


def by_block(stage: str, records: list[B]) -> list[B]:
    """Records in the order of their blocks. Raises RunFailed where one came in pieces: its rows would be taken for all."""
    if len({record.block for record in records}) < len(records):
        raise RunFailed(stage, "a block came in pieces, though Ray was told not to cut any")
    return sorted(records, key=lambda record: record.block)


_OUT_OF_MEMORY = (
    "Ray has ended its processes again and again, as memory was short on their machine; accepted: more memory, less other work "
    "beside it, or a higher RAY_memory_usage_threshold (the share of memory in use from which Ray ends processes)"
)
_DIED = (
    "its processes ended again and again without a word, as those do that take more memory than there is; accepted: more "
    "memory, or a look into the kernel's log for another reason"
)


def failed(stage: str, error: BaseException) -> RunFailed:
    """What a stage that failed is for the driver."""
    if isinstance(error, OutOfMemoryError):
        return RunFailed(stage, _OUT_OF_MEMORY)
    if isinstance(error, WorkerCrashedError) or (isinstance(error, ActorDiedError) and not error.actor_init_failed):
        return RunFailed(stage, _DIED)
    damaged = next((cause for cause in _chain(error) if isinstance(cause, DamagedPart)), None)
    # What it was raised from says less: it travels no further than the process that read the part.
    return RunFailed(stage, _cause(error)) if damaged is None else DamagedInput(stage, _line_of(damaged)[:1000])


def _chain(error: BaseException) -> list[BaseException]:
    """An exception, what it wraps, and so on."""
    chain = [error]
    while isinstance(deeper := getattr(chain[-1], "cause", None) or chain[-1].__cause__, BaseException):
        chain.append(deeper)
    return chain


def _cause(error: BaseException) -> str:
    """What the deepest exception says that says anything: Ray wraps, and some of its wrappers are empty."""
    words = type(error).__name__
    for exception in _chain(error):
        words = _line_of(exception) or words
    return words[:1000]


def _line_of(error: BaseException) -> str:
    """What an exception says: of Ray's, which hold a traceback, the last line, of others the first one; or nothing."""
    if not isinstance(error, RayError):
        return first_line(error) if str(error).strip() else ""
    text = str(error).partition("Failed to apply UDF transform")[0]  # what follows is Ray's advice on retries
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def everywhere(stage: str, function: Callable[..., Any], *args: Any) -> None:
    """Run a plain function on each machine that takes work. Raises BadRequest where the function does."""
    tasks = []
    for node in nodes_that_work():
        # A label would be waited for where its machine is lost meanwhile; this fails then.
        placed: dict[str, Any] = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
        tasks.append(ray.remote(num_cpus=0, **placed)(guarded(function)).remote(*args))
    _results(stage, tasks)


def once(stage: str, function: Callable[..., Any], *args: Any, gpus: float = 0.0) -> Any:
    """Run a plain function in one task of the cluster, with `gpus` where it has these: its memory and what it can reach are not
    the driver's. Raises BadRequest where the function does."""
    placed = _placed_on(gpus) or {"label_selector": off_gpus()}
    return _results(stage, [ray.remote(num_cpus=1, **placed)(guarded(function)).remote(*args)])[0]


def _results(stage: str, tasks: list[Any]) -> list[Any]:
    try:
        return ray.get(tasks)
    except RayError as error:
        for cause in _chain(error):
            if isinstance(cause, BadRequest) and not isinstance(cause, RayError):
                raise cause from None
        raise failed(stage, error) from error
