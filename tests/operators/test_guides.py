"""The guide to choosing stands on measurements: each figure of it is one of the results."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_each_figure_of_the_guide_is_a_result():
    page = (ROOT / "operators" / "README.md").read_text(encoding="utf-8")
    section = page.partition("\n## Choosing\n")[2].partition("\n## ")[0]
    results = (ROOT / "tests" / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    figures = set(re.findall(r"[+-]?\d+\.\d+", section))
    known = {figure.lstrip("+-") for figure in re.findall(r"[+-]?\d+\.\d+", results)}
    signed = set(re.findall(r"[+-]?\d+\.\d+", results))
    assert len(figures) > 30
    assert {each for each in figures if each not in (signed if each[0] in "+-" else known)} == set()
