"""What a scorer costs is read off its configuration."""

import pytest
import torch
from transformers import LlamaConfig, MixtralConfig

from operators.scoring.batch_budget import bytes_per_token
from operators.scoring.outline import outline_of

SHAPE = {
    "vocab_size": 260,
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_parameters_are_those_of_the_loaded_model(model):
    outline = outline_of(model.config)
    assert outline.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert outline.token_bytes == bytes_per_token(model.to(torch.float32))
    assert outline.packed


@pytest.mark.parametrize("tied", [True, False])
def test_a_table_that_is_only_looked_up_is_no_work(tied):
    outline = outline_of(LlamaConfig(**SHAPE, tie_word_embeddings=tied))
    assert outline.parameters - outline.working == (0 if tied else 260 * 48)


def test_experts_that_a_token_does_not_go_to_are_no_work():
    outline = outline_of(MixtralConfig(**SHAPE, num_local_experts=4, num_experts_per_tok=1, tie_word_embeddings=True))
    experts = 2 * 4 * 3 * 48 * 96
    assert outline.parameters - outline.working == experts * 3 // 4
    assert outline.packed
