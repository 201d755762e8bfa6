"""`tss compare`: joined by id whatever the order of rows, ranks as scipy has them, and nothing of a corpus acts on a page."""

import json
import sys
from dataclasses import replace

import numpy as np
import pyarrow.fs as pafs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_runs import RUN, publish_rows, scored_row
from scipy.stats import spearmanr

from operators.row_ids import id_words
from operators.scoring.fitness import spearman
from pipeline import cli
from pipeline.errors import BadRequest
from pipeline.inspection import compare_words
from pipeline.inspection.common_rows import common_rows, places_in_ranking
from pipeline.inspection.compare import compare, differing_settings
from pipeline.runs import open_run
from pipeline.runs.manifest import ScorerName

NUMBERS = st.lists(st.tuples(st.integers(-3, 3), st.floats(-9, 9)), min_size=2, max_size=30)


@given(NUMBERS)
def test_rank_correlation_is_that_of_scipy(pairs):
    first, second = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    got = spearman(first, second)
    if got is None:
        assert len(set(first)) == 1 or len(set(second)) == 1
    else:
        assert got == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 2**128 - 1), unique=True, max_size=20), st.randoms())
def test_rows_are_joined_by_id(numbers, rng):
    numbers += [number ^ 1 for number in numbers[:3] if number ^ 1 not in numbers]  # that share their first 64 bits
    some, other = ([number for number in numbers if rng.random() < 0.7] for _ in range(2))
    rng.shuffle(other)
    both = common_rows(*(id_words([f"{number:032x}" for number in side]).reshape(-1, 2) for side in (some, other)))
    pairs = [(some[i], other[j]) for i, j in zip(both.first.tolist(), both.second.tolist(), strict=True)]
    assert pairs == [(number, number) for number in some if number in other]


def test_places_are_those_of_a_selection():
    ids = id_words([f"{number:032x}" for number in (3, 1, 2)])
    assert places_in_ranking(np.array([0.5, 0.5, 0.9]), ids).tolist() == [2, 1, 0]


def row(number, score, tokens=4, **more):
    texts = {"instruction": f"Do <b>{number}</b>.", "output": f"It\nis {number}.", **more}
    return scored_row(**texts, tss_pp=score, n_prompt_tokens=tokens, n_target_tokens=1, ppl=2.0)


FIRST = [row(number, -float(number)) for number in range(8)]
# Without row 0, with a row 9; row 7 has risen to the top, row 1 has fallen to the end, row 2 has no score.
SECOND = [
    row(9, -8.5),
    *(row(number, -float(number), tokens=6) for number in range(3, 7)),
    row(7, 5.0, 6),
    row(1, -9.0, 6),
]
SECOND += [{**row(2, None, 6)}]


@pytest.fixture
def runs(tmp_path):
    first = publish_rows(tmp_path / "first", FIRST, selected=[0, 1, 2], part_rows=3, select={"temperature": 0})
    named = ScorerName("other", "g", "bfloat16", "", "h")
    second = publish_rows(
        tmp_path / "second", SECOND, selected=[5, 6], part_rows=4, template="plain", named=named, seed=3
    )
    return first, second


def test_scores_selections_and_rows_that_moved(runs):
    made = compare(*map(str, runs), shown=2)
    assert (made.common, made.first.scored, made.second.scored, made.ranked) == (7, 8, 8, 6)
    agreement = {each.score: each for each in made.agreements}
    expected = spearmanr([-1, -3, -4, -5, -6, -7], [-9, -3, -4, -5, -6, 5]).statistic
    assert agreement["tss_pp"].spearman == pytest.approx(expected) and agreement["tss_pp"].rows == 6
    assert agreement["ppl"].spearman is None and agreement["ppl"].rows == 7  # it is 2 in every row
    assert agreement["tss"].spearman is None and agreement["tss"].rows == 0
    chosen = made.selections
    assert chosen.jaccard == pytest.approx(1 / 4) and chosen.unknown == 1  # row 0 is not in the second run
    assert (chosen.kept.rows, chosen.kept.first_tokens, chosen.kept.second_tokens) == (1, 5, 7)
    assert (chosen.left.rows, chosen.left.first_tokens, chosen.left.second_tokens) == (2, 10, 0)
    assert (chosen.entered.rows, chosen.entered.first_tokens, chosen.entered.second_tokens) == (1, 0, 7)
    risen, fallen = made.risen, made.fallen
    assert risen[0].places == (5, 0) and risen[0].scores == (-7.0, 5.0) and risen[0].selected == (False, True)
    assert fallen[0].places == (0, 5) and fallen[0].instruction == "Do <b>1</b>." and fallen[0].output == "It is 1."
    assert [len(rows) for rows in (risen, fallen)] == [1, 1]  # the other four have kept their order


def test_settings_that_differ_are_named_and_places_of_no_matter_are_not(runs):
    made = compare(*map(str, runs))
    differing = {each.key: (each.first, each.second) for each in made.settings}
    assert differing["scorer.template"] == ("alpaca", "plain") and differing["seed"] == (0, 3)
    assert differing["scorer: fingerprint"] == ("f", "g") and differing["scorer: dtype"] == ("float32", "bfloat16")
    assert differing["select.temperature"] == (0, None)
    assert not [key for key in differing if key.startswith(("output", "ray", "store"))]
    assert compare(str(runs[0]), str(runs[0])).settings == []


def test_a_key_that_came_later_is_no_difference(runs):
    manifest = open_run.read_manifest(str(runs[0]))
    scorer = {key: value for key, value in manifest.config["scorer"].items() if key != "server"}
    former = replace(manifest, config={**manifest.config, "scorer": scorer})
    assert differing_settings(former, manifest) == []
    unknown = replace(manifest, config={**manifest.config, "gone": 3})  # of a release that had another key
    assert [(each.key, each.first) for each in differing_settings(unknown, manifest)] == [("gone", 3)]


def test_a_run_beside_itself_is_the_same(runs):
    made = compare(str(runs[0]), str(runs[0].parents[1]))
    assert made.selections.jaccard == 1 and not made.risen and not made.fallen
    assert made.agreements[0].score == "tss_pp" and made.agreements[0].spearman == pytest.approx(1.0)


def test_empty_selections_and_no_common_row(tmp_path):
    some = publish_rows(tmp_path / "some", FIRST[:2], selected=[])
    other = publish_rows(tmp_path / "other", FIRST[2:4], selected=[])
    made = compare(str(some), str(other))
    assert made.common == made.ranked == 0 and made.selections.jaccard is None and not made.risen
    assert "0 in both, 2 in the first alone" in compare_words.as_text(made)


def test_words_and_json_say_the_same(runs, capsys, monkeypatch):
    monkeypatch.setattr("ray.init", lambda *args, **kwargs: pytest.fail("Ray was started"))
    assert cli.main(["compare", *map(str, runs), "--rows", "1"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "7 in both, 1 in the first alone, 1 in the second alone",
        "0.250 in common",
        "5 -> 0",
        "scorer.template",
    ):
        assert words in shown
    assert "1 rows (5 | 7 tokens) kept; 1 rows (7 tokens) entered; 2 rows (10 tokens) left; 1 of them are rows" in shown
    assert cli.main(["compare", *map(str, runs), "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["version"] == 1 and plain["selections"]["jaccard"] == 0.25 and plain["risen"][0]["places"] == [5, 0]


def test_a_section_of_a_page_escapes_every_text(runs):
    html = compare(*map(str, runs))._repr_html_()
    assert "<b>" not in html and "&lt;b&gt;7" in html and "0.250" in html and "<html" not in html


@pytest.mark.parametrize("by", ["instruction", "line", "nothing"])
def test_a_score_that_is_none_is_refused(runs, by):
    with pytest.raises(BadRequest, match=r"accepted: .*tss_pp"):
        compare(*map(str, runs), by=by)


def test_a_path_that_is_no_run_is_refused(runs, tmp_path, capsys):
    assert cli.main(["compare", str(runs[0]), str(tmp_path)]) == 2
    assert "no latest.json or manifest.json here" in capsys.readouterr().err


def test_texts_are_read_of_the_parts_that_hold_moved_rows_alone(runs, monkeypatch):
    read = []
    module = sys.modules["pipeline.inspection.common_rows"]
    original = module.read_columns

    def counted(path, schema):
        read.append((path, tuple(schema.names)))
        return original(path, schema)

    monkeypatch.setattr(module, "read_columns", counted)
    compare(*map(str, runs), shown=1)
    texts = [path for path, names in read if "instruction" in names]
    assert len(texts) == len(set(texts)) == 2  # rows 7 and 1 lie in two of the first run's three parts
    assert all(len(names) == 1 for _, names in read if "instruction" not in names)


def test_runs_in_an_object_store(runs, object_store):
    for run, name in zip(runs, ("first", "second"), strict=True):
        pafs.copy_files(str(run.parents[1]), f"bucket/compared/{name}", destination_filesystem=object_store)
    urls = [f"s3://bucket/compared/{name}" for name in ("first", "second")]
    made = compare(urls[0], f"{urls[1]}/runs/{RUN}")
    here = compare(*map(str, runs))
    assert (made.agreements, made.selections, made.risen) == (here.agreements, here.selections, here.risen)
