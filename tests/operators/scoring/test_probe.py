"""A model that looks ahead is no scorer; a way of running one is tried where it may go wrong: past blocks, windows, lengths."""

import copy

import numpy as np
import pytest
import torch
from conftest import random_model
from reference import loglik
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForCausalLM,
)

from operators.model_files import ModelProblem
from operators.scoring import probe
from operators.scoring.probe import Trial
from operators.scoring.scorer import TargetScorer

SMALL = {
    "vocab_size": 260,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": None,
}


def sharp(model):
    """The model with random weights under which distributions are far from flat."""
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.15)
    return model.eval()


def roberta(*, is_decoder):
    size = {key: value for key, value in SMALL.items() if key not in ("num_key_value_heads", "pad_token_id")}
    return sharp(RobertaForCausalLM(RobertaConfig(**size, is_decoder=is_decoder)))


def bidirectional_gemma():
    return sharp(
        Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, head_dim=12, sliding_window=16, use_bidirectional_attention=True))
    )


@pytest.mark.parametrize("model", [lambda: roberta(is_decoder=False), bidirectional_gemma], ids=["roberta", "gemma"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_sees_what_follows_is_no_scorer(model, dtype):
    with pytest.raises(ModelProblem, match=r"scorer\.model: .*the model is not causal: among 12 tokens"):
        TargetScorer(model().to(dtype), 4096)


def test_an_encoder_that_is_made_a_decoder_is_one():
    model = roberta(is_decoder=True)
    prompts, targets = [[5, 6, 7, 8], [9]], [[10, 11], [12] * 9]
    expected = [loglik(model, p, t) for p, t in zip(prompts, targets, strict=True)]
    assert np.allclose(TargetScorer(model, 4096).sums(prompts, targets), expected, atol=1e-4)


class Changed(torch.nn.Module):
    """A model whose logits `change` changes; it is given the token ids too."""

    def __init__(self, model, change):
        super().__init__()
        self.inner, self.config, self.change = model, model.config, change

    def get_decoder(self):
        return self

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    @property
    def dtype(self):
        return self.inner.dtype

    def forward(self, input_ids, **kwargs):
        result = self.inner(input_ids=input_ids, **kwargs)
        result.logits = self.change(result.logits, input_ids)
        return result


def ahead_past(position):
    """Where a sequence is longer, logits depend on its last token."""

    def change(logits, ids):
        if ids.shape[1] <= position:
            return logits
        return logits + logits[:, -1:] * 0.3

    return change


@pytest.mark.parametrize(("past", "length"), [(128, 136), (220, 244)])
def test_a_model_that_looks_ahead_in_long_sequences_alone_is_no_scorer(past, length):
    model = Changed(random_model("llama"), ahead_past(past))
    model.config.sliding_window = 220
    with pytest.raises(ModelProblem, match=f"not causal: among {length} tokens"):
        TargetScorer(model, 4096)
    if past > 128:  # what no sequence of the run reaches is not tried
        TargetScorer(model, 4096, longest=past)


def test_a_model_that_batches_change_is_run_one_sequence_at_a_time():
    model = Changed(random_model("llama"), lambda logits, ids: logits * (1 + len(ids)) / 2)
    scorer = TargetScorer(model, 4096)
    assert scorer.way == "alone"
    prompts, targets = [[1, 2, 3], [9], [4, 4]], [[4, 5], [6, 7, 8], [5, 6]]
    expected = [loglik(model, p, t) for p, t in zip(prompts, targets, strict=True)]
    assert np.allclose(scorer.sums(prompts, targets), expected, atol=1e-4)


def test_a_model_that_gives_no_number_for_some_tokens_is_one_for_the_others():
    model = random_model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[3] = torch.nan  # among those of the trials
    scorer = TargetScorer(model, 4096)
    got = scorer.sums([[1, 2], [3, 4]], [[5, 6], [7]])
    assert got[0] == pytest.approx(loglik(model, [1, 2], [5, 6]), abs=1e-4) and np.isnan(got[1])


def test_a_model_without_a_fixed_answer_is_no_scorer():
    with pytest.raises(ModelProblem):
        TargetScorer(Changed(random_model("llama"), lambda logits, ids: logits + torch.randn_like(logits)), 4096)


def pairs(lengths):
    """Prompts and targets of sequences of so many tokens, which begin alike."""
    rng = np.random.default_rng(3)
    trunk = rng.integers(0, 260, max(lengths)).tolist()
    prompts = [[*trunk[: length - 9], number] for number, length in enumerate(lengths)]
    return prompts, [rng.integers(0, 260, 8).tolist() for _ in lengths]


WINDOWED = {
    "a llama with a key that it does not read": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, sliding_window=64)),
    "a qwen that does not use its window": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SMALL, sliding_window=64, use_sliding_window=False)
    ),
    "a qwen with a window in its last layer": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SMALL, sliding_window=64, use_sliding_window=True, max_window_layers=1)
    ),
    "a mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=64)),
}


@pytest.mark.parametrize("name", WINDOWED)
def test_windows_are_those_of_the_layers(name):
    model = sharp(WINDOWED[name]())
    scorer = TargetScorer(model, 4096)
    prompts, targets = pairs([200, 150, 70, 40])
    expected = [loglik(model, p, t) for p, t in zip(prompts, targets, strict=True)]
    assert scorer.way == "walked"
    assert np.abs(scorer.sums(prompts, targets) - expected).max() / 8 <= 1e-4


def test_a_walk_with_a_wrong_window_is_noticed_where_it_matters(monkeypatch):
    """No sequence within the window shows it."""
    monkeypatch.setattr("operators.scoring.decoder.window_of", lambda layer, config: 100)
    model = sharp(LlamaForCausalLM(LlamaConfig(**SMALL, sliding_window=100)))
    assert TargetScorer(model, 4096).way == "packed"
    assert TargetScorer(model, 4096, longest=100).way == "walked"


def dynamic():
    size = {**SMALL, "max_position_embeddings": 60}
    return LlamaForCausalLM(
        LlamaConfig(**size, rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4})
    )


def longrope():
    factors = {"short_factor": [1.0] * 6, "long_factor": [3.0] * 6}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 60, **factors}
    return Phi3ForCausalLM(Phi3Config(**SMALL, original_max_position_embeddings=60, rope_parameters=rope))


@pytest.mark.parametrize("kind", [dynamic, longrope])
@pytest.mark.parametrize("way", ["padded", "whole"])
def test_no_sequence_changes_the_rotations_of_another(kind, way, monkeypatch):
    monkeypatch.setattr("operators.scoring.scorer.tiled", lambda model: way == "padded")
    model = sharp(kind())
    prompts, targets = pairs([100, 99, 62, 61, 60, 59, 40, 20, 100, 40])
    # A model for each: what it has seen before may count.
    expected = [loglik(copy.deepcopy(model), p, t) for p, t in zip(prompts, targets, strict=True)]
    scorer = TargetScorer(model, 4096)
    assert scorer.way == way
    for order in (np.arange(10), np.arange(10)[::-1]):
        got = scorer.sums([prompts[i] for i in order], [targets[i] for i in order])
        assert np.abs(got - np.array(expected)[order]).max() / 8 <= 1e-4


def large_gemma():
    """A Gemma 3 whose activations are large, as those of real ones are."""
    model = sharp(
        Gemma3ForCausalLM(Gemma3TextConfig(**{**SMALL, "num_hidden_layers": 6}, head_dim=12, sliding_window=64))
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.normal_(3, 1)
    return model


def test_a_narrow_type_is_judged_by_what_it_costs_the_model_itself():
    """The walk is taken, and errs no further from float32 than the model run one sequence at a time."""
    exact, model = large_gemma(), large_gemma().to(torch.bfloat16)
    prompts, targets = pairs([120, 90, 70, 40, 33, 20, 14, 12])
    expected = np.array([loglik(exact, p, t) for p, t in zip(prompts, targets, strict=True)])
    plain = np.array([loglik(model, p, t) for p, t in zip(prompts, targets, strict=True)])
    scorer = TargetScorer(model, 4096)
    error, own = (np.abs(sums - expected).mean() for sums in (scorer.sums(prompts, targets), plain))
    assert scorer.way == "walked"
    assert error <= 1.5 * own


def test_a_wrong_window_is_noticed_in_a_narrow_type(monkeypatch):
    monkeypatch.setattr("operators.scoring.decoder.window_of", lambda layer, config: 40)
    model = sharp(LlamaForCausalLM(LlamaConfig(**SMALL, sliding_window=40))).to(torch.bfloat16)
    assert TargetScorer(model, 4096).way == "packed"


def test_each_trial_counts_by_itself_too():
    """An error in the longest sequences alone is no average over the others."""
    trials = [Trial([[1]], [[2] * 10], np.array([-20.0])), Trial([[1]], [[2, 3]], np.array([-4.0]))]
    near, far = np.array([-4.1]), np.array([-4.5])
    assert probe.agree([(trials[0], np.array([-20.1])), (trials[1], near)], torch.bfloat16)
    assert not probe.agree([(trials[0], np.array([-20.0])), (trials[1], far)], torch.bfloat16)


def test_a_quantised_model_has_no_float32_to_be_judged_by():
    model = random_model("llama").to(torch.bfloat16)
    assert probe.has_room(model)
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.data = weight.data.to(torch.float8_e4m3fn)
    assert not probe.has_room(model)
    model = random_model("llama")
    model.is_quantized = True
    assert not probe.has_room(model)


def test_a_model_is_as_it_was_after_float32():
    model = large_gemma().to(torch.bfloat16)
    model.register_buffer("scale", torch.tensor([0.1], dtype=torch.bfloat16))
    before = dict([*model.named_parameters(), *model.named_buffers()])
    kept = {name: (tensor.dtype, tensor.clone()) for name, tensor in before.items()}
    with pytest.raises(RuntimeError, match="in the middle"), probe.in_float32(model):
        assert {tensor.dtype for tensor in before.values() if tensor.is_floating_point()} == {torch.float32}
        raise RuntimeError("in the middle")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor is before[name] and tensor.dtype == kept[name][0] and torch.equal(tensor, kept[name][1])
