"""How many tokens may go through a model at once: as many as are fast, and no more than its device has memory for.

An estimate that errs on the safe side is enough: where it is wrong, batches are halved when memory runs out
(`operators/scoring/scorer.py`), which costs time and changes last digits.
"""

from __future__ import annotations

from typing import Any

import torch

from operators.scoring.head import tiled

FAST = {"cpu": 4096, "cuda": 65536}  # more tokens at once bring nothing
_FIXED = 2 << 30  # beside what grows with tokens: tiles of logits, workspaces of kernels, the context of the device
_SPARE = 1.5  # what allocators lose, and layouts of attention


def batch_tokens(model: Any, share: float = 1.0) -> int:
    """Tokens of a batch for a loaded model that may use `share` of its device's memory."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        return FAST["cpu"]
    free, total = torch.cuda.mem_get_info(device)
    # What others on the same device have not taken yet is theirs all the same.
    ours = min(free, int(total * share) - torch.cuda.memory_allocated(device))
    return tokens_that_fit(model, ours, FAST["cuda"])


def tokens_that_fit(model: Any, free: int, fast: int) -> int:
    """At most `fast` tokens, and as many as `free` bytes are enough for; at least 1."""
    return max(1, min(fast, int((free - _FIXED) / bytes_per_token(model))))


def bytes_per_token(model: Any) -> float:
    """Bytes that one more token of a batch takes at most at any time: activations of one layer, since none are kept."""
    config = model.config.get_text_config()
    hidden = config.hidden_size
    heads = getattr(config, "num_attention_heads", 1)
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    queries = heads * head_dim
    keys = (getattr(config, "num_key_value_heads", None) or heads) * head_dim
    wide = getattr(config, "intermediate_size", None) or 4 * hidden
    # Residuals, norm and output; queries, keys and values before and after rotation, gathered again for what is shared; two
    # attention outputs; two wide activations and one in passing.
    values = 4 * hidden + 3 * (queries + 2 * keys) + 2 * queries + 3 * wide
    logits = 0 if tiled(model) and model.get_decoder() is not model else 2 * 4 * config.vocab_size
    return float(_SPARE * (values * next(model.parameters()).element_size() + logits))
