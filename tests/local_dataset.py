"""Stages of the selection in this process: what they ask of Ray Data, over plain lists of tables, for many small corpora."""

from __future__ import annotations

import inspect

import numpy as np
import pyarrow as pa

from pipeline.selection import choose, conversations, overlap, search
from pipeline.storage.records import records_of, to_json


class LocalDataset:
    """Blocks as tables, each of which a function is given whole."""

    def __init__(self, blocks):
        self.blocks = blocks

    def map(self, function, **kwargs):
        results = []
        for block in self.blocks:
            result = function(block, **kwargs)
            results.append(pa.concat_tables(result) if inspect.isgenerator(result) else result)
        return LocalDataset(results)

    def repartition(self, number, keys=None):
        """As a shuffle does it: rows of a key meet in a block, in any order."""
        rows = pa.concat_tables(self.blocks)
        if keys is None:
            return LocalDataset([rows])
        number = max(number, 3)
        rows = rows.take(np.random.default_rng(len(rows)).permutation(len(rows)))
        places = np.array([hash(value) % number for value in rows[keys[0]].to_pylist()], dtype=np.int64)
        return LocalDataset([rows.filter(pa.array(places == place)) for place in range(number)])

    def sort(self, column, boundaries):
        rows = pa.concat_tables(self.blocks)
        places = np.searchsorted(boundaries, rows[column].to_numpy(), side="right")
        return LocalDataset([rows.filter(pa.array(places == place)) for place in range(len(boundaries) + 1)])


def _over_parts(parts, function, **kwargs):
    items = [pa.table({"item": [to_json(part) for part in parts[at : at + 2]]}) for at in range(0, len(parts), 2)]
    return LocalDataset(items).map(function, **kwargs)


def _stream(stage, kind, dataset):
    for block in dataset.blocks:
        yield from records_of(kind, block, "record")


def in_this_process(patch):
    """Let the stages of the selection run without Ray; `patch` is pytest's MonkeyPatch."""
    doubles = {
        "over_parts": _over_parts,
        "mapped": lambda dataset, function, fn_kwargs: dataset.map(function, **fn_kwargs),
        "stream": _stream,
        "tables": lambda stage, dataset: iter(dataset.blocks),
        "execute": lambda stage, kind, dataset: list(_stream(stage, kind, dataset)),
        "light_tables": lambda stage, parts, function, **kwargs: iter(_over_parts(parts, function, **kwargs).blocks),
        "light_pass": lambda stage, kind, *given, **kwargs: _stream(stage, kind, _over_parts(*given, **kwargs)),
        "is_small": lambda parts: False,
    }
    for module in (choose, conversations, overlap, search):
        for name in doubles.keys() & vars(module).keys():
            patch.setattr(module, name, doubles[name])
