"""The scorer that settings name: a model on one device, one that is split over several, or one behind a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from operators.scoring.server_scorer import ServerScorer, scorer_of

if TYPE_CHECKING:
    from operators.scoring.scorer import TargetScorer
    from operators.scoring.sharded_scorer import ShardedScorer

# What has the methods and accounts of a `TargetScorer`.
Scorer: TypeAlias = "TargetScorer | ShardedScorer | ServerScorer"


def load_scorer(
    model: dict[str, Any],
    asked_tokens: int | str,
    longest: int | None,
    *,
    gpus: float = 0.0,
    threads: int | None = None,
) -> Scorer:
    """The scorer of a process that holds `gpus` (0: it computes on a GPU that happens to be there, or the CPU with `threads`).

    `model` has the arguments of `models.load_model`, or `server` alone; `asked_tokens` of a batch are a number or `auto`;
    `longest` is as for `TargetScorer`. Raises ModelProblem, NoGpu, ShardsEnded.
    """
    if "server" in model:
        return scorer_of(model["server"])
    # Behind a server no torch is needed.
    import torch

    from operators.scoring.batch_budget import batch_tokens
    from operators.scoring.models import device_of, load_model
    from operators.scoring.scorer import TargetScorer
    from operators.scoring.sharded_scorer import ShardedScorer

    if threads is not None:
        torch.set_num_threads(threads)
    device, automatic = device_of(gpu=gpus > 0), asked_tokens == "auto"
    if gpus > 1:
        return ShardedScorer(model, int(gpus), None if automatic else int(asked_tokens), longest)
    loaded = load_model(**model, device=device)
    tokens = batch_tokens(loaded, gpus or 1.0) if automatic else int(asked_tokens)
    return TargetScorer(loaded, tokens, longest=longest)
