"""Log-probabilities of target ids from final hidden states, without ever holding full logits.

The vocabulary is cut into tiles whose logits stay in cache; their log-sum-exps are merged, in float32 whatever the model's
dtype. The logit of a target is one scalar product with its row of the head, in float32, and that is also what stands for it in
the sum: rounded there alone, a narrow type would move the log-probability of a token that is all but sure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Finish = Callable[[torch.Tensor], torch.Tensor]

# Positions in one matrix product, and float32 logits held at once. On a CPU a tile stays in the cache of its cores, and enough
# positions share each reading of the head's weights.
_ROWS = {"cpu": 1024, "cuda": 8192}
_TILE_BYTES = {"cpu": 8 << 20, "cuda": 512 << 20}
_GATHERED = 256  # positions whose logits are held whole


def tiled(model: Any) -> bool:
    """Whether the output head is a plain matrix, with or without a bias."""
    return type(model.get_output_embeddings()) is torch.nn.Linear


def finish_of(model: Any) -> Finish:
    """What the model's configuration says is done to logits after the head, in place where it does something."""
    config = model.config.get_text_config()

    def named(key: str) -> float:
        return getattr(config, key, None) or 1.0

    scale = named("logit_scale") * named("lm_head_multiplier") / named("logits_scaling")
    cap = getattr(config, "final_logit_softcapping", None)

    def finish(logits: torch.Tensor) -> torch.Tensor:
        logits = logits.mul_(scale) if scale != 1.0 else logits
        return logits.div_(cap).tanh_().mul_(cap) if cap else logits

    return finish


def target_logprobs(
    head: torch.nn.Linear, finish: Finish, hidden_MC: torch.Tensor, wanted_M: torch.Tensor
) -> torch.Tensor:
    """Float32 [M]: log p(wanted) at each position."""
    device = hidden_MC.device.type
    rows = _ROWS.get(device, 1024)
    parts = [
        _logprobs(
            head,
            finish,
            hidden_MC[start : start + rows],
            wanted_M[start : start + rows],
            _TILE_BYTES.get(device, 8 << 20),
        )
        for start in range(0, len(wanted_M), rows)
    ]
    return torch.cat(parts) if parts else hidden_MC.new_zeros(0, dtype=torch.float32)


def gathered_logprobs(
    head: torch.nn.Module, finish: Finish, hidden_MC: torch.Tensor, wanted_M: torch.Tensor
) -> torch.Tensor:
    """As `target_logprobs`, by the head's own forward: of one that is split over devices, which gathers the logits of all."""
    parts = []
    for start in range(0, len(wanted_M), _GATHERED):
        logits = finish(head(hidden_MC[start : start + _GATHERED]).float())
        parts.append(chosen_logprobs(logits, wanted_M[start : start + _GATHERED]))
    return torch.cat(parts) if parts else hidden_MC.new_zeros(0, dtype=torch.float32)


def chosen_logprobs(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Float32 [M] of logits [M, V] and ids [M]: log p(id) at each position."""
    logits = logits.float()
    return logits.gather(1, wanted[:, None]).squeeze(1) - logits.logsumexp(dim=1)


def _logprobs(
    head: torch.nn.Linear, finish: Finish, hidden_RC: torch.Tensor, wanted_R: torch.Tensor, tile_bytes: int
) -> torch.Tensor:
    weight_VC, bias_V = head.weight, head.bias
    width = max(256, tile_bytes // (4 * len(wanted_R)))
    highest = torch.full(wanted_R.shape, -torch.inf, dtype=torch.float32, device=hidden_RC.device)
    total = torch.zeros_like(highest)
    logits = hidden_RC.new_empty(len(wanted_R), min(width, len(weight_VC)))
    wanted_logits_R = (hidden_RC.float() * weight_VC[wanted_R].float()).sum(1)
    for start in range(0, len(weight_VC), width):
        tile_VC = weight_VC[start : start + width]
        tile = logits if len(tile_VC) == logits.shape[1] else hidden_RC.new_empty(len(wanted_R), len(tile_VC))
        torch.mm(hidden_RC, tile_VC.t(), out=tile)
        exact = tile.float()
        if tile.dtype != torch.float32:
            _put_exact(exact, wanted_R - start, wanted_logits_R)
        if bias_V is not None:
            exact.add_(bias_V[start : start + width])
        finish(exact)
        above = torch.maximum(highest, exact.amax(1))
        total = total * torch.exp(highest - above) + exact.sub_(above[:, None]).exp_().sum(1)
        highest = above
    if bias_V is not None:
        wanted_logits_R += bias_V[wanted_R]
    return finish(wanted_logits_R) - highest - total.log()


def _put_exact(tile_RV: torch.Tensor, places_R: torch.Tensor, logits_R: torch.Tensor) -> None:
    """Put the logit of each row at its place, where the tile holds it; no step waits for the device."""
    inside = (places_R >= 0) & (places_R < tile_RV.shape[1])
    column = places_R.clamp(0, tile_RV.shape[1] - 1)[:, None]
    tile_RV.scatter_(1, column, torch.where(inside[:, None], logits_R[:, None], tile_RV.gather(1, column)))
