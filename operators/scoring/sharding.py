"""Which models may be split over several devices, each with a slice of every layer (tensor parallelism, by transformers' plan).

A plan that forgets a part of a family gives other numbers and says nothing, so the families are those that were compared, split
and whole (`tests/benchmarks/sharded_families.py`).
"""

from __future__ import annotations

import importlib.util
from typing import Any

FAMILIES = {
    "apertus",
    "arcee",
    "cohere2",
    "cwm",
    "ernie4_5",
    "exaone4",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "glm4_moe",
    "gpt_neox",
    "granite",
    "granitemoe",
    "helium",
    "internlm3",
    "iquestcoder",
    "llama",
    "ministral",
    "ministral3",
    "mistral",
    "mixtral",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "seed_oss",
    "smollm3",
    "starcoder2",
    "vaultgemma",
}


def is_sharded(model: Any) -> bool:
    """Whether a loaded model is a slice of one that is split over several processes."""
    return (getattr(model, "tp_size", None) or 1) > 1


def split_over(shards: int) -> Any:
    """What transformers is told to split a model over so many processes; raises TypeError where its release cannot."""
    from transformers.distributed.configuration_utils import DistributedConfig

    return DistributedConfig(tp_size=shards)


def sharding_problem(config: Any, shards: int) -> str | None:
    """Why a model of this configuration cannot be split over so many devices, or None where it can."""
    if config.model_type not in FAMILIES:
        return (
            f"models of type {config.model_type!r} are not known to give their own numbers when they are split; accepted: "
            f"{', '.join(sorted(FAMILIES))}; or ray.gpus_per_scorer: 1"
        )
    if getattr(config, "quantization_config", None):
        return "the weights are quantised, and those are not split; accepted: weights in bfloat16, float16 or float32"
    for key in ("num_attention_heads", "num_key_value_heads"):
        heads = getattr(config, key, None)
        if isinstance(heads, int) and heads % shards:
            return f"the {heads} {key} cannot be split over {shards} devices; accepted: a number that divides them"
    if importlib.util.find_spec("accelerate") is None:
        return "it is split with the package accelerate, which is not installed; install task-specificity[sharded]"
    try:
        split_over(shards)
    except TypeError:
        return "this release of transformers cannot split it; accepted: 5.23 or newer"
    return None
