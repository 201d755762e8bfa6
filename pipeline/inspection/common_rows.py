"""The rows that two runs have in common, joined by id, and their scores beside each other: arrays of numbers, a column at a
time, never rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from operators.row_ids import hex_ids, places_of, sort_ids
from operators.schema import SELECTED
from operators.selection.ranking_key import order_of, words_of
from pipeline.errors import DamagedInput
from pipeline.runs import open_run
from pipeline.runs.manifest import Manifest
from pipeline.storage.parts import DamagedPart, read_columns
from pipeline.storage.records import BlockPart


class Rows:
    """The rows of one kind of a published run, in the order of its parts; what is read raises DamagedInput."""

    def __init__(self, run: str, manifest: Manifest, kind: str):
        self._parts = [record for record in open_run.parts_of(run, manifest.files.get(kind, [])) if record.part.rows]
        self._starts = np.cumsum([0, *(record.part.rows for record in self._parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @cached_property
    def ids(self) -> np.ndarray:
        """Uint64 [N, 2]."""
        words = [words_of(self._read(record, "id")["id"]).T for record in self._parts]
        return np.ascontiguousarray(np.concatenate([np.zeros((0, 2), dtype=np.uint64), *words]))

    def numbers(self, name: str) -> np.ndarray:
        """Float64 [N] of a numeric column; NaN where it is null or no finite number."""
        columns = [pc.cast(self._read(record, name)[name], pa.float64()) for record in self._parts]
        values = [np.array(column.to_numpy(zero_copy_only=False), dtype=np.float64) for column in columns]
        joined = np.concatenate([np.zeros(0), *values])
        joined[~np.isfinite(joined)] = np.nan
        return joined

    def tokens(self) -> np.ndarray:
        """Int64 [N]: tokens of prompt and output of each row."""
        return np.asarray(self.numbers("n_prompt_tokens") + self.numbers("n_target_tokens")).astype(np.int64)

    def texts(self, places: list[int], names: tuple[str, ...]) -> list[dict[str, str]]:
        """Text columns of a few rows: a part that holds one of them is read, one part at a time."""
        found: dict[int, dict[str, str]] = {}
        for number, record in enumerate(self._parts):
            start, stop = self._starts[number : number + 2].tolist()
            here = [place for place in places if start <= place < stop]
            if here:
                table = self._read(record, *names).take(pa.array([place - start for place in here]))
                found.update(zip(here, table.to_pylist(), strict=True))
        return [found[place] for place in places]

    def _read(self, record: BlockPart, *names: str) -> pa.Table:
        try:
            return read_columns(record.part.path, pa.schema([SELECTED.field(name) for name in names]))
        except DamagedPart as damaged:
            raise DamagedInput("compare", str(damaged)) from damaged


@dataclass(frozen=True)
class Common:
    """Where rows that both sides have stand on each: int64 [C] places."""

    first: np.ndarray
    second: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def common_rows(first: np.ndarray, second: np.ndarray) -> Common:
    """The rows of ids uint64 [N, 2] and [M, 2], each without an id twice, that are in both."""
    order = sort_ids(second)
    places = places_of(first, second[order])
    both = np.flatnonzero(places >= 0)
    return Common(both, order[places[both]])


def places_in_ranking(scores: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Int64 [N]: the place of each row, highest score first and ties by id, as a selection ranks them; scores without NaN."""
    order = sort_ids(ids, before=(order_of(scores),))
    places = np.empty(len(scores), dtype=np.int64)
    places[order] = np.arange(len(scores))
    return places


def names_of(ids: np.ndarray) -> list[str]:
    """Ids uint64 [N, 2] as text."""
    return hex_ids(ids)
