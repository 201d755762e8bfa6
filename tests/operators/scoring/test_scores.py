"""The scores equal their formulas and keep the order that their definitions promise."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from operators.schema import LIKELIHOODS, from_rows, of_earlier_release
from operators.scoring import scores

LOGLIK = st.floats(-1e5, -(2**-10))
OTHERS = st.lists(LOGLIK, min_size=1, max_size=12)
ROWS = st.lists(st.tuples(LOGLIK, st.lists(LOGLIK, max_size=12), st.integers(1, 900)), min_size=1, max_size=6)
SETTINGS = st.builds(
    scores.ScoreSettings,
    hardest=st.integers(1, 14),
    tau=st.sampled_from([0.1, 0.25, 1.0, 3.0]),
    alpha=st.sampled_from([0.0, 0.1, 1.0]),
    weight_scale=st.just(1.0),
    weight_clip=st.just(10.0),
)


def near(value):
    """The same number, but for the last digits: 1e-9 of the size of what is added up."""
    return pytest.approx(value, abs=1e-9, rel=1e-12)


@given(ROWS, SETTINGS)
def test_every_row_of_a_table_equals_the_formulas(rows, settings):
    table = from_rows(
        [
            row(
                id=f"{number:032x}",
                loglik_mean=own,
                n_target_tokens=length,
                alternatives=[{**OTHER, "loglik_mean": other} for other in others],
            )
            for number, (own, others, length) in enumerate(rows)
        ],
        LIKELIHOODS,
    )
    for got, (own, others, length) in zip(scores.add_scores(table, settings, 0).to_pylist(), rows, strict=True):
        if not others:
            assert got["tss"] is got["tss_nce"] is got["tss_pp"] is got["tss_pp_bound"] is got["rank"] is None
            continue
        assert got["tss"] == near(reference.tss(own * length, [other * length for other in others]))
        constants = settings.hardest, settings.tau
        slow = reference.tss_nce(own, others, *constants)
        # The twin takes a difference of two large numbers, which loses digits of these.
        assert got["tss_nce"] == pytest.approx(slow, abs=1e-9 + 1e-14 * max(map(abs, [own, *others])) / settings.tau)
        assert got["tss_pp"] == near(got["tss_nce"] + settings.alpha * own)
        assert got["rank"] == sum(other >= own for other in others)


@given(st.floats(-50, -0.01), st.lists(st.floats(-50, -0.01), min_size=1, max_size=12), SETTINGS)
def test_eq_2_and_3_equal_their_twins_where_these_lose_no_digits(own, others, settings):
    constants = {"hardest": settings.hardest, "tau": settings.tau}
    both = np.array([own]), np.array([others])
    assert scores.tss_nce(*both, **constants)[0] == near(reference.tss_nce(own, others, **constants))
    full = scores.tss_pp(*both, **constants, alpha=settings.alpha)[0]
    assert full == near(reference.tss_pp(own, others, **constants, alpha=settings.alpha))


@given(LOGLIK, OTHERS, SETTINGS)
def test_one_more_hard_alternative_never_raises_the_score(own, others, settings):
    falling = [
        scores.tss_nce(np.array([own]), np.array([others]), hardest=hardest, tau=settings.tau)[0]
        for hardest in range(1, len(others) + 1)
    ]
    assert all(more <= fewer for fewer, more in itertools.pairwise(falling)) and falling[0] <= 0


def test_by_hand():
    # Three tokens at -1 each under the true instruction, -2 and -3 under two others.
    sums, means = (np.array([-3.0]), np.array([[-6.0, -9.0]])), (np.array([-1.0]), np.array([[-2.0, -3.0]]))
    assert scores.tss(*sums)[0] == near(-3 - math.log((math.exp(-6) + math.exp(-9)) / 2))  # 3.6446
    assert scores.tss(*sums)[0] == pytest.approx(3.6446, abs=5e-5)
    both = scores.tss_nce(*means, hardest=2, tau=0.5)[0]
    assert both == near(-math.log(1 + math.exp(-2) + math.exp(-4))) and both == pytest.approx(-0.1429, abs=5e-5)
    assert scores.tss_nce(*means, hardest=1, tau=0.5)[0] == near(-math.log(1 + math.exp(-2)))
    assert scores.tss_pp(*means, hardest=2, tau=0.5, alpha=0.1)[0] == near(both - 0.1)


def test_no_overflow_far_from_zero():
    assert scores.log_sum_exp(np.array([-1e5, -1e5])) == pytest.approx(-1e5 + math.log(2), abs=1e-9)
    own, others = np.array([-1e5, -1.0]), np.array([[-1.0], [-1e5]])
    assert scores.tss(own, others) == pytest.approx([-1e5 + 1, 1e5 - 1])
    assert scores.tss_nce(own, others, hardest=1, tau=0.1).tolist() == [pytest.approx((-1e5 + 1) / 0.1), 0.0]


def test_the_weights_are_clipped():
    logs = scores.log_weights(np.array([-1e5, 0.0, 3.0, np.nan]), scale=2.0, clip=10.0)
    assert logs.tolist()[:3] == [-2e5, 0.0, math.log(10)] and np.isnan(logs[3])


OTHER = {"instruction": "a", "similarity": 0.5}


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


ONE_HARD = scores.ScoreSettings(hardest=1, tau=1.0, alpha=0.1, weight_scale=1.0, weight_clip=10.0)


def scored(**values):
    return scores.add_scores(from_rows([row(**values)], LIKELIHOODS), ONE_HARD, 0).to_pylist()[0]


def test_the_columns_of_one_row():
    got = scored()
    assert got["tss"] == pytest.approx(-2 - math.log((math.exp(-6) + math.exp(-2)) / 2))
    assert got["tss_nce"] == pytest.approx(-math.log(2)) and got["tss_pp"] == pytest.approx(-math.log(2) - 0.1)
    assert got["rank"] == 1 and got["length"] == 2 and got["weight"] is None
    assert (
        got["ppl"] == pytest.approx(math.e)
        and got["ifd"] == pytest.approx(math.exp(-1))
        and got["ifd_loss"] == pytest.approx(0.5)
    )


def test_a_row_without_alternatives_is_kept_without_scores():
    got = scored(alternatives=[], n_alternatives=0)
    assert got["tss"] is got["tss_pp"] is got["tss_pp_bound"] is got["rank"] is None and got["ppl"] is not None


def test_a_row_of_which_not_all_is_scored_has_a_bound_alone():
    left = [{**OTHER, "loglik_mean": None}, {**OTHER, "loglik_mean": -3.0}]
    got = scored(alternatives=left)
    assert got["tss"] is got["tss_nce"] is got["tss_pp"] is got["rank"] is None
    assert got["tss_pp_bound"] == pytest.approx(-math.log(1 + math.exp(-2)) - 0.1, abs=1e-8)
    assert scored(alternatives=[left[0]])["tss_pp_bound"] == pytest.approx(-0.1, abs=1e-8)


def test_a_score_that_no_float_holds_is_null():
    got = scored(loglik_mean=-800.0, loglik_empty_mean=-0.0)
    assert got["ppl"] is got["ifd"] is got["ifd_loss"] is None and got["tss_pp"] is not None
    assert scored(loglik_mean=-1.0, loglik_empty_mean=-1000.0)["ifd"] == 0.0


def test_rows_of_a_table_of_slices_keep_their_alternatives():
    table = from_rows(
        [row(id=f"{n:032x}", alternatives=[{**OTHER, "loglik_mean": -float(n)}]) for n in range(6)], LIKELIHOODS
    )
    sliced = pa.concat_tables([table.slice(4, 2), table.slice(1, 2)])
    assert scores.alternative_means(sliced["alternatives"]).tolist() == [[-4.0], [-5.0], [-1.0], [-2.0]]


def test_likelihoods_of_an_earlier_release_give_the_new_columns():
    new = from_rows([row()], LIKELIHOODS)
    old = new.drop_columns(["cluster"]).set_column(
        new.column_names.index("loglik_mean"), "loglik_mean", new["loglik_mean"].cast(pa.float32())
    )
    read = of_earlier_release(old, LIKELIHOODS)
    assert read["cluster"].to_pylist() == [None]
    assert scores.add_scores(read, ONE_HARD, 0).drop_columns(["id"]).to_pylist()[0]["tss_nce"] == scored()["tss_nce"]


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=8), st.integers(-(2**70), 2**70))
def test_random_is_that_of_the_twin_row_by_row(ids, seed):
    found = scores.random_of([one.hex() for one in ids], seed)
    assert found.tolist() == [reference.random_of(one.hex(), seed) for one in ids]


def test_random_is_uniform_and_seeds_order_rows_differently():
    ids = [f"{number:032x}" for number in range(20_000)]  # the worst ids there can be: hashes are spread by themselves
    one, other = scores.random_of(ids, 0), scores.random_of(ids, 1)
    assert np.histogram(one, 10, (0, 1))[0].min() > 1850 and np.histogram(one, 10, (0, 1))[0].max() < 2150
    assert abs(np.corrcoef(np.argsort(np.argsort(one)), np.argsort(np.argsort(other)))[0, 1]) < 0.03
