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
