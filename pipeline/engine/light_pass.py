"""Light passes over recorded parts: in tasks of Ray, or in this process where there is hardly anything to read.

A pass over a few small parts takes milliseconds, and some twenty times as long to be handed to a task. What one task would do
with all of them is then done here, by the same function: a selection from a small run waits for no worker. So are the shuffles
of a small corpus, as all of its rows meet here anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Dataset

from pipeline.engine.job import PARTS_TOGETHER, failed, in_packs, mapped, tables
from pipeline.storage.records import item_table, record_table, records_of

R = TypeVar("R")
# What this process does by itself: so much of what is recorded holds it up for less than a second, and takes less than 1 GiB.
_ROWS_HERE = 10_000
_BYTES_HERE = 16 << 20  # of Parquet


def light_pass(
    stage: str,
    kind: type[R],
    parts: Sequence[Any],
    function: Callable[..., Any],
    *,
    divided: Callable[[Sequence[Any]], Dataset] = in_packs,
    **kwargs: Any,
) -> Iterator[R]:
    """The records that `function` with these keyword arguments makes of recorded parts, as they arrive. `divided` says how many
    of them a task has. Raises RunFailed and DamagedInput as `job.tables` does."""
    for table in light_tables(stage, parts, function, divided=divided, **kwargs):
        yield from records_of(kind, table, "record")


def light_tables(
    stage: str,
    parts: Sequence[Any],
    function: Callable[..., Any],
    *,
    divided: Callable[[Sequence[Any]], Dataset] = in_packs,
    **kwargs: Any,
) -> Iterator[pa.Table]:
    """As `light_pass`, of a function that makes tables of something else than records."""
    if is_small(parts):
        yield from _tables_here(stage, parts, function, kwargs)
    else:
        yield from tables(stage, mapped(divided(parts), function, fn_kwargs=kwargs))


def are_small(parts: int, size: int, rows: int = 0) -> bool:
    """Whether so many parts, of so many bytes and rows in all, need no task."""
    return parts <= PARTS_TOGETHER and size <= _BYTES_HERE and rows <= _ROWS_HERE


def is_small(parts: Sequence[Any]) -> bool:
    """Whether parts, or what names them, are so few and so small that a pass over them needs no task."""
    known = [getattr(value, "part", value) for value in parts]
    if not all(hasattr(part, "rows") and hasattr(part, "bytes") for part in known):
        return False
    rows, size = (sum(int(getattr(part, name)) for part in known) for name in ("rows", "bytes"))
    return are_small(len(known), size, rows)


def pass_here(
    stage: str, kind: type[R], parts: Sequence[Any], function: Callable[..., Any], **kwargs: Any
) -> Iterator[R]:
    """The records that the function with these keyword arguments makes of all parts at once, in this process. Raises as
    `light_pass` does."""
    for table in _tables_here(stage, parts, function, kwargs):
        yield from records_of(kind, table, "record")


def _tables_here(
    stage: str, parts: Sequence[Any], function: Callable[..., Any], kwargs: dict[str, Any]
) -> list[pa.Table]:
    try:
        made = function(item_table(parts), **kwargs)
        return [made] if isinstance(made, pa.Table) else list(made)
    except Exception as error:
        raise failed(stage, error) from error


def divided(table: pa.Table, column: str, function: Callable[..., pa.Table], **kwargs: Any) -> pa.Table:
    """The records that the function makes of the rows of each number in an integer column, in order: as after a shuffle, which
    gives the function all rows of a number at once."""
    numbers = sorted(table[column].unique().to_pylist())
    made = [function(table.filter(pc.equal(table[column], number)), **kwargs) for number in numbers]
    return pa.concat_tables([record_table([]), *made])
