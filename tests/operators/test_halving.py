"""Whatever items fail, alone or together, every other item is worked on, in order and not more often than halving needs."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from operators.halving import halve

ITEMS = st.lists(st.integers(), unique=True, max_size=40)


class Broken(RuntimeError):
    pass


def doubling(poison, tries=None):
    """Doubles each item, and fails on a stretch that holds any of the poison."""

    def attempt(items):
        if tries is not None:
            tries.append(list(items))
        if poison & set(items):
            raise ValueError("poison")
        return [2 * item for item in items]

    return attempt


def flat(results):
    return [value for result in results for value in result]


@given(ITEMS, st.data())
def test_every_item_has_its_result_and_poison_that_of_being_alone(items, data):
    poison = set(data.draw(st.lists(st.sampled_from(items), max_size=5))) if items else set()
    results = flat(halve(items, doubling(poison), lambda item, error: [f"{item}: {error}"]))
    assert results == [f"{item}: poison" if item in poison else 2 * item for item in items]


@given(ITEMS, st.data())
def test_an_item_that_fails_costs_no_more_attempts_than_its_halves(items, data):
    poison = set(data.draw(st.lists(st.sampled_from(items), max_size=5))) if items else set()
    tries = []
    halve(items, doubling(poison, tries), lambda item, error: [])
    assert len(tries) <= 1 + 2 * len(poison) * math.ceil(math.log2(max(1, len(items))))


@given(st.integers(2, 40), st.data())
def test_items_that_fail_together_alone_are_all_worked_on(count, data):
    pair = set(data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True)))

    def attempt(items):
        if pair <= set(items):
            raise MemoryError
        return list(items)

    def alone(item, error):
        raise AssertionError("no item fails alone")

    assert flat(halve(range(count), attempt, alone)) == list(range(count))


def test_stretches_of_a_range_are_ranges():
    tries = []
    halve(range(5, 9), lambda rows: tries.append(rows) or 1 / (len(rows) == 1), lambda row, error: None)
    assert tries == [range(5, 9), range(5, 7), range(5, 6), range(6, 7), range(7, 9), range(7, 8), range(8, 9)]


def test_what_the_items_are_not_to_blame_for_ends_the_work():
    def excuse(error):
        raise Broken from error

    tries = []
    with pytest.raises(Broken):
        halve([1, 2, 3], doubling({3}, tries), lambda item, error: [], excuse)
    assert tries == [[1, 2, 3]]


def test_what_being_alone_raises_is_raised():
    def alone(item, error):
        raise Broken(item) from error

    with pytest.raises(Broken, match="3"):
        halve([1, 2, 3], doubling({3}), alone)


def test_an_interruption_is_no_failure_of_an_item():
    def attempt(items):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        halve([1, 2], attempt, lambda item, error: None)
