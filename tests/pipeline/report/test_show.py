"""`tss report --open`, and what becomes of a run whose report fails."""

import webbrowser
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from published_runs import publish_rows, scored_row

from pipeline import cli, finish
from pipeline.report import bundle, make, show
from pipeline.runs import open_run, publish
from pipeline.runs.manifest import opened, sealed, to_plain
from pipeline.runs.summary import summarise
from pipeline.selection.overlap import Overlap

OVERLAP = Overlap(["tss_pp"], [1], [[1.0]])


@pytest.fixture
def seen(monkeypatch):
    urls = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(urls.append(url) or True))
    return urls


def published(folder, *, page=None, problem=None):
    run = publish_rows(
        folder / "out", [scored_row(f"{number}", tss_pp=-number / 9) for number in range(9)], selected=[0]
    )
    manifest = replace(open_run.read_manifest(str(run)), overlap=OVERLAP)
    if page is not None:
        (run / "report.html").write_text(page)
        manifest = replace(manifest, report=publish.listed(page, problem))
    (run / "manifest.json").write_text(sealed(manifest))
    return run


def test_the_page_of_the_run_is_opened(tmp_path, seen, capsys):
    run = published(tmp_path, page="<p>page</p>")
    assert cli.main(["report", str(run), "--open"]) == 0
    assert seen == [(run / "report.html").as_uri()]
    printed = capsys.readouterr().out
    assert f"opened       {run}/report.html" in printed and "budget" in printed
    assert cli.main(["report", str(run)]) == 0 and len(seen) == 1


@pytest.mark.parametrize("how", ["changed", "gone", "none", "failed"])
def test_a_page_is_made_anew_where_there_is_no_good_one(tmp_path, seen, capsys, how):
    run = published(
        tmp_path, page=None if how == "none" else "<p>page</p>", problem="broke" if how == "failed" else None
    )
    if how == "changed":
        (run / "report.html").write_text("<p>pag!</p>")
    if how == "gone":
        (run / "report.html").unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert cli.main(["report", str(run), "--open"]) == 0
    (url,) = seen
    path = Path(url.removeprefix("file://"))
    assert "1 of 9 rows" in path.read_text(encoding="utf-8") and run not in path.parents
    assert "made anew from the rows of the run" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_without_a_browser_the_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    run = published(tmp_path, page="<p>page</p>")
    assert show.show(str(run)) == f"no browser   {run}/report.html"


def test_damaged_rows_are_named(tmp_path, seen, capsys):
    run = published(tmp_path)
    (run / "scored" / "part-00000.parquet").write_bytes(b"PAR1")
    assert cli.main(["report", str(run), "--open"]) == 1
    assert "report" in capsys.readouterr().err and not seen


def test_a_report_that_fails_loses_no_run_and_is_not_hidden(tmp_path, monkeypatch):
    run = published(tmp_path)
    manifest = open_run.read_manifest(str(run))
    lines = []
    job = SimpleNamespace(reporter=SimpleNamespace(say=lines.append))

    def broken(*_):
        raise ZeroDivisionError("a bug of the report")

    monkeypatch.setattr(make, "report_of", broken)
    workspace = SimpleNamespace(output=str(tmp_path / "out"), staged=str(run))
    page, problem = finish._report(job, workspace, manifest, None)
    (log,) = (tmp_path / "out" / "failures").glob("*-report.log")
    assert "ZeroDivisionError: a bug of the report" in log.read_text() and "test_show.py" in log.read_text()
    assert (
        "a bug of the report" in problem
        and str(log) in problem
        and lines[0].startswith(f"report       without figures of rows: {problem}; the run is whole")
    )
    assert "a bug of the report" in page and "1 of 9 rows" in page
    known = replace(manifest, report=publish.listed(page, problem))
    assert f"warning      the report lacks the figures of rows: {problem}" in summarise(known, str(run)).text
    assert opened(sealed(known).encode()).report == known.report
    assert "warning" not in summarise(manifest, str(run)).text and "report" not in to_plain(manifest)


def test_an_interruption_is_no_failure_of_the_report(tmp_path, monkeypatch):
    def told(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(make, "report_of", told)
    with pytest.raises(KeyboardInterrupt):
        finish._report(SimpleNamespace(), SimpleNamespace(output=str(tmp_path), staged=""), None, None)


def test_the_library_of_charts_is_what_its_maker_makes():
    text = bundle.LIBRARY.read_text(encoding="utf-8")
    assert text.startswith("/* Vega ") and "window.vegaEmbed=" in text
    assert "</script" not in text.lower() and "<!--" not in text and "\r" not in text
    assert (bundle.LIBRARY.parent / "vega.LICENSES.txt").read_text().count("Copyright") >= 5
    vl_convert = pytest.importorskip("vl_convert", reason="pip install -e '.[charts]' makes the library again")
    if vl_convert.__version__ in text[:300]:
        assert bundle.bundle() == text
