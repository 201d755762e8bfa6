"""How large the report of a run is, what it takes to make, and how long a headless Chromium takes to open it.

    PYTHONPATH=tests:. python tests/benchmarks/report_opening.py --rows 10000 1000000

Rows are made up, with texts of some 300 characters and eight alternatives each. Opening is timed from the request for the file
to the end of its loading and of two frames after it, in a new browser each time; the charts that are out of sight are drawn
after that, when they are scrolled to, and are timed apart.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import tempfile
import time
from pathlib import Path

from browser import Browser
from published_runs import publish_rows, scored_row

from pipeline.report import make
from pipeline.runs import open_run

DISTINCT = 10_000  # rows that are made; larger runs hold them again and again
_PAINTED = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"


def row(number: int, rng: random.Random) -> dict:
    """A scored row of words and numbers that differ."""
    words = [f"{rng.choice('bdfgklmnprst')}{rng.choice('aeiou')}{rng.choice('lmnrst')}" for _ in range(60)]
    own, empty = rng.uniform(-3, -0.2), rng.uniform(-5, -2)
    others = [
        {
            "instruction": " ".join(words[k : k + 8]),
            "origin": "retrieved",
            "similarity": 0.5,
            "loglik_mean": own - rng.expovariate(1),
        }
        for k in range(8)
    ]
    score = rng.gauss(-0.5, 0.4)
    return scored_row(
        id=f"{number:032x}",
        source=f"source {number % 7}",
        instruction=" ".join(words[:15]),
        input=" ".join(words[15:30]),
        output=" ".join(words[30:]),
        n_prompt_tokens=40,
        n_target_tokens=30,
        loglik_mean=own,
        loglik_empty_mean=empty,
        alternatives=others,
        n_alternatives=8,
        tss=score * 30,
        tss_pp=score,
        ppl=2.718281828**-own,
        ifd=2.718281828 ** (empty - own),
    )


def opened(path: Path) -> tuple[float, float]:
    """Seconds until the page is there, and until all charts are drawn; raises RuntimeError where its console complains."""
    browser = Browser()
    try:
        began = time.monotonic()
        browser.open(path)
        browser.ask(_PAINTED)
        there = time.monotonic() - began
        browser.draw_all()
        drawn = time.monotonic() - began
        if browser.problems:
            raise RuntimeError(f"the console says {browser.problems}")
        return there, drawn
    finally:
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    rng = random.Random(0)
    distinct = [row(number, rng) for number in range(DISTINCT)]
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            every = [distinct[number % DISTINCT] for number in range(rows)]
            run = publish_rows(Path(folder), every, selected=range(0, rows, 10), part_rows=50_000)
            began, cores = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
            page = make.report_again(open_run.read_manifest(str(run)), str(run))
            made, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
            path = Path(folder) / "report.html"
            path.write_text(page, encoding="utf-8")
            there, drawn = zip(*[opened(path) for _ in range(options.times)], strict=True)
            spent = after.ru_utime + after.ru_stime - cores.ru_utime - cores.ru_stime
            print(
                f"{rows:,} rows: {path.stat().st_size / 1e6:.2f} MB, made in {made:.1f} s ({spent:.1f} s of cores here)"
            )
            print(
                f"  opens in {statistics.median(there):.2f} s (at most {max(there):.2f}), all charts drawn after",
                end=" ",
            )
            print(f"{statistics.median(drawn):.2f} s", flush=True)


if __name__ == "__main__":
    main()
