"""The scores equal their formulas and keep the order that their definitions promise."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import random_of as slow_random_of
from reference import tss as slow_tss
from reference import tss_pp as slow_tss_pp

from operators.schema import LIKELIHOODS, from_rows
from operators.scoring import scores

LOGLIK = st.floats(-30, -(2**-10), width=32)
OTHERS = st.lists(LOGLIK, min_size=1, max_size=12)


@given(LOGLIK, OTHERS, st.integers(1, 14), st.sampled_from([0.25, 1.0, 3.0]), st.sampled_from([0.0, 0.1, 1.0]))
def test_formulas(own, others, hardest, tau, lam):
    array = np.array(others, dtype=np.float64)
    assert scores.tss(own, array) == pytest.approx(slow_tss(own, others), abs=1e-9)
    assert scores.tss_pp(own, array, hardest=hardest, tau=tau, quality_weight=lam) == pytest.approx(
        slow_tss_pp(own, others, hardest, tau, lam), abs=1e-9
    )
    assert scores.rank(own, array) == sum(other >= own for other in others)


@given(LOGLIK, OTHERS)
def test_hard_alternatives_never_raise_the_score(own, others):
    array = np.array(others, dtype=np.float64)
    rising = [scores.tss_pp(own, array, hardest=h, tau=1.0, quality_weight=0.0) for h in range(1, len(others) + 1)]
    assert all(harder <= easier + 1e-9 for harder, easier in itertools.pairwise(rising))
    assert rising[-1] == pytest.approx(scores.tss(own, array), abs=1e-9)


def test_no_overflow_far_from_zero():
    assert scores.log_mean_exp(np.array([-1e5, -1e5])) == pytest.approx(-1e5)


def row(**values):
    return {
        "id": "0" * 32,
        "source": "s",
        "instruction": "I",
        "input": "",
        "output": "Y",
        "extra": "{}",
        "n_prompt_tokens": 4,
        "n_target_tokens": 2,
        "loglik_sum": -2.0,
        "loglik_mean": -1.0,
        "loglik_empty_mean": -2.0,
        "n_alternatives": 2,
        "paraphrases_skipped": 0,
        "input_truncated": False,
        "alternatives": [
            {"instruction": "a", "similarity": 0.5, "loglik_mean": -3.0},
            {"instruction": "b", "similarity": 0.4, "loglik_mean": -1.0},
        ],
        **values,
    }


def scored(normalize="token", **values):
    settings = scores.ScoreSettings(hardest=1, tau=1.0, quality_weight=0.1, normalize=normalize)
    table = scores.add_scores(from_rows([row(**values)], LIKELIHOODS), settings, 0)
    return table.to_pylist()[0]


def test_the_columns_of_one_row():
    got = scored()
    assert got["tss"] == pytest.approx(-1 - math.log((math.exp(-3) + math.exp(-1)) / 2))
    assert got["tss_pp"] == pytest.approx(1.1 * -1 - -1) and got["rank"] == 1
    assert (
        got["ppl"] == pytest.approx(math.e)
        and got["ifd"] == pytest.approx(math.exp(-1))
        and got["ifd_loss"] == pytest.approx(0.5)
    )


def test_sums_replace_means():
    got = scored("sequence")
    assert got["tss_pp"] == pytest.approx(1.1 * -2 - -2) and got["ppl"] == pytest.approx(math.exp(2))


def test_a_row_without_alternatives_is_kept_without_scores():
    got = scored(alternatives=[], n_alternatives=0)
    assert got["tss"] is got["tss_pp"] is got["rank"] is None and got["ppl"] is not None


def test_a_perplexity_that_no_float_holds_is_null_and_so_is_its_ratio():
    long = {"n_target_tokens": 800, "loglik_mean": -1.0, "loglik_empty_mean": -0.0}
    assert scored("token", **long)["ppl"] == pytest.approx(math.e)
    got = scored("sequence", **long)
    assert got["ppl"] is got["ifd"] is got["ifd_loss"] is None and got["tss_pp"] is not None
    assert scored("sequence", **{**long, "loglik_empty_mean": -2.0})["ifd"] == 0.0


def test_no_ratio_over_nothing():
    assert scored(loglik_empty_mean=0.0)["ifd_loss"] is None


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=8), st.integers(-(2**70), 2**70))
def test_random_is_that_of_the_twin_row_by_row(ids, seed):
    found = scores.random_of([one.hex() for one in ids], seed)
    assert found.tolist() == [slow_random_of(one.hex(), seed) for one in ids]


def test_random_is_uniform_and_seeds_order_rows_differently():
    ids = [f"{number:032x}" for number in range(20_000)]  # the worst ids there can be: hashes are spread by themselves
    one, other = scores.random_of(ids, 0), scores.random_of(ids, 1)
    assert np.histogram(one, 10, (0, 1))[0].min() > 1850 and np.histogram(one, 10, (0, 1))[0].max() < 2150
    assert abs(np.corrcoef(np.argsort(np.argsort(one)), np.argsort(np.argsort(other)))[0, 1]) < 0.03
