"""What a scorer costs, from its configuration alone: its weights are neither read nor downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from operators.scoring.batch_budget import FAST, bytes_per_token
from operators.scoring.models import empty_model
from operators.scoring.packed_modules import packable


@dataclass(frozen=True)
class Outline:
    """A causal LM: its `parameters`; those of them that `work` on each token, which a table of embeddings that only looks rows
    up does not, nor an expert that a token does not go to; `token_bytes`, what one more token of a batch takes at most in
    float32; whether prefixes that sequences share are computed once (`packed`)."""

    parameters: int
    working: int
    token_bytes: float
    packed: bool

    def batch_tokens(self, device: str) -> int:
        """The tokens of a batch on a `cpu` or `cuda` device with memory enough."""
        return FAST[device]


def outline_of(config: Any, *, trust_remote_code: bool = False) -> Outline:
    """The outline of the model that a configuration describes. Raises what transformers raises where it cannot be made."""
    model = empty_model(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    parameters = sum(counts.values())
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    looked_up = 0 if head is None or table.weight is head.weight else table.weight.numel()
    return Outline(
        parameters=parameters,
        working=parameters - looked_up - _idle_experts(text, counts),
        token_bytes=bytes_per_token(model),
        packed=packable(model),
    )


def _idle_experts(text: Any, counts: dict[str, int]) -> int:
    """Parameters of experts that a token does not go to, where a layer has several."""
    experts = next((n for key in ("num_local_experts", "num_experts") if (n := getattr(text, key, None))), 0)
    chosen = getattr(text, "num_experts_per_tok", None)
    if not experts or not chosen:
        return 0
    of_experts = sum(count for name, count in counts.items() if ".experts." in name)
    return of_experts - of_experts * int(chosen) // int(experts)
