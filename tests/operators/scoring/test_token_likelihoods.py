"""Log-probabilities of tokens are the terms of the sums that are stored, and their texts make up the output."""

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, random_model
from hypothesis import given
from hypothesis import strategies as st

from operators.prompts.template import load_template
from operators.prompts.tokenise import Encoder
from operators.scoring.scorer import TargetScorer
from operators.scoring.token_likelihoods import TokenLikelihoods, token_texts

OUTPUTS = ["yes", "日本 text", "a much longer output " * 4]


def plain_logprobs(model, prompt, target):
    """One sequence at a time, by the model's own logits."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *target]])).logits[0].float().log_softmax(-1)
    return np.array([logits[len(prompt) + place - 1, id].item() for place, id in enumerate(target)])


@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_terms_are_those_of_each_sequence_alone_and_add_up_to_the_sums(model, batch_tokens):
    tokenizer = byte_tokenizer(bos=True)
    encoder = Encoder(tokenizer, load_template("plain", tokenizer), True, 512)
    # Prompts that begin alike share work, and pairs of one target come in batches of other orders than theirs.
    prompts = [*encoder.prompts([(f"Say it {number} times.", "an input") for number in range(3)]), [5]]
    targets = [*encoder.targets(OUTPUTS), [7, 8]]
    scorer = TargetScorer(model, batch_tokens)
    terms = scorer.logprobs(prompts, targets)
    for prompt, target, got in zip(prompts, targets, terms, strict=True):
        assert got.shape == (len(target),) and np.abs(got - plain_logprobs(model, prompt, target)).max() <= 1e-4
    assert np.allclose([got.sum() for got in terms], scorer.sums(prompts, targets), atol=1e-4)
    assert scorer.logprobs([], []) == []


def test_a_batch_that_memory_cannot_hold_is_cut(monkeypatch):
    scorer = TargetScorer(random_model("llama"), 4096)
    prompts, targets = [[1, 2, 3 + number] for number in range(6)], [[4, 5, number] for number in range(6)]
    expected, forward = scorer.logprobs(prompts, targets), scorer._forward

    def limited(batch, places, wanted):
        if len(batch.sequences) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(batch, places, wanted)

    monkeypatch.setattr(scorer, "_forward", limited)
    assert np.allclose(scorer.logprobs(prompts, targets), expected, atol=1e-5)


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_texts_of_tokens_make_up_the_text(text):
    tokenizer = byte_tokenizer(bos=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = token_texts(ids, tokenizer)
    assert len(texts) == len(ids) and "".join(texts) == text


def test_the_end_of_a_character_brings_all_of_it():
    tokenizer = byte_tokenizer(bos=False)
    ids = [*tokenizer("aé", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    assert token_texts(ids, tokenizer) == ["a", "", "é", "<eos>"]


def test_terms_are_mean_differences():
    made = TokenLikelihoods([1, 2], ["a", "b"], 0, np.array([-1.0, -2.0]), np.array([[-2.0, -2.0], [-1.0, -5.0]]))
    assert made.differences.tolist() == [[1.0, 0.0], [0.0, 3.0]] and made.terms.tolist() == [0.5, 1.5]
