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
_CHUNK = 64  # tokens of a chunk where a configuration does not say (linear attention)
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


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
    layers = config.per_layer_config if getattr(config, "is_heterogeneous", False) else [config]
    values = max(_values(layer) for layer in layers) + _of_all_layers(config)
    logits = 0 if tiled(model) and model.get_decoder() is not model else 2 * 4 * config.vocab_size
    float32_bytes = 4 * max(_float32_values(layer) for layer in layers)
    return float(_SPARE * (values * next(model.parameters()).element_size() + float32_bytes + logits))


def _values(layer: Any) -> int:
    """Values that a token has in a layer of this configuration at once."""
    hidden, heads = layer.hidden_size, _width(layer, "num_attention_heads") or 1
    head_dim = _width(layer, "head_dim") or hidden // heads
    queries, keys = heads * head_dim, (_width(layer, "num_key_value_heads") or heads) * head_dim
    wide = _width(layer, "intermediate_size") or 4 * hidden
    chosen = (_width(layer, "num_experts_per_tok") or 0) if _width(layer, *_EXPERTS) else 0
    of_expert = _width(layer, "moe_intermediate_size") or wide
    # Residuals, norm and output; queries, keys and values before and after rotation, gathered again for what is shared; two
    # attention outputs; two wide activations and one in passing; for each expert its input and output, and as much as that of
    # wide ones.
    return int(4 * hidden + 3 * (queries + 2 * keys) + 2 * queries + 3 * wide + chosen * (2 * hidden + 4 * of_expert))


def _float32_values(layer: Any) -> int:
    """Values that a layer with a state holds of a token in float32, whatever the type of the weights: what goes into the state
    and comes out of it, with and without its decay, and what a token is to each of the chunk that it is computed with."""
    heads = _width(layer, "linear_num_value_heads", "mamba_n_heads", "mamba_num_heads", "n_mamba_heads") or 0
    keys = _width(layer, "linear_key_head_dim", "mamba_d_state", "ssm_state_size") or 0
    values = _width(layer, "linear_value_head_dim", "mamba_d_head", "mamba_head_dim", "mamba_headdim") or 0
    chunk = _width(layer, "mamba_chunk_size", "chunk_size") or _CHUNK
    return int(heads * (7 * keys + 4 * values + 4 * chunk))


def _of_all_layers(config: Any) -> int:
    """Values of a token that stay from the first layer to the last: inputs of each layer, and further residuals (Gemma 3n)."""
    each = _width(config, "hidden_size_per_layer_input") or 0
    residuals = _width(config, "altup_num_inputs") or 0
    return int(2 * each * config.num_hidden_layers + 3 * residuals * config.hidden_size)


def _width(config: Any, *names: str) -> int | None:
    """The first of these numbers that a configuration has; of a list of numbers, one a layer, the largest."""
    value = next((value for name in names if (value := getattr(config, name, None))), None)
    return max(value) if isinstance(value, list | tuple) else value
