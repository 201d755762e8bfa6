"""Layers that carry a state along a sequence (linear attention, state spaces, short convolutions) over a pack of trie segments.

Transformers' own modules go on from a state that a cache holds. Here a segment goes on from the state that the segment above it
left, in one call for many segments: those with children level by level, since a state is that after the last token and none may
be padding, and then all others, padded on the right, where nobody asks for what they leave.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from operators.scoring.attention import Bucket, Layout

_TOGETHER = 32  # segments whose states are copied at once: some 2 MB apiece


@dataclass(frozen=True)
class Step:
    """Segments that are run at once: where they stand, whose states they go on from (numbers [n]; None at roots), and under
    which numbers they leave theirs ([n]; None where nobody asks)."""

    bucket: Bucket
    carried: torch.Tensor | None
    left: torch.Tensor | None


def steps_of(layout: Layout) -> list[Step]:
    """All segments of a pack, those above before those below. The states of segments with children are numbered from 0 on."""
    parent, width = layout.parent, layout.width
    inner = np.unique(parent[parent >= 0])
    number = np.full(len(parent), -1)
    number[inner] = np.arange(len(inner))
    level = np.zeros(len(parent), dtype=np.int64)
    for segment, above in enumerate(parent.tolist()):  # parents stand before children
        level[segment] = level[above] + 1 if above >= 0 else 0
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for segment in inner.tolist():
        alike[int(level[segment]), int(width[segment])].append(segment)
    ends = np.setdiff1d(np.arange(len(parent)), inner)
    groups = [np.array(alike[key]) for key in sorted(alike)]
    groups += [group for below in (False, True) for group in layout.by_length(ends[(parent[ends] >= 0) == below])]
    steps = []
    for group in groups:
        for start in range(0, len(group), _TOGETHER):
            members = group[start : start + _TOGETHER]
            above = parent[members]
            carried = layout.to_device(number[above]) if above[0] >= 0 else None
            left = layout.to_device(number[members]) if number[members[0]] >= 0 else None
            steps.append(Step(layout.bucket_of(members), carried, left))
    return steps


class _Carried:
    """What transformers' layers call a cache, of one layer and the segments of one step: states by their kind and their number
    in the layer.

    "conv": the last inputs of a convolution, [n, D, width of the kernel]; "recurrent": [n, H, K, V].
    """

    def __init__(self, states: dict[tuple[str, int], torch.Tensor]):
        self.states = states

    def get_conv_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        return self.states.get(("conv", state_idx))

    def get_recurrent_state(self, layer_idx: int, state_idx: int = 0) -> torch.Tensor | None:
        return self.states.get(("recurrent", state_idx))

    def is_recording_past(self, layer_idx: int) -> bool:
        return False

    def update_conv_state(
        self, inputs: torch.Tensor, layer_idx: int, state_idx: int = 0, *, conv_kernel_size: int, **_: Any
    ) -> torch.Tensor:
        before = self.get_conv_state(layer_idx, state_idx)
        if before is None:
            before = inputs.new_zeros((*inputs.shape[:2], conv_kernel_size))
        whole = torch.cat([before, inputs], dim=-1)
        self.states["conv", state_idx] = whole[..., -conv_kernel_size:]
        return whole

    def update_recurrent_state(self, state: torch.Tensor, layer_idx: int, state_idx: int = 0, **_: Any) -> torch.Tensor:
        self.states["recurrent", state_idx] = state
        return state


def _over_segments(
    forward: Any, cache_key: str, steps: list[Step], hidden_states: torch.Tensor, **_: Any
) -> torch.Tensor:
    """What a layer's module gives for each token [1, T, C] of a pack, given its forward function."""
    hidden_TC = hidden_states[0]
    result = torch.empty_like(hidden_TC)
    count = sum(len(step.left) for step in steps if step.left is not None)
    kept: dict[tuple[str, int], torch.Tensor] = {}
    for step in steps:
        bucket = step.bucket
        above = step.carried
        carried = _Carried({} if above is None else {key: state[above] for key, state in kept.items()})
        of_segments = hidden_TC.index_select(0, bucket.padded).view(*bucket.shape, -1)
        mixed = forward(hidden_states=of_segments, attention_mask=None, **{cache_key: carried}).flatten(0, 1)
        result.index_copy_(0, bucket.places, mixed if bucket.real is None else mixed.index_select(0, bucket.real))
        if step.left is not None:
            for key, state in carried.states.items():
                if key not in kept:
                    kept[key] = state.new_empty((count, *state.shape[1:]))
                kept[key].index_copy_(0, step.left, state)
    return result[None]


def carrying(decoder: torch.nn.Module) -> dict[torch.nn.Module, str]:
    """The modules of a decoder that carry a state from token to token, and what each calls the cache that it takes."""
    return {module: key for module in decoder.modules() if (key := _cache_key(module)) is not None}


def _cache_key(module: torch.nn.Module) -> str | None:
    parameters = inspect.signature(module.forward).parameters
    if "cache_params" in parameters:
        return "cache_params"
    # Attention takes one of that name too, and short convolutions (LFM 2).
    return "past_key_values" if "past_key_values" in parameters and hasattr(module, "conv_kernel_size") else None


@contextmanager
def states_of_segments(modules: dict[torch.nn.Module, str], layout: Layout) -> Iterator[None]:
    """The modules carry their states along the paths of a pack."""
    steps = steps_of(layout) if modules else []
    own = {module: vars(module)["forward"] for module in modules if "forward" in vars(module)}  # not their class's
    try:
        for module, cache_key in modules.items():
            module.forward = partial(_over_segments, module.forward, cache_key, steps)
        yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)
        for module, forward in own.items():
            module.forward = forward
