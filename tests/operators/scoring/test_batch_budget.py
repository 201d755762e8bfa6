"""Batches fit into memory: what a token is estimated to take is more than what it takes, and not by much."""

import gc

import pytest
from conftest import random_model
from torch.profiler import ProfilerActivity, profile

from operators.scoring.batch_budget import FAST, batch_tokens, bytes_per_token, tokens_that_fit
from operators.scoring.scorer import TargetScorer


def peak(scorer, tokens):
    """Bytes allocated at once, beyond what was there, in one batch of distinct sequences."""
    length = 64
    prompts = [[(7 * i + j) % 250 for j in range(length - 4)] for i in range(tokens // length)]
    targets = [[1, 2, 3, 4]] * len(prompts)
    gc.collect()  # what earlier tests have left would be freed within the measurement, and taken off
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        scorer.sums(prompts, targets)
    now = most = 0
    for event in found.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@pytest.mark.parametrize("family", ["llama", "qwen", "gemma"])
def test_a_token_takes_less_than_estimated_and_not_much_less(family):
    scorer = TargetScorer(random_model(family), 1 << 20)
    took = (peak(scorer, 16384) - peak(scorer, 8192)) / 8192
    assert took < bytes_per_token(scorer.model) < 6 * took


def test_batches_shrink_with_memory_and_stop_at_what_is_fast():
    model = random_model("llama")
    few = tokens_that_fit(model, (2 << 30) + (1 << 20), FAST["cuda"])
    many = tokens_that_fit(model, 80 << 30, FAST["cuda"])
    assert 1 < few < many == FAST["cuda"]
    assert tokens_that_fit(model, 0, FAST["cuda"]) == 1  # the scorer says that memory ran out, if it does
    assert batch_tokens(model) == FAST["cpu"]
