"""AUROC and shares equal their walks, a resample is the rows that it drew, and the demo's scores find what was planted."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from reference import auroc as slow_auroc
from reference import select as slow_select

from pipeline.demo import truth

SCORES = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 0.5, 3.0]), min_size=2, max_size=30)


@given(SCORES, st.randoms(use_true_random=False))
def test_auroc_is_that_of_all_pairs(scores, rng):
    kinds = np.array([rng.choice("pnx") for _ in scores])
    values = np.array(scores)
    positive, negative = values[kinds == "p"], values[kinds == "n"]
    assume(len(positive) and len(negative))
    estimate = truth.auroc(values, kinds == "p", kinds == "n")
    assert estimate.value == pytest.approx(slow_auroc(positive.tolist(), negative.tolist()))


@given(st.integers(2, 40), st.integers(0, 10**6))
def test_a_resample_is_the_rows_that_it_drew(rows, seed):
    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, 6, rows).astype(float), rng.random(rows) < 0.5
    costs = rng.integers(1, 9, rows)
    aurocs = truth.auroc(scores, positive, ~positive, count=5, seed=seed).resampled
    shares = truth.share(scores, costs, positive, 0.5, count=5, seed=seed).resampled
    drawn = np.concatenate(list(truth.resamples(rows, 5, seed)))
    assert drawn.shape == (5, rows) and (drawn.sum(axis=1) == rows).all()
    for place, times in enumerate(drawn):
        ups, downs = (np.repeat(scores[which], times[which]).tolist() for which in (positive, ~positive))
        if ups and downs:
            assert aurocs[place] == pytest.approx(slow_auroc(ups, downs))
        # The walk over the rows drawn, best first: a row drawn twice is taken twice or not at all.
        room, taken, good = int((costs * times).sum() * 0.5 + 1e-9), 0, 0
        for row in np.argsort(-scores, kind="stable"):
            room -= costs[row] * times[row]
            if room < 0:
                break
            taken, good = taken + times[row], good + times[row] * positive[row]
        assert np.isnan(shares[place]) if not taken else shares[place] == pytest.approx(good / taken)


@given(st.integers(1, 40), st.integers(0, 10**6), st.sampled_from(truth.FRACTIONS))
def test_a_share_is_of_what_selection_takes(rows, seed, fraction):
    rng = np.random.default_rng(seed)
    scores, costs, wanted = rng.integers(0, 5, rows).astype(float), rng.integers(1, 9, rows), rng.random(rows) < 0.5
    walked = [{"id": i, "score": scores[i], "cost": int(costs[i])} for i in range(rows)]
    taken = slow_select(walked, int(np.floor(costs.sum() * fraction + 1e-9)))
    estimate = truth.share(scores, costs, wanted, fraction).value
    assert np.isnan(estimate) if not taken else estimate == pytest.approx(wanted[taken].mean())


def test_intervals_cover_and_repeat():
    rng = np.random.default_rng(0)
    scores = np.concatenate([rng.normal(1, 1, 400), rng.normal(0, 1, 400)])
    positive = np.arange(800) < 400
    estimate, again = (truth.auroc(scores, positive, ~positive, count=300, seed=4) for _ in range(2))
    low, high = estimate.interval
    assert estimate.interval == again.interval and low < estimate.value < high
    assert low < 0.76 < high  # the normal distribution function at 1 / sqrt(2)
    # The interval of a normal approximation (Hanley and McNeil, 1982) is about as wide.
    assert 0.05 < high - low < 0.09


def test_what_cannot_be_said_is_left_open():
    kinds = np.array(["specific", "specific", "noisy"])
    signals = {name: np.array([2.0, 1.0, 0.0]) for name in truth.SIGNALS}
    shown = truth.section(truth.Rows(kinds, np.array([50, 50, 50]), signals), count=20)
    line = next(line for line in shown.splitlines() if line.split()[:1] == ["tss_pp"])
    assert line.split()[1:3] == ["-", "-"] and "1.000 [1.00 1.00]" in line and "nan" not in shown
    nothing = truth.Rows(kinds[:0], kinds[:0], {name: np.zeros(0) for name in signals}, without=3)
    assert "no row has every score" in truth.section(nothing)
