"""Batched log-likelihoods equal the one-at-a-time twin, whatever the batch, the family, BOS or the template."""

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, random_model
from hypothesis import given
from hypothesis import strategies as st
from reference import loglik

from operators.prompts.template import load_template
from operators.prompts.tokenise import Encoder, empty_context
from operators.scoring.scorer import TargetScorer

TEXTS = [
    ("Say it.", "yes"),
    ("Write the words backwards, please.", "b a"),
    ("Ünï cødé", "日本 text"),
    ("x", "a much longer output " * 4),
]


def means(sums, targets):
    return np.array(sums) / np.array([len(target) for target in targets])


@pytest.mark.ray  # slow
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("template", ["plain", "alpaca", "chat"])
def test_equals_the_twin(model, bos, template):
    tokenizer = byte_tokenizer(bos=bos)
    encoder = Encoder(tokenizer, load_template(template, tokenizer), True, 512)
    prompts = [*encoder.prompts([(instruction, "an input") for instruction, _ in TEXTS]), empty_context(tokenizer)]
    targets = [*encoder.targets([output for _, output in TEXTS]), encoder.targets(["alone"])[0]]
    expected = [loglik(model, prompt, target) for prompt, target in zip(prompts, targets, strict=True)]
    for batch_tokens in (1, 300, 4096):
        got = TargetScorer(model, batch_tokens).sums(prompts, targets)
        assert np.abs(means(got, targets) - means(expected, targets)).max() <= 1e-4


@pytest.mark.ray  # slow
@given(
    lengths=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=12),
    batch_tokens=st.integers(1, 2000),
)
def test_any_lengths_in_any_batch(lengths, batch_tokens):
    model = _MODELS["gemma"]
    rng = np.random.default_rng(len(lengths))
    prompts = [rng.integers(0, 260, p).tolist() for p, _ in lengths]
    targets = [rng.integers(0, 260, t).tolist() for _, t in lengths]
    got = TargetScorer(model, batch_tokens).sums(prompts, targets)
    expected = [loglik(model, prompt, target) for prompt, target in zip(prompts, targets, strict=True)]
    assert np.abs(means(got, targets) - means(expected, targets)).max() <= 1e-4


@pytest.mark.ray  # slow
@given(
    lengths=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=12),
    batch_tokens=st.integers(1, 300),
    share=st.integers(0, 4),
)
def test_finished_batches_are_passed_over_and_the_others_are_the_same_to_the_last_bit(lengths, batch_tokens, share):
    model, rng = _MODELS["llama"], np.random.default_rng(len(lengths))
    prompts = [rng.integers(0, 260, p).tolist() for p, _ in lengths]
    targets = [rng.integers(0, 260, t).tolist() for _, t in lengths]
    batches = []
    whole = TargetScorer(model, batch_tokens).sums(
        prompts, targets, keep=lambda rows, sums: batches.append((rows, sums)), every=0
    )
    assert sorted(np.concatenate([rows for rows, _ in batches]).tolist()) == list(range(len(prompts)))
    finished, left = np.full(len(prompts), np.nan), []
    for number, (rows, sums) in enumerate(batches):
        assert np.array_equal(sums, whole[rows])
        if number % 5 < share:
            finished[rows] = sums
        else:
            left += rows.tolist()
    computed = []
    again = TargetScorer(model, batch_tokens).sums(
        prompts, targets, finished=finished, keep=lambda rows, sums: computed.extend(rows.tolist())
    )
    assert np.array_equal(again, whole) and sorted(computed) == sorted(left)


def test_known_families_share_prefixes(model):
    scorer = TargetScorer(model, 4096)
    assert scorer.way == "walked"
    prompts, targets = [[*range(40), last] for last in (1, 2, 3)], [[4, 5], [6], [7, 8, 9]]
    got = scorer.sums(prompts, targets)
    assert np.allclose(got, [loglik(model, p, t) for p, t in zip(prompts, targets, strict=True)], atol=1e-4)
    # 40 shared, then each its own end; the last token of a sequence is never needed.
    assert scorer.forwarded_tokens == 40 + 3 + (1 + 0 + 2)


@pytest.mark.parametrize("way", ["padded", "whole"])
def test_other_ways_give_the_same(model, way, monkeypatch):
    monkeypatch.setattr("operators.scoring.scorer.walkable", lambda model: False)
    monkeypatch.setattr("operators.scoring.scorer.packable", lambda model: False)
    monkeypatch.setattr("operators.scoring.scorer.tiled", lambda model: way == "padded")
    scorer = TargetScorer(model, 100)
    assert scorer.way == way
    prompts, targets = [[1, 2, 3], [9], [1, 2, 3, 4] * 8], [[4, 5], [6, 7, 8], [5] * 20]
    expected = [loglik(model, p, t) for p, t in zip(prompts, targets, strict=True)]
    assert np.allclose(scorer.sums(prompts, targets), expected, atol=1e-4)


class OtherLayer(torch.nn.Module):
    """A layer that does what no walk expects."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def __getattr__(self, name):
        return super().__getattr__(name) if name in ("layer", "_modules") else getattr(self.layer, name)

    def forward(self, hidden, **kwargs):
        return self.layer(hidden, **kwargs) * 1.5


def test_a_layer_that_does_more_is_noticed():
    model = random_model("llama")
    model.model.layers[0] = OtherLayer(model.model.layers[0])
    scorer = TargetScorer(model, 4096)
    assert scorer.way == "packed"
    assert np.allclose(scorer.sums([[1, 2, 3]], [[4, 5]]), [loglik(model, [1, 2, 3], [4, 5])], atol=1e-4)


class Product(torch.nn.Linear):
    """A matrix product that is not what its weight says, as in a quantised model."""

    def forward(self, x):
        return 2 * super().forward(x)


def test_products_that_are_not_plain_are_left_to_transformers():
    model = random_model("qwen")
    for layer in model.model.layers:
        layer.mlp.up_proj.__class__ = Product
    scorer = TargetScorer(model, 4096)
    assert scorer.way == "packed"
    assert np.allclose(scorer.sums([[1, 2, 3]], [[4, 5]]), [loglik(model, [1, 2, 3], [4, 5])], atol=1e-4)


def test_bfloat16_is_near():
    model = random_model("llama")
    prompts, targets = [[*range(30), last] for last in (1, 2, 3)], [[4, 5] * 5, [6] * 7, [7, 8, 9]]
    expected = np.array([loglik(model, p, t) for p, t in zip(prompts, targets, strict=True)])
    scorer = TargetScorer(model.to(torch.bfloat16), 4096)
    assert scorer.way == "walked"
    assert (np.abs(scorer.sums(prompts, targets) - expected) / [10, 7, 3]).max() < 0.05


class OutOfMemoryAbove(torch.nn.Module):
    """The decoder of a model on a machine whose memory ends at so many tokens."""

    def __init__(self, decoder, tokens):
        super().__init__()
        self.decoder, self.tokens, self.largest = decoder, tokens, 0

    def forward(self, input_ids, **kwargs):
        if input_ids.numel() > self.tokens:
            raise torch.OutOfMemoryError("out of memory")
        self.largest = max(self.largest, input_ids.numel())
        return self.decoder(input_ids=input_ids, **kwargs)


def whole_scorer(monkeypatch):
    """A scorer that runs its model whole, and the model."""
    monkeypatch.setattr("operators.scoring.scorer.tiled", lambda model: False)
    model = random_model("llama")
    scorer = TargetScorer(model, 4096)
    assert scorer.way == "whole"
    return scorer, model


def test_out_of_memory_halves_the_batch_and_goes_on(monkeypatch):
    prompts, targets = [[1, 2, 3]] * 16, [[4, 5]] * 16
    expected = TargetScorer(random_model("llama"), 4096).sums(prompts, targets)
    scorer, model = whole_scorer(monkeypatch)
    model.model = OutOfMemoryAbove(model.model, 20)
    assert np.allclose(scorer.sums(prompts, targets), expected, atol=1e-4)
    assert scorer.batch_tokens < 4096 and model.model.largest <= 20


def test_out_of_memory_on_a_single_sequence_is_raised(monkeypatch):
    scorer, model = whole_scorer(monkeypatch)
    model.model = OutOfMemoryAbove(model.model, 3)
    with pytest.raises(torch.OutOfMemoryError):
        scorer.sums([[1, 2, 3]], [[4, 5]])


class OwnHead(torch.nn.Module):
    """An output step that no configuration key tells of: the split must be noticed and the model run whole."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config

    def get_decoder(self):
        return self.inner.get_decoder()

    def get_output_embeddings(self):
        return self.inner.get_output_embeddings()

    @property
    def dtype(self):
        return torch.float32

    def forward(self, input_ids, **kwargs):
        result = self.inner(input_ids=input_ids, **kwargs)
        result.logits = result.logits * 0.5 + torch.arange(260) / 100
        return result


def test_an_unknown_output_step_is_respected():
    model = OwnHead(_MODELS["llama"])
    prompts, targets = [[1, 2, 3], [9]], [[4, 5], [6, 7, 8]]
    got = TargetScorer(model, 4096).sums(prompts, targets)
    assert np.allclose(got, [loglik(model, p, t) for p, t in zip(prompts, targets, strict=True)], atol=1e-4)


_MODELS = {family: random_model(family) for family in ("llama", "gemma")}
