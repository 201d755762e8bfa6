"""Every family that is run by its own modules over a pack: its likelihoods are those of one sequence at a time."""

import numpy as np
import pytest
import torch
from conftest import random_model
from families import QUIRKS, SMALL, WINDOWED, quirky
from reference import loglik
from transformers import AutoConfig, AutoModelForCausalLM

from operators.scoring import packed_modules
from operators.scoring.model_families import PACKED
from operators.scoring.scorer import TargetScorer


def pairs():
    """Sequences within and past windows, which share beginnings of several lengths."""
    rng = np.random.default_rng(2)
    trunk = rng.integers(3, 260, 140).tolist()
    prompts = [[*trunk[:length], *rng.integers(3, 260, 4).tolist()] for length in (1, 12, 30, 69, 69, 140, 100)]
    return prompts, [rng.integers(3, 260, length).tolist() for length in (5, 1, 9, 3, 20, 40, 7)]


def test_every_family_has_its_quirks():
    assert set(QUIRKS) == PACKED


@pytest.mark.ray  # slow
@pytest.mark.parametrize("family", sorted(PACKED))
def test_a_family_shares_prefixes_and_gives_what_it_gives_one_at_a_time(family, monkeypatch):
    monkeypatch.setattr("operators.scoring.scorer.walkable", lambda model: False)
    model = quirky(family)
    prompts, targets = pairs()
    expected = [loglik(model, prompt, target) for prompt, target in zip(prompts, targets, strict=True)]
    lengths = np.array([len(target) for target in targets])
    scorer = TargetScorer(model, 4096)
    assert scorer.way == "packed"
    for batch_tokens in (1, 150, 4096):
        scorer.batch_tokens, scorer.forwarded_tokens = batch_tokens, 0
        assert (np.abs(scorer.sums(prompts, targets) - expected) / lengths).max() <= 1e-4
    assert scorer.forwarded_tokens < sum(map(len, prompts))  # with targets it would be more
    assert model.get_decoder().config._attn_implementation != packed_modules._NAME
    assert not any("forward" in vars(module) for module in model.modules())


def test_rows_in_a_narrow_type_are_near():
    model = quirky("gpt_oss")
    prompts, targets = pairs()
    expected = np.array([loglik(model, p, t) for p, t in zip(prompts, targets, strict=True)])
    scorer = TargetScorer(model.to(torch.bfloat16), 4096)
    assert scorer.way == "packed"
    assert (np.abs(scorer.sums(prompts, targets) - expected) / [len(target) for target in targets]).mean() < 0.05


def test_attention_that_is_not_what_the_model_has_is_noticed(monkeypatch):
    """Sinks that are left out, as a family might hand them on under another name."""
    attend = packed_modules.attend
    monkeypatch.setattr(packed_modules, "attend", lambda *given: attend(*given[:7]))
    assert TargetScorer(quirky("gpt_oss"), 4096).way == "padded"


def test_a_window_that_only_a_mask_knows_is_noticed():
    torch.manual_seed(5)
    windowed = {**SMALL, **QUIRKS["qwen2_moe"], **WINDOWED, "use_sliding_window": True, "sliding_window": 40}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2_moe", **windowed)).float().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.15)
    assert TargetScorer(model, 4096).way == "padded"
    assert TargetScorer(model, 4096, longest=40).way == "packed"


@pytest.mark.ray  # slow
def test_layers_in_which_tokens_meet_elsewhere_are_left_to_transformers(monkeypatch):
    monkeypatch.setattr(packed_modules, "PACKED", {"jamba"})
    layers = {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 8, "mamba_dt_rank": 4}
    model = quirky("jamba", **layers, use_mamba_kernels=False)
    assert packed_modules.packable(model) and TargetScorer(model, 4096).way == "padded"


def test_layers_whose_states_are_not_carried_are_noticed(monkeypatch):
    model = quirky("qwen3_5_text")
    monkeypatch.setattr(packed_modules, "carrying", lambda decoder: {})
    assert TargetScorer(model, 4096).way == "padded"


def test_a_model_is_left_as_it_was_when_attention_fails(monkeypatch):
    model = random_model("llama")

    def fails(*_):
        raise RuntimeError("no kernel")

    monkeypatch.setattr(packed_modules, "attend", fails)
    monkeypatch.setattr("operators.scoring.scorer.walkable", lambda model: False)
    assert TargetScorer(model, 4096).way == "padded"
    assert model.config._attn_implementation == "sdpa"
