"""Passes over little are made in this process, as a task would make them; passes over more are made in tasks."""

import os
from dataclasses import replace

import pytest

from pipeline.engine import light_pass as light_passes
from pipeline.engine.job import PARTS_TOGETHER
from pipeline.engine.light_pass import is_small, light_pass, light_tables
from pipeline.errors import DamagedInput, RunFailed
from pipeline.storage.parts import DamagedPart
from pipeline.storage.records import BlockPart, Part, record_table, records_of

SMALL = BlockPart(7, Part("p.parquet", 100, 1000, ""))


def processes(batch, *, plus):
    """For each part the number of its block, and the process."""
    return record_table([(part.block + plus, os.getpid()) for part in records_of(BlockPart, batch)])


def piece_by_piece(batch):
    """As functions of tasks may yield their tables."""
    for part in records_of(BlockPart, batch):
        yield record_table([part.block])


def test_what_is_small_is_made_here_and_what_is_not_in_tasks(ray_session, monkeypatch):
    parts = [replace(SMALL, block=number) for number in range(3)]
    here = list(light_pass("weigh", list, parts, processes, plus=1))
    assert here == [[number, os.getpid()] for number in (1, 2, 3)]
    monkeypatch.setattr(light_passes, "_ROWS_HERE", 299)
    there = list(light_pass("weigh", list, parts, processes, plus=1))
    assert [number for number, _ in there] == [1, 2, 3] and os.getpid() not in {process for _, process in there}


@pytest.mark.parametrize(
    ("parts", "small"),
    [
        ([], True),
        ([SMALL] * PARTS_TOGETHER, True),
        ([SMALL] * (PARTS_TOGETHER + 1), False),
        ([SMALL.part, replace(SMALL.part, rows=9_900)], True),
        ([SMALL.part, replace(SMALL.part, rows=9_901)], False),
        ([replace(SMALL.part, bytes=16 << 20)], True),
        ([SMALL.part, replace(SMALL.part, bytes=16 << 20)], False),
        (["a path, of whatever size"], False),
    ],
)
def test_few_parts_with_few_rows_and_bytes_are_small(parts, small):
    assert is_small(parts) is small


def test_tables_that_are_yielded_one_by_one_all_arrive():
    assert [table.num_rows for table in light_tables("weigh", [SMALL] * 3, piece_by_piece)] == [1, 1, 1]
    assert list(light_pass("weigh", int, [SMALL] * 3, piece_by_piece)) == [7, 7, 7]


@pytest.mark.parametrize(("error", "kind"), [(DamagedPart, DamagedInput), (ValueError, RunFailed)])
def test_what_fails_here_is_told_as_what_fails_in_a_task(error, kind):
    def fail(batch):
        yield record_table([1])
        raise error("p.parquet: is gone\nadvice of a library")

    with pytest.raises(RunFailed, match=r"^stage weigh: p\.parquet: is gone$") as failure:
        list(light_pass("weigh", int, [SMALL], fail))
    assert type(failure.value) is kind and isinstance(failure.value.__cause__, error)
