"""Batches fit into memory: what a token is estimated to take is more than what it takes, and not by much."""

import gc

import pytest
from conftest import random_model
from families import QUIRKS, SMALL, quirky
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig

from operators.scoring.batch_budget import FAST, batch_tokens, bytes_per_token, tokens_that_fit
from operators.scoring.model_families import WITH_STATE
from operators.scoring.models import empty_model
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


@pytest.mark.ray  # slow
@pytest.mark.parametrize("family", ["llama", "qwen", "gemma"])
def test_a_token_takes_less_than_estimated_and_not_much_less(family):
    scorer = TargetScorer(random_model(family), 1 << 20)
    took = (peak(scorer, 16384) - peak(scorer, 8192)) / 8192
    assert took < bytes_per_token(scorer.model) < 6 * took


@pytest.mark.ray  # slow
@pytest.mark.parametrize("family", ["gemma2", "gemma3n_text", "gemma4_text", "gpt_oss", "mixtral", "qwen2_moe", "phi"])
def test_so_it_does_in_families_with_layers_experts_and_residuals_of_their_own(family):
    scorer = TargetScorer(quirky(family), 1 << 20)
    took = (peak(scorer, 8192) - peak(scorer, 4096)) / 4096
    assert scorer.way == "packed"
    assert took < bytes_per_token(scorer.model) < 6 * took


@pytest.mark.ray  # slow
@pytest.mark.parametrize("family", sorted(WITH_STATE))
def test_layers_with_a_state_take_less_than_estimated_whatever_the_way(family, monkeypatch):
    model = quirky(family)
    packed = TargetScorer(model, 1 << 20)
    monkeypatch.setattr("operators.scoring.scorer.packable", lambda model: False)
    padded = TargetScorer(model, 1 << 20)  # a pack has few of its segments at once in such a layer
    took = max((peak(scorer, 8192) - peak(scorer, 4096)) / 4096 for scorer in (packed, padded))
    assert took < bytes_per_token(model) < 6 * took


@pytest.mark.parametrize("family", sorted(QUIRKS))
def test_every_family_has_an_estimate(family):
    model = empty_model(AutoConfig.for_model(family, **{**SMALL, **QUIRKS[family]}))
    assert 1000 < bytes_per_token(model) < 30000


def test_batches_shrink_with_memory_and_stop_at_what_is_fast():
    model = random_model("llama")
    few = tokens_that_fit(model, (2 << 30) + (1 << 20), FAST["cuda"])
    many = tokens_that_fit(model, 80 << 30, FAST["cuda"])
    assert 1 < few < many == FAST["cuda"]
    assert tokens_that_fit(model, 0, FAST["cuda"]) == 1  # the scorer says that memory ran out, if it does
    assert batch_tokens(model) == FAST["cpu"]
