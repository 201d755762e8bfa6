"""Whether a model may be split over several devices, each with a slice of every layer: transformers' tensor parallelism."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

from operators.scoring.model_families import SPLIT, has_own_code

_OLDEST = (5, 23)  # release of transformers, by which the families were compared


def is_sharded(model: Any) -> bool:
    """Whether a loaded model is a slice of one that is split over several processes."""
    return (getattr(model, "tp_size", None) or 1) > 1


def split_over(shards: int) -> Any:
    """What transformers is told to split a model over so many processes."""
    from transformers.distributed.configuration_utils import DistributedConfig

    return DistributedConfig(tp_size=shards)


def all_agree(answer: bool, device: Any) -> bool:
    """Whether all processes of a sharded model answer yes: what they do next has to be the same."""
    import torch

    yes = torch.tensor([int(answer)], device=device)
    torch.distributed.all_reduce(yes, torch.distributed.ReduceOp.MIN)
    return bool(yes.item())


def sharding_problem(config: Any, shards: int, *, trust_remote_code: bool = False) -> str | None:
    """Why a model of this configuration cannot be split over so many devices, or None where it can."""
    kind = config.model_type
    if has_own_code(config, trust_remote_code=trust_remote_code):
        return "its own code is not known to give its own numbers when it is split; accepted: ray.gpus_per_scorer: 1"
    if kind not in SPLIT:
        return (
            f"models of type {kind!r} are not known to give their own numbers when they are split; accepted: "
            f"{', '.join(sorted(SPLIT))}; or ray.gpus_per_scorer: 1"
        )
    if kind == "gpt_neox" and config.tie_word_embeddings:
        return "a GPT-NeoX model whose head is its embedding cannot be split; accepted: ray.gpus_per_scorer: 1"
    if getattr(config, "quantization_config", None):
        return "the weights are quantised, and those are not split; accepted: weights in bfloat16, float16 or float32"
    for key in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, key, None)
        if isinstance(heads, int) and heads % shards:
            return f"the {heads} {key} cannot be split over {shards} devices; accepted: a number that divides them"
    if importlib.util.find_spec("accelerate") is None:
        return "it is split with the package accelerate, which is not installed; install task-specificity[sharded]"
    release = importlib.metadata.version("transformers")
    if tuple(int(number) for number in release.split(".")[:2]) < _OLDEST:
        return f"transformers {release} cannot split it; accepted: 5.23 or newer"
    return None
