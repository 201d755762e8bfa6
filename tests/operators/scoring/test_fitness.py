"""Figures on the fitness of a scorer, against plain statistics."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from operators.scoring import fitness

VALUES = st.lists(st.integers(-5, 5), min_size=3, max_size=40)


@given(VALUES, st.randoms())
def test_rank_correlation_equals_that_of_scipy(left, random):
    right = [value + random.randint(-3, 3) for value in left]
    got = fitness.spearman(np.array(left, dtype=float), np.array(right, dtype=float))
    if len(set(left)) == 1 or len(set(right)) == 1:
        assert got is None
    else:
        assert got == pytest.approx(stats.spearmanr(left, right).statistic, abs=1e-9)


def test_rows_without_one_of_the_values_do_not_count():
    left = np.array([1.0, 2.0, 3.0, np.nan, 9.0])
    assert fitness.spearman(left, np.array([1.0, 2.0, 3.0, 7.0, np.nan])) == pytest.approx(1)
    assert fitness.spearman(left, np.array([1.0, np.nan, np.nan, 7.0, np.nan])) is None


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 10), (10, 10), (280, 1000)])
def test_interval_equals_that_of_scipy(hits, trials):
    expected = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert fitness.wilson(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_nothing_seen_bounds_nothing():
    assert fitness.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 3.0])
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_what_another_draw_keeps_is_what_draws_keep(temperature, share):
    rng = np.random.default_rng(0)
    values, rows = rng.normal(size=4000), int(4000 * share)

    def drawn():
        keys = values / temperature - np.log(-np.log(rng.uniform(size=len(values))))
        return set(np.argsort(-keys)[:rows].tolist())

    seen = np.mean([len(drawn() & drawn()) / rows for _ in range(20)])
    assert fitness.kept_by_another_draw(values, share, temperature) == pytest.approx(seen, abs=0.03)


def test_halves_as_reliable_as_their_whole():
    assert fitness.full_reliability(1.0) == 1.0
    assert fitness.full_reliability(0.5) == pytest.approx(2 / 3)
    assert fitness.full_reliability(None) is None


def test_the_way_from_chance_to_all():
    assert fitness.above_chance(0.1, 0.1) == 0
    assert fitness.above_chance(1.0, 0.1) == 1
    assert fitness.above_chance(0.55, 0.1) == pytest.approx(0.5)
