"""Reasons for rejecting a row are those of one table, which the documentation shows."""

import re
from pathlib import Path

import pytest

from operators.rejections import PASSING, REASONS, Rejection

ROOT = Path(__file__).resolve().parents[2]


def test_a_rejection_has_a_reason_of_the_table():
    assert Rejection("too_long", "9 tokens").reason == "too_long"
    with pytest.raises(ValueError, match="'too_short' is no reason"):
        Rejection("too_short", "")


def test_the_documentation_has_each_reason():
    page = (ROOT / "pipeline" / "README.md").read_text(encoding="utf-8")
    section = page.partition("### Rejected rows")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    named = {name for line in rows for name in re.findall(r"`([a-z0-9_]+)`", line.split("|")[1])}
    assert PASSING < set(REASONS) == named
