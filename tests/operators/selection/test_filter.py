"""Filters mean what they say, refuse everything else, and reach the user's own columns."""

import json

import numpy as np
import pyarrow as pa
import pytest

from operators.selection import filter

TABLE = pa.table(
    {
        "ppl": [1.0, 5.0, None, 9.0],
        "ifd": [0.5, 1.5, 0.5, 0.2],
        "source": ["a", "b", "a", "c"],
        "rank": pa.array([0, 1, None, 2], pa.int32()),
        "extra": [
            json.dumps(x)
            for x in (
                {"stars": 3, "lang": "en", "mixed": "two"},
                {"stars": 5, "mixed": 2.5},
                {},
                {"lang": "de", "stars": None},
            )
        ],
    }
)
CASES = [
    ("ppl < 6", [1, 1, 0, 0]),
    ("ppl < 6 and ifd < 1", [1, 0, 0, 0]),
    ("not ppl < 6", [0, 0, 0, 1]),
    ("1 <= ppl <= 5", [1, 1, 0, 0]),
    ("source in ['a', 'c']", [1, 0, 1, 1]),
    ("source not in ['a']", [0, 1, 0, 1]),
    ("source == 'b' or rank == 0", [1, 1, 0, 0]),
    ("ppl * 2 + 1 > 10", [0, 1, 0, 1]),
    ("-ifd > -0.3", [0, 0, 0, 1]),
    ("stars >= 3", [1, 1, 0, 0]),
    ("lang == 'de'", [0, 0, 0, 1]),
    ("ppl / ifd > 10", [0, 0, 0, 1]),
    ("source != 'a'", [0, 1, 0, 1]),
    ("mixed > 1", [0, 1, 0, 0]),
    ("mixed == 'two'", [1, 0, 0, 0]),
    ("mixed + 1 > 2", [0, 1, 0, 0]),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_filters(text, expected):
    assert filter.evaluate(filter.parse(text), TABLE).astype(int).tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ppl",
        "5",
        "ppl <",
        "open('x')",
        "ppl.__class__ == 1",
        "ppl < 1; ifd",
        "[x for x in y] == 1",
        "lambda: 1",
        "ppl < None",
        "ppl ** 2 < 4",
        "f'{ppl}' == 'a'",
        "ppl[0] < 1",
        "(" * 400,
    ],
)
def test_refusals(text):
    with pytest.raises(filter.WhereProblem, match="accepted"):
        filter.parse(text)


def test_what_does_not_fit_its_columns():
    with pytest.raises(filter.WhereProblem, match="does not fit"):
        filter.evaluate(filter.parse("source < 3"), TABLE)


def test_columns_to_read():
    assert filter.needed_columns({"ppl", "ifd"}) == ["ppl", "ifd"]
    assert set(filter.needed_columns({"ppl", "stars"})) == {"ppl", "extra"}
    assert filter.needed_columns({"file", "line", "messages"}) == ["file", "line", "messages"]


def test_weighted_scores_are_standardised_and_null_where_a_part_is():
    moments = {"ppl": (5.0, 2.0), "ifd": (0.5, 0.0)}
    got = filter.score_of(TABLE, {"ppl": 2.0, "ifd": 1.0}, moments)
    assert np.allclose(got[[0, 1, 3]], [-4.0, 0.0, 4.0]) and np.isnan(got[2])
