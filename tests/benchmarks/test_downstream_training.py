"""Trainings see equal tokens, and exact match by one pass is that of greedy decoding."""

import downstream_training as training
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from operators.prompts.template import load_template
from pipeline import demo
from pipeline.demo import corpus


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30), st.integers(1, 12), st.integers(1, 60), st.integers(0, 9))
def test_batches_hold_equal_tokens_and_every_row_in_turn(lengths, steps, tokens, seed):
    rows = [([place], [0] * (length - 1), 1.0) for place, length in enumerate(lengths)]
    batches = training.equal_batches(rows, steps, tokens, seed)
    assert len(batches) == steps and all(batches)
    total = 0
    for number, batch in enumerate(batches, 1):
        total += sum(len(prompt) + len(target) for prompt, target, _ in batch)
        assert total >= tokens * number
        last = len(batch[-1][0]) + len(batch[-1][1])
        assert total - last < tokens * number or len(batch) == 1
    seen = [row[0][0] for batch in batches for row in batch]
    for start in range(0, len(seen) - len(rows) + 1, len(rows)):
        assert sorted(seen[start : start + len(rows)]) == list(range(len(rows)))


@pytest.mark.ray  # slow
def test_exact_match_is_that_of_greedy_decoding():
    model, tokenizer = training.load(str(demo.MODEL))
    render = load_template("plain").render
    # Specific rows are answered as the scorer would in most cases, mismatched ones in none.
    rows = list(corpus.rows(40, 1, {"specific": 0.6, "mismatched": 0.4}))
    pairs = [(render(row["instruction"], row["input"]), row["output"], 1.0) for row in rows]
    right = 0
    for prompt, target, _ in training.encode(tokenizer, pairs):
        options = {"max_new_tokens": len(target), "do_sample": False, "pad_token_id": tokenizer.eos_token_id}
        right += model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :].tolist() == target
    found = training.evaluate(model, tokenizer, pairs)
    assert 0 < right < len(pairs) and found["exact_match"] == right / len(pairs) and found["loglik"] < 0


@pytest.mark.ray  # slow
def test_weights_of_1_are_the_usual_loss_and_of_0_take_rows_out():
    pytest.importorskip("accelerate")  # of the extra `benchmark`
    fit = {"steps": 3, "tokens": 200, "learning_rate": 1e-3, "seed": 0}
    rows = [("a b", "c d e", 1.0), ("f g h", "i", 1.0)] * 8

    def trained(pairs):
        model, tokenizer = training.load(str(demo.MODEL))
        return training.fine_tune(model, tokenizer, pairs, **fit).lm_head.weight.detach()

    plain = trained(rows)
    doubled = trained([(prompt, target, 2.0) for prompt, target, _ in rows])
    without = trained([(prompt, target, 0.0) for prompt, target, _ in rows])
    start = training.load(str(demo.MODEL))[0].lm_head.weight
    assert not torch.equal(plain, start) and torch.allclose(doubled, plain, atol=1e-3)  # Adam divides the scale out
    assert torch.allclose(without, start, atol=1e-4)  # the decay alone moves it
