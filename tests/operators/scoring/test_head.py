"""Log-probabilities by tiles of the vocabulary equal a log-softmax over all of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from operators.scoring import head


@given(st.integers(0, 40), st.integers(1, 700), st.booleans(), st.integers(1, 64), st.integers(1, 9))
def test_equals_log_softmax(positions, vocabulary, bias, kilobytes, rows):
    torch.manual_seed(0)
    matrix = torch.nn.Linear(6, vocabulary, bias=bias).requires_grad_(False)
    hidden, wanted = 9 * torch.randn(positions, 6), torch.randint(0, vocabulary, (positions,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_ROWS", {"cpu": rows})
        patch.setattr(head, "_TILE_BYTES", {"cpu": kilobytes << 10})
        got = head.target_logprobs(matrix, lambda logits: logits.div_(3).tanh_().mul_(3), hidden, wanted)
    logits = torch.tanh(matrix(hidden) / 3) * 3
    assert torch.allclose(got, logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0], atol=1e-5)


@pytest.mark.parametrize("tile_bytes", [1 << 10, 8 << 20])
def test_a_narrow_type_rounds_no_sure_token_away(tile_bytes):
    """Logits of some 40 have steps of 0.25 in bfloat16; the log-probability of a token that leads by 12 is all but 0."""
    torch.manual_seed(0)
    matrix = torch.nn.Linear(64, 700, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    wanted = torch.randint(0, 700, (50,))
    directions = torch.nn.functional.normalize(matrix.weight.float(), dim=1)
    hidden = (60 * directions[wanted]).to(torch.bfloat16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_TILE_BYTES", {"cpu": tile_bytes})
        got = head.target_logprobs(matrix, lambda logits: logits, hidden, wanted)
    exact = (hidden.double() @ matrix.weight.double().t()).log_softmax(-1).gather(1, wanted[:, None])[:, 0]
    assert exact.min() > -0.02 and got.max() <= 1e-5
    assert (got - exact).abs().max() < 1e-3
