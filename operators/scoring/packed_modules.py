"""The decoder of a transformers model over a pack of trie segments: its own modules, and attention of ours.

Transformers lets a model's attention be any function (`AttentionInterface`). Ours sees the segments of a pack; rotations,
norms, experts, scalings and whatever else a family does stay the family's own code. `operators/scoring/decoder.py` walks
through the layers of a few families by itself, which is faster. A probe compares every model with its own logits before it is
run in either way (`operators/scoring/scorer.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from operators.scoring.attention import Layout, attend
from operators.scoring.decoder import rotation_changes
from operators.scoring.model_families import PACKED
from operators.scoring.recurrent import carrying, states_of_segments

_NAME = "trie_segments"


def packable(model: Any) -> bool:
    """Whether the decoder is one that `PackedModules` knows how to run."""
    config = model.config.get_text_config()
    return config.model_type in PACKED and not rotation_changes(config)


class PackedModules:
    """The decoder of `model` (transformers; `packable`)."""

    def __init__(self, model: Any):
        self._decoder = model.get_decoder()
        self._carrying = carrying(self._decoder)

    def hidden(self, ids_T: torch.Tensor, layout: Layout, wanted_M: torch.Tensor) -> torch.Tensor:
        """Final hidden states [M, C] at the places `wanted_M` of the pack, after the final norm."""
        with _attention_of_ours(self._decoder.config), states_of_segments(self._carrying, layout):
            result = self._decoder(
                input_ids=ids_T[None], position_ids=layout.positions[None], use_cache=False, trie_layout=layout
            )
        hidden_TC: torch.Tensor = result.last_hidden_state[0]
        return hidden_TC[wanted_M]


@contextmanager
def _attention_of_ours(config: Any) -> Iterator[None]:
    """The model with this module's attention; without a mask, since none is registered under its name."""
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    trie_layout: Layout,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls attention: query [1, H, T, D], key and value [1, G, T, D] to [1, T, H, D]."""
    q_THD, k_TGD, v_TGD = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    return attend(q_THD, k_TGD, v_TGD, trie_layout, scale, sliding_window, softcap, s_aux)[None], None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
