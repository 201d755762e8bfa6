"""The values at which ranks in a filter are decided: found in all scored rows, digit by digit, as the end of a budget is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from operators.selection import filter, ranking_key, ranks
from pipeline.engine.light_pass import light_pass
from pipeline.storage.parts import read_table
from pipeline.storage.records import BlockPart, item_table, record_table, records_of

Asked = tuple[str, tuple[int, ...]]  # a column, and the first digits of the keys that are counted


@dataclass(frozen=True)
class Digits:
    """Of parts, for each column and prefix, how many keys have each next digit."""

    counts: list[dict[int, int]]


# What counts digits of all parts: the columns and prefixes are as in `Asked`.
Count = Callable[[list[BlockPart], list[tuple[str, list[int]]]], Iterable[Digits]]


def by_tasks(scored: list[BlockPart], asked: list[tuple[str, list[int]]]) -> Iterable[Digits]:
    """Count in tasks of Ray, where there is enough to count."""
    return light_pass("select", Digits, scored, digits_of_parts, asked=asked)


def in_this_process(scored: list[BlockPart], asked: list[tuple[str, list[int]]]) -> Iterable[Digits]:
    """Count part by part, without Ray."""
    for record in scored:
        yield from records_of(Digits, digits_of_parts(item_table([record]), asked=asked), "record")


def without_ranks(scored: list[BlockPart], where: str | None, count: Count = by_tasks) -> str | None:
    """A filter in which values stand in place of ranks over all of these rows; one without ranks as it is."""
    tests = ranks.tests_of(filter.parse(where)) if where else []
    if not where or not tests:
        return where
    firsts = _count(count, scored, list(dict.fromkeys((test.column, ()) for test in tests)))
    rows = {column: counts.total() for (column, _), counts in firsts.items()}
    places = {test: test.place(rows[test.column]) for test in tests}
    wanted = {(test.column, place) for test, place in places.items() if place is not None}
    values = _values(count, scored, wanted, firsts)
    decided = {test: None if place is None else values[test.column, place] for test, place in places.items()}
    return ranks.replaced(filter.parse(where), decided)


def _values(
    count: Count, scored: list[BlockPart], wanted: set[tuple[str, int]], firsts: dict[Asked, Counter[int]]
) -> dict[tuple[str, int], float]:
    """By column and place from the highest, the value that stands there."""
    counts = firsts
    states: dict[tuple[str, int], tuple[tuple[int, ...], int]] = {
        (column, place): ((), place) for column, place in wanted
    }
    for _ in range(ranking_key.DIGITS_OF_WORD):
        for (column, place), (prefix, left) in states.items():
            for digit, number in sorted(counts[column, prefix].items()):
                if left < number:
                    states[column, place] = ((*prefix, digit), left)
                    break
                left -= number
        asked = {(column, prefix) for (column, _), (prefix, _) in states.items()}
        if all(len(prefix) < ranking_key.DIGITS_OF_WORD for _, prefix in asked):
            counts = _count(count, scored, sorted(asked))
    return {which: ranking_key.lowest_score(prefix) for which, (prefix, _) in states.items()}


def _count(count: Count, scored: list[BlockPart], asked: list[Asked]) -> dict[Asked, Counter[int]]:
    """How many keys of all rows have each next digit."""
    wanted = [(column, list(prefix)) for column, prefix in asked]
    sums: dict[Asked, Counter[int]] = {which: Counter() for which in asked}
    for record in count(scored, wanted):
        for which, counts in zip(asked, record.counts, strict=True):
            sums[which].update(counts)
    return sums


def digits_of_parts(batch: pa.Table, *, asked: list[tuple[str, list[int]]]) -> pa.Table:
    """A record of Digits."""
    sums: list[Counter[int]] = [Counter() for _ in asked]
    for scored in records_of(BlockPart, batch):
        table = read_table(scored.part.path, filter.needed_columns({column for column, _ in asked}))
        values = {column: filter.numeric(table, column) for column in {column for column, _ in asked}}
        for counts, (column, prefix) in zip(sums, asked, strict=True):
            numbers = values[column]
            keys = ranking_key.order_of(numbers[~np.isnan(numbers)])[None, :]
            for place, digit in enumerate(prefix):
                keys = keys[:, ranking_key.digit_of(keys, place) == digit]
            digits, numbers_of = np.unique(ranking_key.digit_of(keys, len(prefix)), return_counts=True)
            counts.update(dict(zip(digits.tolist(), numbers_of.tolist(), strict=True)))
    return record_table([Digits([dict(counts) for counts in sums])])
