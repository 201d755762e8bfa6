"""What scoring.py makes of the sums of its sides: scores of rows, differences between sides, ratios."""

import numpy as np
import pytest
import reference
import scoring

SAMPLE = {
    "calls": [
        {"prompts": [[1], [1, 2], [1, 3]], "targets": [[4, 5], [4, 5], [4, 5]]},
        {"prompts": [[7]], "targets": [[8]]},
    ],
    # Places of s(0), s(I) and alternatives; the third row has none.
    "rows": [[0, 1, 2], [0, 2, 1], [3, 3]],
}


def test_scores_are_those_of_rows_with_alternatives():
    means = np.array([-3.0, -1.0, -2.0, -1.5])
    asked = {"hardest": 4, "tau": 0.5, "alpha": 0.1}
    expected = [reference.tss_pp(-1.0, [-2.0], **asked), reference.tss_pp(-2.0, [-1.0], **asked)]
    assert scoring.scores(SAMPLE, means) == pytest.approx(expected)


def test_float32_sides_must_agree_and_narrow_ones_are_measured():
    sums = {
        "ours": [-6.0, -2.0, -4.0, -1.5],
        "ours-bf16": [-6.1, -2.0, -4.0, -1.5],
        "vllm": [-6.0, -2.00001, -4.0, -1.5],
    }
    found = scoring.compare(SAMPLE, sums)
    assert found["ours-bf16"]["largest_difference"] == pytest.approx(0.05)
    assert found["ours-bf16"]["spearman_tss_pp"] == pytest.approx(1.0)
    assert found["vllm"]["largest_difference"] == pytest.approx(5e-6)
    with pytest.raises(SystemExit, match="vllm and ours disagree"):
        scoring.compare(SAMPLE, {**sums, "vllm": [-6.0, -2.1, -4.0, -1.5]})


def test_ratios_are_to_the_side_that_is_asked():
    lines = [
        {"side": "ours", "pairs_s": 30.0, "tokens_s": 300.0, "seconds": [1.0, 2.0]},
        {"side": "vllm", "pairs_s": 10.0, "tokens_s": 100.0, "seconds": [4.0, 4.0]},
    ]
    scoring.add_ratios(lines, "vllm")
    assert lines[0]["ratio"] == 3.0
    assert lines[0]["ratio_range"] == [2.0, 4.0]
