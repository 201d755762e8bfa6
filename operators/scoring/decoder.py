"""The decoder of a known transformers architecture, run over a pack of trie segments instead of padded sequences.

The weights are the model's own; the walk through them is ours, because attention needs to know the segments, because the last
layer is needed at target positions alone, and because on a CPU a pass over memory that need not be made is time: norms,
activations and residuals are computed in place, into buffers that all layers share. A probe compares every model that is run in
this way with its own logits before it is (`operators/scoring/scorer.py`).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from operators.scoring.attention import Layout, attend
from operators.scoring.batching import RotationChange

# Pre-norm decoders with rotary positions in halves and a gated feed-forward part. Others run as transformers runs them.
FAMILIES = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text"}
_LAYER_TYPES = {"full_attention", "sliding_attention"}
# Rotations that depend on the longest sequence of a batch, by names old and new.
_ROPE_BY_LENGTH = {"dynamic", "longrope", "su"}

Rotation = tuple[torch.Tensor, torch.Tensor]  # cosines and sines, [T, 1, D / 2] each


def walkable(model: Any) -> bool:
    """Whether the decoder is one that `Decoder` knows how to run."""
    config = model.config.get_text_config()
    return (
        config.model_type in FAMILIES
        and set(getattr(config, "layer_types", None) or []) <= _LAYER_TYPES
        and not rotation_changes(config)
        and not getattr(config, "attn_logit_softcapping", None)
        and not getattr(config, "use_bidirectional_attention", False)
        and all(type(module) is torch.nn.Linear for layer in model.get_decoder().layers for module in _products(layer))
    )


def rotation_changes(config: Any) -> tuple[RotationChange, ...]:
    """Where the rotations of a model change with the longest sequence of a batch, by its text configuration."""
    changes = set()
    for key in ("rope_parameters", "rope_scaling"):  # the second in models that bring their own code
        rope = getattr(config, key, None) or {}
        for settings in (rope, *rope.values()):
            kind = settings.get("rope_type", settings.get("type")) if isinstance(settings, dict) else None
            if kind in _ROPE_BY_LENGTH:
                changes.add(RotationChange(_original_positions(config, settings, kind), each=kind == "dynamic"))
    return tuple(sorted(changes, key=lambda change: (change.above, change.each)))


def _original_positions(config: Any, settings: dict[str, Any], kind: str) -> int:
    """How long a sequence may be before its rotations change; 0 where nothing says so."""
    key = "original_max_position_embeddings"
    # Dynamic ones reckon from the positions of the model, whatever their settings say.
    original = None if kind == "dynamic" else settings.get(key) or getattr(config, key, None)
    return int(original or getattr(config, "max_position_embeddings", None) or 0)


def window_of(layer: Any, config: Any) -> int | None:
    """How many positions back a layer sees, as its family's code reads it; None: all. A configuration may name a window that
    the family does not know."""
    of_layer = hasattr(layer.self_attn, "sliding_window") or config.model_type != "mistral"
    window: int | None = getattr(layer.self_attn if of_layer else config, "sliding_window", None)
    return window


def _products(layer: Any) -> list[Any]:
    """The modules of a layer that are taken for plain matrix products; None for those that it has not got."""
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    return [getattr(attention, name, None) for name in ("q_proj", "k_proj", "v_proj", "o_proj")] + [
        getattr(mlp, name, None) for name in ("gate_proj", "up_proj", "down_proj")
    ]


@dataclass(frozen=True)
class _Turned:
    """Queries and keys of a layer with the two halves of each rotated pair brought side by side.

    A rotation is then one complex product, four times as fast on a CPU as products of halves. Scores do not change: they are
    sums over dimensions, and queries and keys are reordered alike.
    """

    q_proj: torch.nn.Linear
    k_proj: torch.nn.Linear
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None


class Decoder:
    """A walk through the layers of `model` (transformers; `walkable`)."""

    def __init__(self, model: Any):
        self._config = model.config.get_text_config()
        self._model = model.get_decoder()
        self._layers = list(self._model.layers[: self._config.num_hidden_layers])
        self._typed_rope = "layer_type" in inspect.signature(self._model.rotary_emb.forward).parameters
        types = getattr(self._config, "layer_types", None) or [None] * len(self._layers)
        self._types = types[: len(self._layers)]
        self._windows = [window_of(layer, self._config) for layer in self._layers]
        first = self._layers[0].self_attn.q_proj.weight
        self._turned = (
            [_turn(layer.self_attn) for layer in self._layers]
            if first.dtype == torch.float32 and first.device.type == "cpu"
            else None
        )
        # Gemma's norms scale by one plus the weight.
        self._norm_offset = 1.0 if self._config.model_type.startswith("gemma") else 0.0

    def hidden(self, ids_T: torch.Tensor, layout: Layout, wanted_M: torch.Tensor) -> torch.Tensor:
        """Final hidden states [M, C] at the places `wanted_M` of the pack, after the final norm."""
        h_TC = self._model.embed_tokens(ids_T)
        rotations = {kind: self._rotation(h_TC, layout, kind) for kind in set(self._types)}
        last = len(self._layers) - 1
        x_TC = torch.empty_like(h_TC)
        gated: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for number, (layer, kind) in enumerate(zip(self._layers, self._types, strict=True)):
            self._norm(layer.input_layernorm, h_TC, out=x_TC)
            mixed = self._attention(number, x_TC, layout, rotations[kind])
            if number == last:
                h_TC, mixed = h_TC.index_select(0, wanted_M), mixed.index_select(0, wanted_M)
                x_TC = torch.empty_like(h_TC)
            self._add_attention(layer, h_TC, mixed)
            self._add_feed_forward(layer, h_TC, x_TC, gated)
        return self._norm(self._model.norm, h_TC, out=x_TC)

    def _rotation(self, h_TC: torch.Tensor, layout: Layout, kind: str | None) -> Rotation:
        typed = (kind,) if self._typed_rope else ()
        cos, sin = self._model.rotary_emb(h_TC[None], layout.positions[None], *typed)
        half = cos.shape[-1] // 2  # both halves of the table are equal
        return cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous()

    def _norm(
        self, module: Any, x: torch.Tensor, out: torch.Tensor | None = None, weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Root mean square norm: three passes over x, its statistics in float32. Where its family keeps the weight in float32
        too, all of it is rounded once, at the end."""
        eps = module.variance_epsilon if hasattr(module, "variance_epsilon") else module.eps
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
        scale = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        out = torch.empty_like(x) if out is None else out
        weight = module.weight if weight is None else weight
        if self._norm_offset:
            if x.dtype != torch.float32:
                return out.copy_((x * scale).mul_(weight.float() + self._norm_offset))
            weight = weight + self._norm_offset
        return torch.mul(x, scale, out=out).mul_(weight)

    def _attention(self, number: int, x_TC: torch.Tensor, layout: Layout, rotation: Rotation) -> torch.Tensor:
        block = self._layers[number].self_attn
        turned = self._turned[number] if self._turned else None
        source, rotate = (turned, _rotate_pairs) if turned else (block, _rotate_halves)
        q, k, v = (
            project(x_TC).unflatten(-1, (-1, block.head_dim))
            for project in (source.q_proj, source.k_proj, block.v_proj)
        )
        if hasattr(block, "q_norm"):
            q = self._norm(block.q_norm, q, weight=turned.q_norm if turned else None)
            k = self._norm(block.k_norm, k, weight=turned.k_norm if turned else None)
        q, k = rotate(q, *rotation), rotate(k, *rotation)
        return attend(q, k, v, layout, block.scaling, self._windows[number]).flatten(1)

    def _add_attention(self, layer: Any, h_TC: torch.Tensor, mixed_TE: torch.Tensor) -> None:
        project = layer.self_attn.o_proj
        if hasattr(layer, "pre_feedforward_layernorm"):  # Gemma 3 has norms on both sides
            h_TC.add_(self._norm(layer.post_attention_layernorm, project(mixed_TE)))
        else:
            _add_linear(h_TC, project, mixed_TE)

    def _add_feed_forward(
        self, layer: Any, h_TC: torch.Tensor, x_TC: torch.Tensor, gated: dict[int, tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        """Add the feed-forward part; `gated` keeps its two wide buffers from layer to layer."""
        mlp = layer.mlp
        if len(h_TC) not in gated:
            wide = (len(h_TC), mlp.gate_proj.out_features)
            gated[len(h_TC)] = h_TC.new_empty(wide), h_TC.new_empty(wide)
        gate, up = gated[len(h_TC)]
        both = hasattr(layer, "pre_feedforward_layernorm")
        self._norm(layer.pre_feedforward_layernorm if both else layer.post_attention_layernorm, h_TC, out=x_TC)
        _linear(mlp.gate_proj, x_TC, out=gate)
        _linear(mlp.up_proj, x_TC, out=up)
        up.mul_(functional.silu(gate, inplace=True) if isinstance(mlp.act_fn, torch.nn.SiLU) else mlp.act_fn(gate))
        if both:
            h_TC.add_(self._norm(layer.post_feedforward_layernorm, mlp.down_proj(up)))
        else:
            _add_linear(h_TC, mlp.down_proj, up)


def _linear(module: torch.nn.Linear, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    if module.bias is None:
        return torch.mm(x, module.weight.t(), out=out)
    return torch.addmm(module.bias, x, module.weight.t(), out=out)


def _add_linear(h: torch.Tensor, module: torch.nn.Linear, x: torch.Tensor) -> None:
    h.addmm_(x, module.weight.t())
    if module.bias is not None:
        h.add_(module.bias)


def _turn(block: Any) -> _Turned:
    # All of these families rotate whole heads.
    order = torch.arange(block.head_dim).view(2, -1).t().flatten()

    def project(module: torch.nn.Linear) -> torch.nn.Linear:
        rows = (torch.arange(0, module.out_features, block.head_dim)[:, None] + order).flatten()
        result = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None, device="meta")
        result.weight = torch.nn.Parameter(module.weight[rows], requires_grad=False)
        if module.bias is not None:
            result.bias = torch.nn.Parameter(module.bias[rows], requires_grad=False)
        return result

    norms = [getattr(block, name).weight[order] if hasattr(block, name) else None for name in ("q_norm", "k_norm")]
    return _Turned(project(block.q_proj), project(block.k_proj), *norms)


def _rotate_pairs(x_THD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x_THD.view(*x_THD.shape[:-1], -1, 2))
    return torch.view_as_real(pairs.mul_(torch.complex(cos, sin))).flatten(-2)


def _rotate_halves(x_THD: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    a, b = x_THD.chunk(2, dim=-1)
    result = torch.empty_like(x_THD)
    first, second = result.chunk(2, dim=-1)
    torch.mul(a, cos, out=first).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=second).addcmul_(a, sin)
    return result
