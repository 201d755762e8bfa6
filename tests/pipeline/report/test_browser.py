"""The page of a run in a headless Chromium: it opens without a word on the console, draws, searches, filters and sorts."""

import random

import pytest
from browser import CHROMIUM, Browser
from report_pages import HOSTILE, made, scored

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
ROWS = "[...document.querySelectorAll('#table tbody tr')].filter(row => !row.hidden)"
COLUMN = ROWS + ".map(row => row.cells[%d].dataset.value)"
SEARCH = """(text => {
  const search = document.getElementById('search');
  search.value = text;
  search.dispatchEvent(new Event('input'));
})(%r)"""


@pytest.fixture(scope="module")
def browser():
    started = Browser()
    yield started
    started.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with every kind of section, whose texts are hostile."""
    folder = tmp_path_factory.mktemp("browser")
    rng = random.Random(0)
    every = [
        scored(number, source=HOSTILE[number % len(HOSTILE)], instruction=f"Do {number}. {HOSTILE[number % len(HOSTILE)]}",
               extra={"task": HOSTILE[number % 3]}, tss=rng.gauss(0, 5))
        for number in range(80)
    ]  # fmt: skip
    text, _, _ = made(folder, every, list(range(20)), columns=["task"], select={"temperature": 0})
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("width", [390, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_and_draws_at_any_width(browser, page, tmp_path, width, scheme):
    browser.problems.clear()
    browser.asked.clear()
    browser.open(page, width, scheme=scheme)
    assert browser.draw_all() == 8
    assert browser.ask("document.documentElement.scrollWidth") <= width
    assert browser.problems == [] and browser.asked == [page.resolve().as_uri()]
    assert browser.ask("document.querySelectorAll('script').length") == 3
    assert browser.ask("document.querySelectorAll('img, svg[onload], b').length") == 0
    browser.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"


def test_charts_are_drawn_as_they_come_into_view(browser, page):
    browser.open(page)
    browser.until("document.querySelector('[data-chart=distribution-tss] svg')")
    assert browser.ask("document.querySelectorAll('[data-chart=by-rank] svg').length") == 0
    browser.ask("document.getElementById('cut').scrollIntoView({behavior: 'instant'})")
    browser.until("document.querySelector('[data-chart=by-rank] svg')")


def test_rows_are_searched_and_filtered(browser, page):
    browser.open(page)
    whole = len(browser.ask(COLUMN % 0))
    assert whole > 50 and browser.ask("document.getElementById('count').value") == f"{whole} of {whole} rows"
    browser.ask(SEARCH % "DO 79.")
    assert len(browser.ask(COLUMN % 0)) == 1
    browser.ask(SEARCH % "<script>alert(1)</script> javascript")
    assert browser.ask(COLUMN % 0) == []
    browser.ask(SEARCH % "")
    browser.ask(
        "(kind => { kind.value = 'worst'; kind.dispatchEvent(new Event('change')); })(document.getElementById('kind'))"
    )
    kinds = browser.ask(COLUMN % 0)
    assert len(kinds) == 25 and all("worst" in kind.split(", ") for kind in kinds)


@pytest.mark.parametrize("column", [1, 2, 3, 4])
def test_rows_are_sorted_by_number(browser, page, column):
    browser.open(page)
    click = f"document.querySelectorAll('#table th')[{column}].querySelector('button').click()"
    for turn in ("ascending", "descending"):
        browser.ask(click)
        assert browser.ask(f"document.querySelectorAll('#table th')[{column}].getAttribute('aria-sort')") == turn
        values = browser.ask(COLUMN % column)
        numbers = [float(value) for value in values if value]
        assert numbers == sorted(numbers, reverse=turn == "descending") and len(set(numbers)) > 3
        assert not any(values[len(numbers) :])  # what has no value comes last


def test_a_row_opens_to_its_alternatives(browser, page):
    browser.open(page)
    browser.ask("document.querySelector('#table summary').click()")
    assert browser.ask("document.querySelector('#table details').open")
    bars = browser.ask("[...document.querySelectorAll('#table details[open] .fill')].map(bar => bar.offsetWidth)")
    assert len(bars) == 5 and bars[0] == max(bars) > 20 and min(bars) < bars[0] / 2
    browser.ask("document.getElementById('open').click()")
    assert browser.ask("document.querySelectorAll('#table details[open]').length") == len(browser.ask(COLUMN % 0))
