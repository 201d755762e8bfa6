"""Budgets as people write them."""

import pytest

from operators.selection.budget_words import budget_of


@pytest.mark.parametrize(
    ("written", "budget"),
    [
        ("10%", {"token_fraction": 0.1}),
        ("0.5 %", {"token_fraction": 0.005}),
        ("7% of tokens", {"token_fraction": 0.07}),
        ("10% of rows", {"example_fraction": 0.1}),
        ("100% of the examples", {"example_fraction": 1.0}),
        (0.1, {"token_fraction": 0.1}),
        ("0.1", {"token_fraction": 0.1}),
        (20000, {"tokens": 20000}),
        ("20,000", {"tokens": 20000}),
        ("2k", {"tokens": 2000}),
        ("1.5M tokens", {"tokens": 1_500_000}),
        ("500 rows", {"examples": 500}),
        ("1 example", {"examples": 1}),
        ({"tokens": "2k"}, {"tokens": 2000}),
        ({"token_fraction": "10%"}, {"token_fraction": 0.1}),
        ({"examples": 3}, {"examples": 3}),
    ],
)
def test_forms_are_understood(written, budget):
    assert budget_of(written) == budget


@pytest.mark.parametrize(
    "written",
    [1, "1", True, None, [], "much", "10 %%", "-5", "1e3", "2k%", "nan", "9" * 50, {"tokens": "5%"}, {"tokens": None}],
)
def test_others_are_answered_with_the_forms(written):
    with pytest.raises(ValueError, match=r"accepted: 10% or 0.1 .*20k .*500 rows"):
        budget_of(written)


@pytest.mark.parametrize("asked", [33, "33", 2, "100", 5.0])
def test_a_number_that_may_be_percent_is_refused_with_both_readings(asked):
    number = f"{float(asked):g}"
    with pytest.raises(
        ValueError, match=rf"{number} may be tokens or percent; accepted: {number}%, '{number} tokens', or "
    ):
        budget_of(asked)
    assert budget_of(f"{number}%") == {"token_fraction": float(asked) / 100}
    assert budget_of(f"{number} tokens") == budget_of({"tokens": float(asked)}) == {"tokens": float(asked)}
