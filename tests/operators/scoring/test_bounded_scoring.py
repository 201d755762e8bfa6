"""Scoring down to a threshold: no row that reaches it is left without its score, and bounds hold."""

import itertools

import numpy as np
import reference
from hypothesis import given
from hypothesis import strategies as st

from operators.schema import ENCODED, from_rows
from operators.scoring.draw import Threshold
from operators.scoring.score_rows import Scoring
from operators.scoring.scores import ScoreSettings, add_scores, upper_bound


class TableScorer:
    """Sums that depend on prompt and target alone, from few values, so that scores tie."""

    forwarded_tokens = padding_tokens = 0

    def __init__(self, values):
        self.values, self.asked = values, []

    def sums(self, prompts, targets, *, finished, keep, every):
        self.asked += [(tuple(prompt), tuple(target)) for prompt, target in zip(prompts, targets, strict=True)]
        found = np.array(
            [self.values[(sum(p) * 7 + sum(t)) % len(self.values)] for p, t in zip(prompts, targets, strict=True)]
        )
        keep(np.arange(len(found)), found)
        return found


VALUES = st.lists(st.sampled_from([-0.1, -0.5, -1.0, -3.0, -8.0, -60.0]), min_size=3, max_size=23)
SETTINGS = st.builds(
    ScoreSettings,
    hardest=st.integers(1, 5),
    tau=st.sampled_from([0.3, 1.0, 4.0]),
    alpha=st.sampled_from([0.0, 0.1, 2.0]),
    weight_scale=st.just(1.0),
    weight_clip=st.just(10.0),
)
ROWS = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 4), st.integers(0, 50)), min_size=1, max_size=10)


def encoded(rows):
    text = {"source": "s", "instruction": "i", "input": "", "output": "o", "extra": "{}", "file": "f", "line": 1}
    return from_rows(
        [
            {
                **text,
                "id": f"{number:032x}",
                "n_prompt_tokens": 1,
                "paraphrases_skipped": 0,
                "input_truncated": False,
                "pair_key": bytes(16),
                "prompt": [seed + 1],
                "target": [seed] * length,
                "alternatives": [
                    {"instruction": f"a{k}", "origin": "retrieved", "similarity": 0.5, "prompt": [seed, k]}
                    for k in range(alternatives)
                ],
            }
            for number, (alternatives, length, seed) in enumerate(rows)
        ],
        ENCODED,
    )


@given(
    ROWS,
    VALUES,
    SETTINGS,
    st.sampled_from([-np.inf, -5.0, -0.5, -0.1, 0.0, 2.0, np.inf]),
    st.sampled_from([0.0, 0.5, np.inf]),
)
def test_whoever_reaches_the_threshold_is_scored_in_full(rows, values, settings, key, temperature):
    full = Scoring(encoded(rows), [0], lambda: TableScorer(values))
    full.score_all()
    expected = add_scores(full.table(), settings, 0).to_pylist()
    scorer, threshold = TableScorer(values), Threshold(key, temperature, 3)
    some = Scoring(encoded(rows), [0], lambda: scorer)
    some.score_down_to(threshold, settings)
    for row, true in zip(add_scores(some.table(), settings, 0).to_pylist(), expected, strict=True):
        assert row["loglik_mean"] == true["loglik_mean"] and row["ifd"] == true["ifd"]
        uniform = reference.random_of(row["id"], 3)
        if true["tss_pp"] is not None and reference.key(true["tss_pp"], uniform, temperature) >= key:
            assert row["tss_pp"] == true["tss_pp"]
        if row["tss_pp"] is None and true["tss_pp"] is not None:
            assert true["tss_pp"] <= row["tss_pp_bound"]
            assert reference.key(row["tss_pp_bound"], uniform, temperature) < key
        elif row["tss_pp"] is not None:
            assert row["tss_pp_bound"] is None and row["tss"] == true["tss"] and row["rank"] == true["rank"]
    assert len(scorer.asked) == len(set(scorer.asked)) == some.work.computed


@given(ROWS, VALUES, SETTINGS)
def test_going_on_later_computes_only_what_is_missing(rows, values, settings):
    first = Scoring(encoded(rows), [0], lambda: TableScorer(values))
    first.score_down_to(Threshold(-0.4, 0.0, 0), settings)
    scorer = TableScorer(values)
    again = Scoring(encoded(rows), [0], lambda: scorer, first.table())
    again.score_all()
    whole = Scoring(encoded(rows), [0], lambda: TableScorer(values))
    whole.score_all()
    assert again.table().equals(whole.table())
    missing = {
        ((seed, k), (seed,) * length)
        for (alternatives, length, seed), row in zip(rows, first.table().to_pylist(), strict=True)
        for k, one in zip(range(alternatives), row["alternatives"], strict=True)
        if one["loglik_mean"] is None
    }
    assert set(scorer.asked) == missing


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=8), st.floats(-50, 0), SETTINGS)
def test_a_bound_only_falls(others, own, settings):
    bounds = [upper_bound(np.array([own]), np.array([others[:count]]), settings)[0] for count in range(len(others) + 1)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(bounds))
