"""How many distinct things there are is estimated from how often things of a sample were seen again, with bounds that hold."""

import random

import pytest

from pipeline.planning.distinct import distinct_of


def drawn(population, seed, groups=200, size=4):
    """Groups of neighbours from a population in random order."""
    rng = random.Random(seed)
    shuffled = rng.sample(population, len(population))
    starts = rng.sample(range(0, len(shuffled), size), groups)
    things = [thing for start in starts for thing in shuffled[start : start + size]]
    return things, [number for number in range(groups) for _ in range(size)][: len(things)]


@pytest.mark.parametrize("kinds", [50, 1000, 8000, 40_000])
def test_alike_frequent_things_are_estimated(kinds):
    population = [i % kinds for i in range(40_000)]
    values = []
    for seed in range(5):
        estimate = distinct_of(*drawn(population, seed), len(population) / 4, len(population))
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.low <= kinds <= estimate.high
        values.append(estimate.value)
    # Where hardly anything is seen twice, little is known; the bounds say so.
    assert sum(values) / len(values) == pytest.approx(kinds, rel=0.15 if kinds <= 1000 else 0.5)


def test_few_frequent_and_many_rare_things_lie_between_the_bounds():
    population = [i % 10 for i in range(20_000)] + [10 + i for i in range(20_000)]
    estimate = distinct_of(*drawn(population, 1), len(population) / 4, len(population))
    assert estimate.low <= 20_010 <= estimate.high


def test_neighbours_that_are_the_same_are_no_sign_that_there_are_few():
    population = [i // 4 for i in range(40_000)]  # each thing stands four times in one place
    rng = random.Random(0)
    starts = rng.sample(range(0, len(population), 4), 200)
    things = [thing for start in starts for thing in population[start : start + 4]]
    groups = [number for number in range(200) for _ in range(4)]
    assert distinct_of(things, groups, 10_000, 40_000).value == pytest.approx(10_000, rel=0.3)


def test_what_was_seen_whole_is_exact():
    assert distinct_of(["a", "b", "a"], [0, 0, 1], 2, 3).value == 2
    assert distinct_of([], [], 0, 0).value == 0
