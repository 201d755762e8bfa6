"""The verdict on a scorer: figures from scored parts, whatever they are cut into, and sentences that say when to look twice."""

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pytest
from published_runs import scored_row

from operators.schema import LIKELIHOODS, SCORED, from_rows
from operators.scoring.scores import ScoreSettings, add_scores
from pipeline.errors import RunFailed
from pipeline.runs import verdict, verdict_words
from pipeline.runs.verdict import Tally
from pipeline.storage.parts import write_part
from pipeline.storage.records import BlockPart, Verdict, records_of, to_json

SETTINGS = {"hardest": 4, "tau": 0.5, "alpha": 0.1, "weight_scale": 1.0, "weight_clip": 10.0}


def scored(count, rng, k=4, gain=1.0):
    """SCORED rows whose own instruction gains so much on average over its alternatives; the last one has none of these."""
    rows = []
    for number in range(count):
        own = -rng.uniform(1, 3)
        row = scored_row(salt=number)
        others = [] if number == count - 1 else own - rng.normal(gain, 1, k)
        rows.append(
            {name: value for name, value in row.items() if name in LIKELIHOODS.names}
            | {
                "n_prompt_tokens": 5,
                "n_target_tokens": 7,
                "loglik_sum": 7 * own,
                "loglik_mean": own,
                "loglik_empty_mean": own - 1,
                "n_alternatives": len(others),
                "paraphrases_skipped": 0,
                "extra": None,
                "alternatives": [
                    {"instruction": f"i{place}", "origin": "retrieved", "similarity": 0.5, "loglik_mean": value}
                    for place, value in enumerate(others)
                ],
            }
        )
    return add_scores(from_rows(rows, LIKELIHOODS), ScoreSettings(**SETTINGS), 0)


def tally(table, folder, cuts, below=1.0, fraction=1.0):
    """The tally of a table cut into parts at these rows, by two tasks."""
    edges = [0, *cuts, len(table)]
    parts = [
        BlockPart(number, write_part(str(folder), table.slice(start, stop - start), SCORED))
        for number, (start, stop) in enumerate(itertools.pairwise(edges))
    ]
    tallies = []
    for some in (parts[::2], parts[1::2]):
        if some:
            batch = pa.table({"item": pa.array([to_json(part) for part in some])})
            got = verdict.tally_parts(batch, settings=SETTINGS, below=below, fraction=fraction)
            tallies += records_of(Tally, got, "record")
    return verdict.joined(tallies)


def test_a_tally_is_that_of_all_rows_whatever_the_parts(tmp_path):
    table = scored(120, np.random.default_rng(0))
    whole = tally(table, tmp_path / "a", [])
    assert tally(table, tmp_path / "b", [1, 50, 51, 99]) == whole
    ranks = table["rank"].to_numpy(zero_copy_only=False)[:-1]
    assert (whole.rows, whole.best, whole.by_chance) == (119, int((ranks == 0).sum()), pytest.approx(119 / 5))
    assert len(whole.sample) == 119 and whole.sample == sorted(whole.sample)


def test_a_bounded_run_is_judged_by_the_ids_of_its_sample(tmp_path):
    table = scored(400, np.random.default_rng(0))
    part = tally(table, tmp_path, [200], below=0.25)
    ids = [id for id in table["id"].to_pylist()[:-1] if int(id, 16) <= 0.25 * 2**128]
    assert 60 < len(ids) < 140
    assert part.rows == len(ids) and sorted(id for id, _ in part.sample) == sorted(ids)


def words(**figures):
    plain = {"rows": 1000, "best": 0.8, "low": 0.77, "high": 0.82, "chance": 0.11, "score": "tss_pp"}
    return verdict_words.sentences(Verdict(**{**plain, **figures}))


def loud(**figures):
    return [sentence.subject for sentence in words(**figures) if sentence.loud]


def test_a_fit_scorer_is_said_to_be_one():
    (sentence,) = words()
    assert not sentence.loud and sentence.text.endswith("it tells these instructions apart")
    assert "80% [77% 82%] of 1,000 rows, by chance in 11%" in sentence.text


def test_an_unfit_scorer_is_loud():
    assert loud(best=0.28, low=0.25, high=0.31) == ["scorer"]
    # What a few rows may have seen by chance is not held against it.
    assert not loud(rows=60, best=0.28, low=0.18, high=0.4)
    # A selection by length does not depend on it.
    assert not loud(best=0.28, low=0.25, high=0.31, score=None)


def test_few_rows_are_not_judged():
    (sentence,) = words(rows=12, best=0.0, low=0.0, high=0.2)
    assert not sentence.loud and "only 12 rows" in sentence.text


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"alike": "-ppl", "shared": 0.88, "shared_by_chance": 0.03}, "shares 0.88 with one by lowest perplexity"),
        ({"correlations": {"-ppl": 0.2, "length": -0.95}}, "tss_pp goes with the shortest outputs"),
        ({"correlations": {"-ifd": -0.93}}, "tss_pp goes with highest ifd at a rank correlation of 0.93"),
    ],
)
def test_a_selection_in_disguise_is_loud(figures, expected):
    assert loud(**figures) == ["likeness"]
    (sentence,) = [sentence for sentence in words(**figures) if sentence.loud]
    assert expected in sentence.text and "mostly that score under another name; select by that one" in sentence.text


def test_what_a_large_budget_shares_anyway_is_not_held_against_it():
    assert not loud(alike="-ppl", shared=0.7, shared_by_chance=0.6, correlations={"-ppl": 0.5})


def test_strict_makes_what_is_loud_an_error():
    fit = Verdict(rows=1000, best=0.8, low=0.77, high=0.82, chance=0.11, score="tss_pp")
    verdict_words.require_fit(fit)
    with pytest.raises(RunFailed, match=r"stage verdict: .*hardly tells .* nothing is published"):
        verdict_words.require_fit(dataclasses.replace(fit, best=0.2, low=0.18, high=0.22))
