"""The page of a run: what it shows, that no text of a corpus does anything in it, and that it stays small."""

import json
import math
from dataclasses import replace

import pytest
from hostile_inputs import MARKUP
from published_runs import RUN, publish_rows
from report_pages import HOSTILE, Page, made, require_inert, scored

from operators.schema import REJECTED, from_rows
from pipeline.report import make, page, rows
from pipeline.runs import open_run, verdict_words
from pipeline.runs.manifest import Budget, ReportFile, RowChanges
from pipeline.storage.parts import write_table
from pipeline.storage.records import Verdict


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    every = [scored(number, source="ab"[number % 2], extra={"task": f"t{number % 3}"}) for number in range(60)]
    return made(tmp_path_factory.mktemp("plain"), every, list(range(12)), columns=["task"], select={"temperature": 0})


def test_it_shows_what_was_asked_and_the_figures_of_rows(plain):
    parsed = require_inert(plain[0])
    for section in ("asked", "scores", "kept", "moves", "cut", "rows", "rejected", "cost", "configuration"):
        assert ("section", {"id": section}) in parsed.tags
    drawn = {attributes["data-chart"] for _, attributes in parsed.tags if "data-chart" in attributes}
    data = json.loads(next(body for attributes, body in parsed.scripts if attributes.get("id") == "data"))
    assert drawn == set(data["charts"])
    assert drawn >= {
        "distribution-tss",
        "distribution-tss_pp",
        "distribution-ppl",
        "distribution-ifd",
        "plane",
        "by-rank",
    }
    assert drawn >= {"moves-tss_pp", "moves-ppl"}
    assert "12 of 60 rows, ranked by tss_pp" in parsed.text


def test_a_chart_adds_up(plain):
    data = json.loads(next(body for attributes, body in Page(plain[0]).scripts if attributes.get("id") == "data"))
    for name in ("tss", "tss_pp", "ppl", "ifd"):
        bins = data["charts"][f"distribution-{name}"]["data"]["values"]
        for kind in ("all rows", "selected"):
            assert sum(each["share"] for each in bins if each["rows"] == kind) == pytest.approx(1)
    cells = data["charts"]["plane"]["data"]["values"]
    assert sum(cell["rows"] for cell in cells) == 60 and sum(cell["selected"] for cell in cells) == 12


def test_shares_are_those_of_the_rows(plain):
    text = Page(plain[0]).text
    for group in ("t0 20 4 20.0%", "t2 20 4 20.0%", "a 30 6 20.0%", "instruction alone", "8 to 15"):
        assert group in text or group == "instruction alone"  # a column with one group is not shown
    assert "layout what the row was" not in text


def test_rows_are_shown_with_their_alternatives(plain):
    parsed = Page(plain[0])
    widths = [float(each["style"][6:-1]) for _, each in parsed.tags if str(each.get("style", "")).startswith("width:")]
    assert all(0 <= width <= 100 for width in widths) and 100.0 in widths
    text = parsed.text
    assert "Do 0." in text and "Do 59." in text and "other 3" in text and "its own" in text
    assert "generated, similarity 0.50" in text and "retrieved, similarity 0.50" in text
    kinds = [each["data-value"] for _, each in parsed.tags if each.get("data-label") == "shown as"]
    for kind in ("best", "worst", "last taken", "first left out", "random"):
        assert any(kind in each.split(", ") for each in kinds)
    ranks = [each["data-value"] for _, each in parsed.tags if each.get("data-label") == "selection"]
    assert {rank for rank in ranks if rank} == {str(number) for number in range(12)}


def test_the_same_run_gives_the_same_bytes(plain):
    assert make.report_again(plain[1], str(plain[2])) == plain[0]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_corpus_does_anything(tmp_path, text):
    alternatives = [{"instruction": text, "origin": text, "similarity": 0.1, "loglik_mean": -9.0}] * 2
    every = [
        scored(number, source=text, file=text, instruction=text, input=text, output=text, extra={"task": text + str(number)},
               alternatives=alternatives, salt=number)
        for number in range(8)
    ]  # fmt: skip
    for number, row in enumerate(every):
        row["id"] = f"{number:032x}"
    _, manifest, run = made(tmp_path, every, [0, 1], columns=["task"])
    scores = {**manifest.scores, "best": [[1.0, "0", text, text]], "worst": [[1.0, "0", text, text]]}
    poisoned = replace(
        manifest,
        run=text,
        scorer=replace(manifest.scorer, model=text),
        timings={text: 1.0},
        damaged=[text],
        scores=scores,
        config={**manifest.config, "extra": {text: text}},
    )
    parsed = require_inert(make.report_again(poisoned, str(run)))
    shown = "".join(str(page.shown(text).striptags()).split())
    assert parsed.letters.count(shown) > 10 or not shown
    data = next(body for attributes, body in parsed.scripts if attributes.get("id") == "data")
    assert "alert" not in data
    failed = require_inert(make.report_without_rows(poisoned, text))
    assert failed.letters.count(shown) >= 5


def test_what_cannot_be_seen_stands_by_its_number():
    assert page.shown("a\u202eb\0c<d") == (
        'a<span class="unseen">U+202E</span>b<span class="unseen">U+0000</span>c&lt;d'
    )
    assert page.shown("\u202e" * 500) == '<span class="unseen">U+202E…500</span>'
    assert page.shown("\ud800") == '<span class="unseen">U+D800</span>' and page.shown("a\n\tb") == "a\n\tb"
    assert page.shown("زبان‌ها 👩‍💻 é") == "زبان‌ها 👩‍💻 é"  # joiners make letters and pictures what they are


def test_data_in_a_script_cannot_end_it():
    text = page._json({"</script>": ["<!--", "\u2028\u2029", "&"]})
    assert not set("<>&\u2028\u2029") & set(text) and json.loads(text) == {"</script>": ["<!--", "\u2028\u2029", "&"]}
    with pytest.raises(ValueError, match="Out of range"):
        page._json(math.nan)


@pytest.mark.ray  # slow
def test_long_and_odd_texts_keep_the_page_small(tmp_path):
    text = "&\u202e" * 500
    alternatives = [{"instruction": text, "origin": "retrieved", "similarity": 0.1, "loglik_mean": -9.0}] * 64
    every = [
        scored(number, source=text + str(number), input=text, output=text, alternatives=alternatives)
        for number in range(130)
    ]
    text, _, _ = made(tmp_path, every, list(range(30)), select={"quota": {"source": {"x" * 40_000: 0.5}}})
    require_inert(text)


def test_rows_without_scores_are_told_apart(tmp_path):
    nothing = dict.fromkeys(("tss", "tss_pp", "rank"))
    every = [scored(number) for number in range(6)]
    every += [scored(number, alternatives=[], n_alternatives=0, **nothing) for number in range(6, 9)]
    every += [scored(9, ppl=None, ifd=math.inf, loglik_mean=-math.inf, **nothing)]
    run = publish_rows(tmp_path / "out", every, selected=[0, 1], select={"temperature": 0})
    manifest = open_run.read_manifest(str(run))
    manifest = replace(manifest, counts=replace(manifest.counts, unscored=4))
    text = require_inert(make.report_again(manifest, str(run))).text
    assert "4 rows have no alternatives, and so no score" in text


def test_a_run_without_any_score_has_a_page(tmp_path):
    nothing = dict.fromkeys(("tss", "tss_pp", "rank", "ppl", "ifd", "loglik_mean", "loglik_empty_mean"))
    text, _, _ = made(tmp_path, [scored(number, alternatives=[], **nothing) for number in range(3)], [])
    assert "No row has a value of tss, tss_pp, ppl, ifd" in require_inert(text).text
    assert "No row was scored" in require_inert(made(tmp_path / "none", [], [])[0]).text


def test_a_weighted_score_is_not_taken_apart(tmp_path):
    every = [scored(number) for number in range(9)]
    text, _, _ = made(tmp_path, every, [0, 1], select={"score": {"tss_pp": 1, "ppl": -1}})
    parsed = require_inert(text)
    assert "how sure it is cannot be said in one figure" in parsed.text
    assert "moves-ppl" not in {attributes.get("data-chart") for _, attributes in parsed.tags}


def test_a_filter_may_know_ranks(tmp_path):
    every = [scored(number) for number in range(20)]
    text, _, _ = made(tmp_path, every, [0, 1], select={"where": "percentile(ppl) < 0.9"})
    assert "moves-tss_pp" in {each.get("data-chart") for _, each in require_inert(text).tags}


def test_the_verdict_stands_at_the_top(plain):
    verdict = Verdict(rows=1000, best=0.2, low=0.18, high=0.22, chance=0.11, score="tss_pp", halves=0.9)
    parsed = require_inert(make.report_again(replace(plain[1], verdict=verdict), str(plain[2])))
    asked = parsed.text.index("What was asked")
    for sentence in verdict_words.sentences(verdict):
        assert parsed.text.index(sentence.text) < asked


def test_changes_of_a_refresh_are_shown(plain, tmp_path):
    every = [scored(number) for number in range(30)]
    before = publish_rows(tmp_path / "out", every, selected=[0, 1, 2])
    earlier = before.rename(before.with_name("20250101T000000-abcdef"))
    run = publish_rows(tmp_path / "out", every, selected=[1, 2, 3])
    manifest = replace(
        open_run.read_manifest(str(run)),
        since=earlier.name,
        changes={"scored": RowChanges(0, 0, 30, 0), "selected": RowChanges(1, 1, 2, 2)},
    )
    parsed = require_inert(make.report_again(manifest, str(run)))
    kinds = {each["data-value"] for _, each in parsed.tags if each.get("data-label") == "shown as"}
    assert any("entered" in kind for kind in kinds) and any("left" in kind.split(", ") for kind in kinds)
    assert f"Changes since {earlier.name}" in parsed.text and run.name == RUN
    gone = require_inert(make.report_again(replace(manifest, since="20240101T000000-abcdef"), str(run)))
    assert "Changes since" in gone.text


def test_examples_of_rejected_rows(tmp_path):

    run = publish_rows(tmp_path / "out", [scored(0)], selected=[0])
    bad = [
        {"source": "a", "file": "a.jsonl", "line": line, "raw": f'"<i>{line}</i>"', "reason": reason, "detail": MARKUP}
        for line, reason in enumerate(["too_long"] * 5 + ["malformed_json"])
    ]
    part = write_table(str(run / "rejected" / "part-00000.parquet"), from_rows(bad, REJECTED))
    manifest = open_run.read_manifest(str(run))
    manifest = replace(
        manifest,
        files={**manifest.files, "rejected": [replace(part, path="rejected/part-00000.parquet")]},
        counts=replace(manifest.counts, read=7, rejected={"too_long": 5, "malformed_json": 1}),
    )
    text = require_inert(make.report_again(manifest, str(run))).text
    assert (
        text.index("too_long: 5") < text.index("malformed_json: 1") and text.count("a.jsonl, line") == rows.EXAMPLES + 1
    )
    assert '"<i>2</i>"' in text and '"<i>3</i>"' not in text


def test_the_budget_of_a_run_that_covers_everything(plain):
    whole = replace(plain[1], budget=Budget(100, "tokens", 90, 90), eligible=12)
    assert "nothing was cut" in require_inert(make.report_again(whole, str(plain[2]))).text


def test_a_report_of_its_own_manifest_names_itself():
    listed = ReportFile(open_run.REPORT, 1, "x")
    assert listed.path == "report.html" and listed.problem is None
